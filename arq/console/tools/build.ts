// Makes what is committed: the Protobuf classes, the codes, and dist/ with the page and its policy.
//
//   build.ts [--check] GENERATED   GENERATED is the folder of what protoc-gen-es wrote
//
// Only reads the tree and its packages, so the same sources and lock give the same bytes.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { build, type Plugin } from "esbuild";
import { codes } from "./codes.ts";

const console_ = dirname(import.meta.dirname);
const root = join(console_, "../..");

function read(file: string): string {
  return readFileSync(join(console_, file), "utf8");
}

function digest(text: string): string {
  return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
}

/** The policy of the page. Its header names Shield; the page itself cannot know where that is. */
function policy(script: string, style: string, connect: string): string[] {
  return [
    "default-src 'none'",
    `script-src ${digest(script)}`,
    `style-src ${digest(style)}`,
    "img-src data:",
    `connect-src ${connect}`,
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ];
}

const generated = process.argv.filter((word) => !word.startsWith("--"))[2];
const check = process.argv.includes("--check");
if (generated === undefined) throw new Error("usage: build.ts [--check] GENERATED");

const files = new Map<string, string>();
const gen = new Map([
  ...["js", "d.ts"].map((kind): [string, string] => {
    const name = `arqon/v1/envelope_pb.${kind}`;
    return [`src/gen/${name}`, readFileSync(join(generated as string, name), "utf8")];
  }),
  ["src/gen/codes.ts", codes(readFileSync(join(root, "proto/codes.toml"), "utf8"))],
]);
for (const [name, text] of gen) files.set(name, text);

// What is bundled are the fresh ones, also where a check finds others on disk.
const fresh: Plugin = {
  name: "fresh",
  setup(hooks) {
    hooks.onLoad({ filter: /\/src\/gen\/.*\.[jt]s$/ }, ({ path }) => {
      const contents = gen.get(relative(console_, path));
      return contents === undefined ? undefined : { contents, loader: "ts" };
    });
  },
};
for (const [name, text] of gen) {
  // So that imports of a file that was never written resolve.
  if (!check) write(name, text);
}

const script = await bundle("src/main.ts");
const style = await bundle("src/style.css");
if (/<\/script|<!--/i.test(script) || /<\/style/i.test(style)) throw new Error("the bundle would end its own element");
const meta = policy(script, style, "'self' ws: wss:").join("; ");
const html = read("src/index.html")
  .replace("<!-- policy -->", () => `<meta http-equiv="Content-Security-Policy" content="${meta}">`)
  .replace("<!-- style -->", () => `<style>${style}</style>`)
  .replace("<!-- script -->", () => `<script>${script}</script>`);
files.set("dist/console.html", html);
files.set("dist/console.csp", `${[...policy(script, style, "'self' {shield}"), "frame-ancestors 'none'"].join("; ")}\n`);

let stale = 0;
for (const [name, text] of files) {
  if (!check) {
    write(name, text);
  } else if (current(name) !== text) {
    console.error(`console: arq/console/${name} is not what its sources make`);
    stale++;
  }
}
if (stale > 0) {
  console.error("hint: run scripts/console build and commit");
  process.exitCode = 1;
}

async function bundle(entry: string): Promise<string> {
  const result = await build({
    absWorkingDir: console_,
    entryPoints: [entry],
    bundle: true,
    minify: true,
    write: false,
    charset: "utf8",
    format: entry.endsWith(".ts") ? "iife" : undefined,
    target: ["chrome110", "firefox115", "safari16.4"],
    legalComments: "inline",
    logLevel: "error",
    plugins: [fresh],
  } as Parameters<typeof build>[0]);
  const output = result.outputFiles?.[0]?.text;
  if (output === undefined) throw new Error(`${entry} gave nothing`);
  return output.trim();
}

function current(name: string): string | undefined {
  try {
    return read(name);
  } catch {
    return undefined;
  }
}

function write(name: string, text: string): void {
  mkdirSync(dirname(join(console_, name)), { recursive: true });
  if (current(name) !== text) writeFileSync(join(console_, name), text);
}
