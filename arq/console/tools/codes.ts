// Writes src/gen/codes.ts from proto/codes.toml, the one registry of codes.

import { parse } from "smol-toml";

interface Row {
  number: number;
  name: string;
  help: string;
  retry?: string;
}

export function codes(toml: string): string {
  const registry = parse(toml) as unknown as Record<"error" | "close" | "client", Row[]>;
  const rows = [...registry.error, ...registry.close, ...registry.client].map((row) => {
    const retry = row.retry ?? (row.number < 4500 ? "later" : "never");
    const value = { name: row.name, retry, help: row.help };
    return `  [${row.number}, ${JSON.stringify(value)}],\n`;
  });
  return (
    "// @generated from proto/codes.toml by scripts/console build. Do not edit.\n\n" +
    "/** What a code means. */\n" +
    "export interface Code {\n  readonly name: string;\n" +
    '  readonly retry: "never" | "later" | "new_token";\n  readonly help: string;\n}\n\n' +
    "/** By number: errors, close codes, and those that a client raises itself. */\n" +
    `export const CODES: ReadonlyMap<number, Code> = new Map<number, Code>([\n${rows.join("")}]);\n`
  );
}
