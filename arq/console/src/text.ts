// Others' words, made safe to look at: what would hide, reorder or imitate is shown as an escape.
// The same rule as `escaped` in arq/src/output.rs.

/** A piece of a text: as it came, or an escape for what must not be shown. */
export interface Piece {
  readonly text: string;
  readonly escape: boolean;
}

/** Ranges that hide, or reorder what stands beside them. */
const HIDDEN: readonly (readonly [number, number])[] = [
  [0x0000, 0x001f],
  [0x007f, 0x009f],
  [0x00ad, 0x00ad], // soft hyphen
  [0x034f, 0x034f], // grapheme joiner
  [0x061c, 0x061c], // Arabic letter mark
  [0x115f, 0x1160], // Hangul fillers
  [0x17b4, 0x17b5], // Khmer inherent vowels
  [0x180b, 0x180f], // Mongolian selectors
  [0x200b, 0x200f], // zero width, direction marks
  [0x2028, 0x202e], // separators, direction overrides
  [0x2060, 0x206f], // word joiner, isolates
  [0x3164, 0x3164], // Hangul filler
  [0xd800, 0xdfff], // half of a pair
  [0xfe00, 0xfe0e], // variation selectors; the one of emoji stays
  [0xfeff, 0xfeff], // byte order mark
  [0xffa0, 0xffa0], // Hangul filler
  [0xfff0, 0xfffb], // specials
  [0xe0000, 0xe0fff], // tags
];

function hides(point: number): boolean {
  return HIDDEN.some(([from, to]) => from <= point && point <= to);
}

/** The pieces of a text; where it may have lines, line feeds and tabs stay. */
export function visible(text: string, lines = false): Piece[] {
  const pieces: Piece[] = [];
  let plain = "";
  for (const letter of text) {
    const point = letter.codePointAt(0) ?? 0;
    if (!hides(point) || (lines && (letter === "\n" || letter === "\t"))) {
      plain += letter;
      continue;
    }
    if (plain !== "") pieces.push({ text: plain, escape: false });
    plain = "";
    pieces.push({ text: escapeOf(point), escape: true });
  }
  if (plain !== "") pieces.push({ text: plain, escape: false });
  return pieces;
}

function escapeOf(point: number): string {
  switch (point) {
    case 0x0a:
      return "\\n";
    case 0x0d:
      return "\\r";
    case 0x09:
      return "\\t";
    default:
      return `\\u{${point.toString(16)}}`;
  }
}

/** The same as one text, for places that take no elements. */
export function plain(text: string): string {
  return visible(text)
    .map((piece) => piece.text)
    .join("");
}

/** The text of a payload, or nothing where it is no UTF-8. */
export function decode(bytes: Uint8Array): string | undefined {
  try {
    // A mark at the beginning is a part of the message.
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** The beginning of a text and whether that is all. A pair is not cut. */
export function clip(text: string, letters: number, lines: number): { text: string; whole: boolean } {
  let end = Math.min(text.length, letters);
  let at = -1;
  for (let line = 0; line < lines; line++) {
    at = text.indexOf("\n", at + 1);
    if (at === -1 || at >= end) break;
    if (line === lines - 1) end = at;
  }
  const last = text.charCodeAt(end - 1);
  if (end < text.length && last >= 0xd800 && last < 0xdc00) end--;
  return { text: text.slice(0, end), whole: end === text.length };
}

/** Rows of sixteen bytes: offset, hexadecimal, ASCII. */
export function hexDump(bytes: Uint8Array, limit = bytes.length): string {
  const rows: string[] = [];
  for (let from = 0; from < Math.min(bytes.length, limit); from += 16) {
    const row = [...bytes.subarray(from, Math.min(from + 16, limit))];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0"));
    const halves = `${hex.slice(0, 8).join(" ")}  ${hex.slice(8).join(" ")}`;
    const ascii = row.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "."));
    rows.push(`${from.toString(16).padStart(6, "0")}  ${halves.padEnd(48)}  ${ascii.join("")}`);
  }
  return rows.join("\n");
}

/** Bytes from hexadecimal digits, with spaces as one likes; nothing where it is none. */
export function fromHex(text: string): Uint8Array | undefined {
  const digits = text.replace(/\s+/g, "");
  if (digits.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(digits)) return undefined;
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** `1,234 B`, `64 KiB`. */
export function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  const kib = bytes / 1024;
  return kib < 1024 ? `${trim(kib)} KiB` : `${trim(kib / 1024)} MiB`;
}

/** `840 µs`, `1.24 ms`, `2.1 s`: to the digits that mean something. */
export function span(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${trim(ms)} ms`;
  return `${trim(ms / 1000)} s`;
}

function trim(value: number): string {
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

/** The clock of here, to the millisecond. */
export function clock(ms: number): string {
  const date = new Date(ms);
  const two = (value: number): string => String(value).padStart(2, "0");
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return `${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** Lines of `key SEPARATOR value` as a map; the first line that is none, where there is one. */
export function pairs(text: string, separator: ":" | "="): { map: Record<string, string>; wrong?: string } {
  const found = new Map<string, string>();
  for (const line of text.split("\n")) {
    if (line.trim() === "") continue;
    const at = line.indexOf(separator);
    const key = line.slice(0, at).trim();
    if (at < 1 || key === "") return { map: {}, wrong: line.trim() };
    found.set(key, line.slice(at + 1).trim());
  }
  return { map: Object.fromEntries(found) };
}
