// What goes wrong, with its number, its name and what to do: from codes.toml where it has a code.

import { CODES } from "./gen/codes.ts";
import type { Error as ErrorBody } from "./gen/arqon/v1/envelope_pb.js";

export interface Problem {
  /** The number of codes.toml, where it has one. */
  readonly code?: number;
  readonly name?: string;
  readonly message: string;
  readonly hint?: string;
}

/** A problem that has a code. Another version's code keeps its number. */
export function coded(code: number, more: { name?: string; message?: string; hint?: string } = {}): Problem {
  const known = CODES.get(code);
  const name = known?.name ?? more.name;
  const said = more.message || known?.help || `Code ${code}`;
  // A help is what happened, then what to do.
  const [first, rest] = said === known?.help ? cut(said) : [said, known?.help ?? ""];
  const hint = more.hint ?? rest;
  return { code, message: first, ...(name ? { name } : {}), ...(hint === "" ? {} : { hint }) };
}

/** The first sentence and the others. */
function cut(help: string): [first: string, rest: string] {
  const at = help.indexOf(". ");
  return at === -1 ? [help, ""] : [help.slice(0, at), help.slice(at + 2)];
}

/** An ERROR frame: the server's words, and what codes.toml says to do. */
export function fromError(error: ErrorBody): Problem {
  const more: string[] = [];
  if (error.policy !== "") more.push(`Policy ${error.policy}: ${error.reason}`);
  if (error.retryAfterMs > 0) more.push(`Try again after ${error.retryAfterMs} ms`);
  const base = coded(error.code, { name: error.name, message: error.message });
  const hint = [base.hint ?? "", ...more].filter((part) => part !== "").join(". ");
  return { ...base, ...(hint === "" ? {} : { hint }) };
}

/** How a connection ended, in words. */
export function fromClose(code: number, reason: string): Problem {
  // Below 4000 they are the standard's; errors of ours have the same numbers.
  if (code >= 4000 && CODES.has(code)) return coded(code);
  const standard = STANDARD_CLOSES.get(code);
  if (standard !== undefined) return { code, name: standard[0], message: standard[1] };
  if (code === 1006) return coded(5010);
  return { code, message: `The connection was closed with code ${code}`, ...(reason === "" ? {} : { hint: reason }) };
}

/** Those of RFC 6455 that a Shield or a proxy sends. */
const STANDARD_CLOSES: ReadonlyMap<number, readonly [string, string]> = new Map([
  [1000, ["NORMAL", "The connection was closed in good order"]],
  [1001, ["GOING_AWAY", "The server or a proxy goes away"]],
  [1002, ["PROTOCOL_ERROR", "The frame broke the WebSocket protocol"]],
  [1003, ["UNSUPPORTED_DATA", "The server does not take this kind of frame"]],
  [1007, ["INVALID_DATA", "A text frame was no UTF-8"]],
  [1008, ["POLICY_VIOLATION", "The server or a proxy refused a frame"]],
  [1009, ["MESSAGE_TOO_BIG", "The frame was larger than the server reads"]],
  [1011, ["INTERNAL_ERROR", "The server failed"]],
  [1012, ["SERVICE_RESTART", "The server restarts"]],
  [1013, ["TRY_AGAIN_LATER", "The server is overloaded"]],
]);

/** Whether a connection that ended so is opened again: 4500 to 4999 say no. */
export function reconnects(closeCode: number): boolean {
  return !(closeCode >= 4500 && closeCode <= 4999) && closeCode !== 1009;
}

/** In one line, for a log. */
export function line(problem: Problem): string {
  const head = [problem.code, problem.name].filter((part) => part !== undefined).join(" ");
  return head === "" ? problem.message : `${head}: ${problem.message}`;
}
