import assert from "node:assert/strict";
import { test } from "node:test";
import { clip, decode, fromHex, hexDump, pairs, plain, size, span, visible } from "../../src/text.ts";

test("what hides or reorders is shown as an escape", () => {
  assert.equal(plain('plain "ä" 日本 👩‍🚀'.replace("\u200d", "")), 'plain "ä" 日本 👩🚀');
  assert.equal(plain("a\n\x1b[2J\u202eb\u200b"), "a\\n\\u{1b}[2J\\u{202e}b\\u{200b}");
  assert.equal(plain("\u{e0041}\u00ad\u2066x\u2069\ufeff"), "\\u{e0041}\\u{ad}\\u{2066}x\\u{2069}\\u{feff}");
  assert.equal(plain("\ud800"), "\\u{d800}", "half of a pair");
  assert.deepEqual(visible("a\u202eb"), [
    { text: "a", escape: false },
    { text: "\\u{202e}", escape: true },
    { text: "b", escape: false },
  ]);
});

test("lines and tabs stay only where they may", () => {
  assert.equal(visible("a\n\tb", true).length, 1);
  assert.equal(plain("a\n\tb"), "a\\n\\tb");
  assert.deepEqual(
    visible("a\r\nb", true).map((piece) => piece.text),
    ["a", "\\r", "\nb"],
  );
});

test("bytes that are no UTF-8 are no text", () => {
  assert.equal(decode(new TextEncoder().encode("ä")), "ä");
  assert.equal(decode(Uint8Array.of(0xc3)), undefined);
  assert.equal(decode(Uint8Array.of(0xed, 0xa0, 0x80)), undefined, "half of a pair");
  assert.equal(decode(Uint8Array.of(0xef, 0xbb, 0xbf)), "\ufeff", "a mark at the beginning stays");
});

test("a text is cut by letters and by lines, and never within a pair", () => {
  assert.deepEqual(clip("short", 10, 3), { text: "short", whole: true });
  assert.deepEqual(clip("0123456789x", 10, 3), { text: "0123456789", whole: false });
  assert.deepEqual(clip("a\nb\nc\nd", 10, 3), { text: "a\nb\nc", whole: false });
  assert.deepEqual(clip("ab👩", 3, 1), { text: "ab", whole: false });
  assert.deepEqual(clip("a\nb", 10, 2), { text: "a\nb", whole: true });
});

test("a dump has sixteen bytes a row", () => {
  const dump = hexDump(Uint8Array.from({ length: 18 }, (_, at) => at + 0x3a));
  assert.deepEqual(dump.split("\n"), [
    "000000  3a 3b 3c 3d 3e 3f 40 41  42 43 44 45 46 47 48 49  :;<=>?@ABCDEFGHI",
    "000010  4a 4b                                             JK",
  ]);
  assert.equal(hexDump(new Uint8Array(100), 16).split("\n").length, 1);
});

test("hexadecimal digits are bytes, or nothing", () => {
  assert.deepEqual(fromHex("00 fF\n7e"), Uint8Array.of(0, 255, 126));
  assert.deepEqual(fromHex(""), new Uint8Array(0));
  assert.equal(fromHex("0"), undefined);
  assert.equal(fromHex("0g"), undefined);
});

test("figures have the digits that mean something", () => {
  assert.deepEqual([0, 1023, 1024, 61_440, 1_572_864].map(size), ["0 B", "1023 B", "1 KiB", "60 KiB", "1.5 MiB"]);
  assert.deepEqual([0.84, 1.236, 123.4, 2_100].map(span), ["840 µs", "1.24 ms", "123 ms", "2.1 s"]);
});

test("headers are lines, and the line that is none is named", () => {
  assert.deepEqual(pairs("a: b\n\n c :d:e\n", ":").map, { a: "b", c: "d:e" });
  assert.equal(pairs("a=1\nno", "=").wrong, "no");
  assert.equal(pairs("=1", "=").wrong, "=1");
  const strange = pairs("__proto__=1\nwrong=2", "=");
  assert.equal(strange.wrong, undefined);
  assert.deepEqual(Object.keys(strange.map), ["__proto__", "wrong"]);
});
