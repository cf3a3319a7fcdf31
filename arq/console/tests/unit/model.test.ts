import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type Error as ErrorBody,
  EnvelopeSchema,
  ErrorSchema,
  Opcode,
  type PresenceMember,
  PresenceMemberSchema,
  PresenceMode,
} from "../../src/gen/arqon/v1/envelope_pb.js";
import { CODES } from "../../src/gen/codes.ts";
import { coded, fromClose, fromError, line, reconnects } from "../../src/problem.ts";
import { away, delay } from "../../src/retry.ts";
import { Roster } from "../../src/roster.ts";
import { Samples } from "../../src/samples.ts";
import { decode, encode, join, publish, twistId } from "../../src/wire.ts";

const member = (user: string): PresenceMember => create(PresenceMemberSchema, { user });

test("a state replaces what was known, once its last page is there", () => {
  const roster = new Roster();
  roster.state([member("a"), member("b")], 2, true, false);
  roster.state([member("c")], 2, false, false);
  assert.deepEqual([...roster.members.keys()], ["a", "b"]);
  roster.state([member("d")], 2, true, false);
  assert.deepEqual([...roster.members.keys()], ["c", "d"]);
});

test("who was there already has not come, and who was not has not left", () => {
  const roster = new Roster();
  roster.state([member("b")], 1, true, false);
  assert.deepEqual(roster.update([member("b"), member("a")], 2), ["a"]);
  assert.deepEqual(roster.sorted().map(({ user }) => user), ["a", "b"]);
  assert.deepEqual(roster.leave(["b", "x"], 1), ["b"]);
  assert.equal(roster.count, 1);
});

test("a code is told with its name and what to do", () => {
  const error = (fields: Partial<ErrorBody>): ErrorBody => create(ErrorSchema, fields as never);
  assert.deepEqual(fromError(error({ code: 3601, name: "POLICY_BLOCKED", message: "Message blocked by policy" })), {
    code: 3601,
    name: "POLICY_BLOCKED",
    message: "Message blocked by policy",
  });
  const shown = fromError(error({ code: 3601, name: "POLICY_BLOCKED", message: "Message blocked by policy", policy: "words", reason: "malware" }));
  assert.equal(shown.hint, "Policy words: malware");
  const limited = fromError(error({ code: 3701, name: "RATE_LIMITED", message: "Over the rate allowed", retryAfterMs: 250 }));
  assert.match(limited.hint ?? "", /Wait for retry_after_ms\. Try again after 250 ms$/);
  const later = fromError(error({ code: 3999, name: "FUTURE", message: "later versions" }));
  assert.equal(line(later), "3999 FUTURE: later versions");
});

test("every code of the registry has a sentence", () => {
  for (const number of CODES.keys()) {
    const { name, message } = coded(number);
    assert.ok(name !== undefined && message !== "", String(number));
  }
});

test("close codes say what they mean, and whether to come back", () => {
  assert.equal(fromClose(4001, "").name, "GOING_AWAY");
  assert.equal(fromClose(1006, "").name, "CONNECTION_LOST");
  assert.equal(fromClose(1009, "").name, "MESSAGE_TOO_BIG");
  assert.equal(fromClose(1001, "").name, "GOING_AWAY", "and not error 1001");
  assert.deepEqual(fromClose(4005, ""), { code: 4005, name: "TOKEN_EXPIRED_CLOSE", message: "The token expired and was not refreshed", hint: "Get a new one and reconnect" });
  assert.deepEqual([1006, 4001, 4499, 4500, 4999, 1009].map(reconnects), [true, true, true, false, false, false]);
  for (const [number] of [...CODES].filter(([number]) => number >= 4000 && number < 5000)) {
    assert.equal(reconnects(number), number < 4500, String(number));
  }
});

test("retries spread, and grow to a bound", () => {
  assert.ok(delay(0, 0) >= 100 && delay(0, 1) <= 250);
  assert.equal(delay(50, 1), 10_000);
  assert.ok(delay(50, 0) >= 5_000);
  assert.equal(away(100, 1_000, 0.5), 600);
});

test("a percentile is one of the values", () => {
  const samples = new Samples();
  assert.equal(samples.summary(), undefined);
  for (let ms = 1; ms <= 100; ms++) samples.add(ms);
  assert.deepEqual(samples.summary(), { last: 100, median: 50, p95: 95, count: 100 });
  for (let ms = 0; ms < 1_000; ms++) samples.add(7);
  assert.equal(samples.values.length, 120);
});

test("frames are Envelopes of the protocol", () => {
  const bytes = encode(join("lobby", { presence: PresenceMode.FULL, echo: false, meta: { name: "Ada" } }), 7n);
  const read = fromBinary(EnvelopeSchema, bytes);
  assert.deepEqual([read.op, read.room, read.ref, read.body.case], [Opcode.JOIN, "lobby", 7n, "join"]);
  const sent = fromBinary(EnvelopeSchema, encode(publish({ room: "r", payload: Uint8Array.of(0xff), headers: { a: "b" }, ack: true }), 1n));
  assert.deepEqual([[...sent.payload], sent.headers], [[0xff], { a: "b" }]);
});

test("what no server sends is no frame", () => {
  const as = (op: number): ArrayBuffer => toBinary(EnvelopeSchema, create(EnvelopeSchema, { op })).slice().buffer as ArrayBuffer;
  assert.equal(decode(as(Opcode.PONG))?.op, Opcode.PONG);
  assert.equal(decode(as(Opcode.PUBLISH)), undefined);
  assert.equal(decode(Uint8Array.of(0xff, 0xff).buffer), undefined);
  assert.equal(decode("text"), undefined);
});

test("an id of ours is a UUIDv7 with its time", () => {
  const id = twistId(0x0123456789ab, new Uint8Array(16).fill(0xff));
  assert.equal(id, "01234567-89ab-7fff-bfff-ffffffffffff");
});
