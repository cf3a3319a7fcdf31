// The columns beside the messages: rooms, people, round trips, the session, events.

import { button, byId, h, show, words } from "../dom.ts";
import type { Welcome } from "../gen/arqon/v1/envelope_pb.js";
import type { Room, Rooms } from "../rooms.ts";
import { tellsMembers } from "../rooms.ts";
import type { Samples } from "../samples.ts";
import { clock, plain, size, span } from "../text.ts";

/** More than these are not listed one by one. */
const LISTED_PEOPLE = 200;
const KEPT_EVENTS = 100;

export function renderRooms(rooms: Rooms, leave: (name: string) => void): void {
  const place = byId("rooms");
  const focused = (document.activeElement as HTMLElement | null)?.dataset["room"];
  place.replaceChildren(
    ...[...rooms.all.values()].map((room) => {
      const current = room === rooms.selected;
      const open = button(room.name, () => rooms.select(room.name), {
        class: "room",
        "data-room": `open ${room.name}`,
        ...(current ? { "aria-current": "true" } : {}),
      });
      if (room.state !== "joined") open.append(h("span", { class: "chip" }, room.state === "out" ? "left" : "joining"));
      if (room.unread > 0) {
        const count = room.unread > 999 ? "999+" : String(room.unread);
        open.append(h("span", { class: "count" }, count, h("span", { class: "hidden" }, " unread")));
      }
      const out = button("×", () => leave(room.name), {
        class: "quiet",
        "aria-label": `Leave ${room.name}`,
        title: `Leave ${room.name}`,
        "data-room": `leave ${room.name}`,
      });
      return h("li", {}, open, out);
    }),
  );
  if (focused !== undefined) place.querySelector<HTMLElement>(`[data-room="${CSS.escape(focused)}"]`)?.focus();
}

export function renderPeople(room: Room | undefined): void {
  show(byId("people-box"), room !== undefined);
  if (room === undefined) return;
  const { roster, options } = room;
  byId("people-count").textContent = roster.known ? String(roster.count) : "";
  const place = byId("people");
  const members = roster.sorted();
  const items = members.slice(0, LISTED_PEOPLE).map((member) => {
    const sessions = Math.max(member.sessionCount, member.sessions.length);
    const newest = member.sessions[0];
    const meta = Object.entries(newest?.meta ?? {}).map(([key, value]) => h("span", { class: "meta" }, words(`${key}=${value}`)));
    const since = newest === undefined ? "" : `since ${clock(Number(newest.joinedAtMs)).slice(0, 8)}`;
    const many = sessions > 1 ? `, ${sessions} sessions` : "";
    return h(
      "li",
      {},
      h("span", { class: "name" }, words(member.user)),
      h("span", { class: "soft" }, `${since}${many}`),
      ...(meta.length > 0 ? [h("span", { class: "metas" }, ...meta)] : []),
    );
  });
  const remark = remarkOf(room, members.length);
  if (remark !== "") items.push(h("li", { class: "soft" }, remark));
  place.replaceChildren(...items);
  show(place, items.length > 0);
  if (!tellsMembers(options.presence)) byId("people-news").textContent = "";
}

function remarkOf({ roster, options, state }: Room, told: number): string {
  if (state !== "joined") return "Not in the room at the moment.";
  if (roster.truncated) return "Too many to be told one by one.";
  if (told > LISTED_PEOPLE) return `and ${told - LISTED_PEOPLE} more`;
  if (tellsMembers(options.presence)) return roster.known ? (told === 0 ? "Nobody is seen here." : "") : "Nothing was told yet.";
  return options.presence === 2 ? "Joined with presence count: only the number is told." : "Joined without presence.";
}

/** Who came and left, in words. */
export function tellNews(came: readonly string[], left: readonly string[]): void {
  const some = (users: readonly string[]): string =>
    users.length > 3 ? `${users.slice(0, 3).map(plain).join(", ")} and ${users.length - 3} more` : users.map(plain).join(", ");
  const news = [came.length > 0 ? `${some(came)} came` : "", left.length > 0 ? `${some(left)} left` : ""];
  const text = news.filter((part) => part !== "").join(", ");
  if (text !== "") byId("people-news").textContent = text;
}

export function renderLatency(pings: Samples, acks: Samples, echoes: Samples): void {
  const body = byId("latency").querySelector("tbody");
  const rows: [string, string, Samples][] = [
    ["PING", "until its PONG", pings],
    ["PUBLISH", "until its ACK", acks],
    ["MESSAGE", "from sending until the own echo", echoes],
  ];
  body?.replaceChildren(
    ...rows.map(([name, title, samples]) => {
      const summary = samples.summary();
      const cells = summary === undefined ? ["–", "–", "–"] : [summary.last, summary.median, summary.p95].map(span);
      return h("tr", { title }, h("th", { scope: "row" }, name), ...cells.map((cell) => h("td", {}, cell)));
    }),
  );
  spark(pings.values);
}

/** The last pings as a line: its shape, not its figures. */
function spark(values: readonly number[]): void {
  const svg = document.getElementById("spark");
  const top = Math.max(...values, 0.1);
  const step = 240 / Math.max(1, values.length - 1);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${(34 - (value / top) * 30).toFixed(1)}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  svg?.replaceChildren(line);
  svg?.toggleAttribute("hidden", values.length < 5);
}

export function renderSession(welcome: Welcome | undefined): void {
  show(byId("session-box"), welcome !== undefined);
  if (welcome === undefined) return;
  const { limits } = welcome;
  const facts: [string, string][] = [
    ["user", welcome.user],
    ["tenant", welcome.tenant],
    ["session", welcome.sessionId],
    ["Shield", welcome.shieldId],
    ["token until", new Date(Number(welcome.tokenExpiresAt) * 1000).toLocaleTimeString()],
    ["payload", `${size(limits?.maxPayloadBytes ?? 0)} at most`],
    ["rooms", `${limits?.maxRooms ?? 0} at most`],
    ["features", welcome.features.join(", ") || "none"],
  ];
  byId("session").replaceChildren(...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, words(value))]));
}

export function addEvent(text: string, tone: "info" | "warn" | "bad" = "info"): void {
  const place = byId("events");
  place.prepend(h("li", { class: tone }, h("time", {}, clock(Date.now()).slice(0, 8)), h("span", {}, words(text))));
  while (place.childElementCount > KEPT_EVENTS) place.lastElementChild?.remove();
}
