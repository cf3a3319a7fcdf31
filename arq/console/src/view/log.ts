// The messages of one room. One stop of the keyboard; arrows go from entry to entry.

import { button, byId, h, words } from "../dom.ts";
import type { Envelope } from "../gen/arqon/v1/envelope_pb.js";
import { type Entry, KEPT_ENTRIES, type Room } from "../rooms.ts";
import { clip, clock, decode, hexDump, size, span } from "../text.ts";

/** What a row shows of a payload; the rest is one click away. */
const ROW_LETTERS = 480;
const ROW_LINES = 6;
/** What an open entry shows at first. */
const OPEN_LETTERS = 4_000;
const OPEN_BYTES = 1_024;
/** Faster than this, reading each aloud is noise. */
const SPOKEN_PER_SECOND = 4;

export class Log {
  readonly #place = byId("log");
  readonly #follow = byId<HTMLInputElement>("follow");
  #room: Room | undefined;
  /** Entries that wait for the next frame of the screen. */
  #queue: Entry[] = [];
  #scheduled = false;
  #spoken: number[] = [];

  constructor() {
    this.#place.addEventListener("keydown", (event) => this.#key(event));
    this.#place.addEventListener("scroll", () => {
      // Who scrolls up wants to read; who comes back to the end wants to follow.
      this.#follow.checked = this.#atEnd();
    });
    this.#follow.addEventListener("change", () => {
      if (this.#follow.checked) this.#toEnd();
    });
  }

  open(room: Room | undefined): void {
    if (room === this.#room) return;
    this.#room = room;
    this.#queue = [];
    // What is old is not read aloud again.
    this.#place.setAttribute("aria-live", "off");
    this.#place.replaceChildren(...(room?.entries ?? []).map((entry) => row(entry)));
    this.#place.setAttribute("aria-label", room === undefined ? "Messages" : `Messages in ${room.name}`);
    this.#follow.checked = true;
    this.#toEnd();
    requestAnimationFrame(() => this.#place.setAttribute("aria-live", "polite"));
  }

  clear(): void {
    this.#room?.entries.splice(0);
    this.#queue = [];
    this.#place.replaceChildren();
  }

  add(room: Room, entry: Entry): void {
    if (room !== this.#room) return;
    this.#queue.push(entry);
    if (this.#queue.length > KEPT_ENTRIES) this.#queue.shift();
    if (this.#scheduled) return;
    this.#scheduled = true;
    // A page that is not looked at gets no frames, and must not wait for them.
    if (document.hidden) window.setTimeout(() => this.#flush(), 100);
    else requestAnimationFrame(() => this.#flush());
  }

  #flush(): void {
    this.#scheduled = false;
    const now = performance.now();
    this.#spoken = [...this.#spoken, ...this.#queue.map(() => now)].filter((at) => now - at < 1_000).slice(-KEPT_ENTRIES);
    this.#place.setAttribute("aria-live", this.#spoken.length > SPOKEN_PER_SECOND ? "off" : "polite");
    const follow = this.#follow.checked;
    this.#place.append(...this.#queue.map((entry) => row(entry)));
    this.#queue = [];
    while (this.#place.childElementCount > KEPT_ENTRIES) {
      const first = this.#place.firstElementChild;
      if (first?.contains(document.activeElement)) this.#place.focus();
      first?.remove();
    }
    if (follow) this.#toEnd();
  }

  #key(event: KeyboardEvent): void {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const rows = [...this.#place.querySelectorAll<HTMLElement>(":scope > .entry > summary, :scope > .note")];
    const at = rows.findIndex((row_) => row_ === document.activeElement);
    const outside = event.target !== this.#place && at === -1;
    if (outside && event.key !== "Escape") return;
    const to = { ArrowUp: at === -1 ? rows.length - 1 : at - 1, ArrowDown: at + 1, Home: 0, End: rows.length - 1 }[event.key];
    if (event.key === "Escape") {
      this.#place.focus();
    } else if (to !== undefined) {
      rows[Math.max(0, Math.min(to, rows.length - 1))]?.focus();
    } else {
      return;
    }
    event.preventDefault();
  }

  #atEnd(): boolean {
    const { scrollHeight, scrollTop, clientHeight } = this.#place;
    return scrollHeight - scrollTop - clientHeight < 24;
  }

  #toEnd(): void {
    this.#place.scrollTop = this.#place.scrollHeight;
  }
}

function row(entry: Entry): HTMLElement {
  const time = h("time", { datetime: new Date(entry.at).toISOString() }, clock(entry.at));
  if (entry.kind === "note") {
    return h("div", { class: `note ${entry.tone}`, tabindex: "-1" }, time, h("span", {}, words(entry.text)));
  }
  const { frame, own } = entry;
  const text = decode(frame.payload);
  const summary = h(
    "summary",
    { tabindex: "-1" },
    time,
    h("span", { class: own ? "who own" : "who" }, words(senderOf(frame).user)),
    glance(frame.payload, text),
    ...chips(frame),
  );
  const details = h("details", { class: "entry" }, summary);
  summary.addEventListener("click", (event) => {
    // Selecting text is no click.
    if (getSelection()?.isCollapsed === false) event.preventDefault();
  });
  details.addEventListener(
    "toggle",
    () => {
      if (details.open && details.childElementCount === 1) details.append(body(entry, text));
    },
    {},
  );
  return details;
}

function senderOf(frame: Envelope): { user: string; session: string } {
  const sender = frame.body.case === "message" ? frame.body.value.sender : undefined;
  return { user: sender?.user ?? "", session: sender?.session ?? "" };
}

/** The beginning of a payload. */
function glance(payload: Uint8Array, text: string | undefined): HTMLElement {
  if (payload.length === 0) return h("span", { class: "payload soft" }, "(empty)");
  if (text === undefined) {
    const hex = [...payload.subarray(0, 24)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const more = payload.length > 24 ? " …" : "";
    return h("span", { class: "payload binary" }, `${hex}${more}`, h("span", { class: "chip" }, "not UTF-8"));
  }
  const { text: shown, whole } = clip(text, ROW_LETTERS, ROW_LINES);
  const place = h("span", { class: "payload" }, words(shown, true));
  if (!whole) place.append(h("span", { class: "chip" }, `… ${size(payload.length)}`));
  return place;
}

/** Application headers, in short. */
function chips(frame: Envelope): HTMLElement[] {
  const count = Object.keys(frame.headers).filter((name) => !isPlatform(name)).length;
  return count === 0 ? [] : [h("span", { class: "chip" }, count === 1 ? "1 header" : `${count} headers`)];
}

function isPlatform(name: string): boolean {
  return /^x-/i.test(name) || name === "traceparent";
}

/** All of a message. */
function body(entry: Extract<Entry, { kind: "message" }>, text: string | undefined): HTMLElement {
  const { frame, echoMs } = entry;
  const { user, session } = senderOf(frame);
  const names = Object.keys(frame.headers).sort();
  const facts: [string, HTMLElement | string][] = [
    ["sender", words(user)],
    ["session", words(session)],
    ["size", size(frame.payload.length)],
    ...(echoMs === undefined ? [] : ([["echo after", span(echoMs)]] as [string, string][])),
    ...[...names.filter(isPlatform), ...names.filter((name) => !isPlatform(name))].map(
      (name): [string, HTMLElement] => [name, words(frame.headers[name] ?? "")],
    ),
  ];
  const list = h("dl", { class: "facts" });
  for (const [name, value] of facts) list.append(h("dt", {}, words(name)), h("dd", {}, value));
  return h("div", { class: "open" }, list, payloadBox(frame.payload, text));
}

/** The payload as text or as bytes, the first part of it until all is asked for. */
function payloadBox(payload: Uint8Array, text: string | undefined): HTMLElement {
  let hex = text === undefined;
  let all = false;
  const pre = h("pre", { tabindex: "0", "aria-label": "Payload" });
  const swap = button("", () => {
    hex = !hex;
    fill();
  });
  const more = button("", () => {
    all = true;
    fill();
    pre.focus();
  });
  const fill = (): void => {
    const shown = clip(text ?? "", all ? Number.POSITIVE_INFINITY : OPEN_LETTERS, Number.POSITIVE_INFINITY);
    const whole = hex ? all || payload.length <= OPEN_BYTES : shown.whole;
    pre.replaceChildren(hex ? hexDump(payload, all ? undefined : OPEN_BYTES) : words(shown.text, true));
    swap.textContent = hex ? "As text" : "As bytes";
    more.textContent = `Show all ${size(payload.length)}`;
    more.hidden = whole;
    swap.hidden = text === undefined;
  };
  fill();
  return h("div", { class: "payload-box" }, pre, h("div", { class: "row" }, swap, more));
}
