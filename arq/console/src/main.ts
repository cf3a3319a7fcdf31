// The console of `arq dev open`: wires the page to a connection and its rooms.

import { Connection, type State, type Tokens } from "./connection.ts";
import { byId, h, show } from "./dom.ts";
import type { PresenceMode } from "./gen/arqon/v1/envelope_pb.js";
import { line, type Problem } from "./problem.ts";
import { Rooms } from "./rooms.ts";
import { Samples } from "./samples.ts";
import { Server, ServerError, type Session } from "./server.ts";
import { fromHex, pairs } from "./text.ts";
import { Alerts } from "./view/alerts.ts";
import { Log } from "./view/log.ts";
import { addEvent, renderLatency, renderPeople, renderRooms, renderSession, tellNews } from "./view/side.ts";

const server = Server.open();
const alerts = new Alerts(() => focusFirst(["payload", "room", "tenant", "token"]));
const log = new Log();
const pings = new Samples();
let session: Session | undefined;
let connection: Connection | undefined;
let countdown = 0;

const rooms: Rooms = new Rooms({
  rooms: () => render(),
  entry: (room, entry) => log.add(room, entry),
  roster: (room, came, left) => {
    if (room !== rooms.selected) return;
    renderPeople(room);
    tellNews(came, left);
  },
  latency: () => renderLatency(pings, rooms.acks, rooms.echoes),
  problem: complain,
});

function complain(problem: Problem): void {
  alerts.add(problem);
  addEvent(line(problem), "bad");
}

// ---- connecting ----

function connect(tokens: Tokens): void {
  if (session === undefined) return;
  alerts.clear();
  connection?.close();
  connection = new Connection(session.shield_url, server, tokens, {
    state: onState,
    frame: (frame) => rooms.frame(frame),
    pong: (ms) => {
      pings.add(ms);
      renderLatency(pings, rooms.acks, rooms.echoes);
    },
    renewed: () => {
      addEvent("The token was replaced on the live session");
      render();
    },
    note: (text) => addEvent(text),
    problem: complain,
  });
  rooms.use(connection);
  connection.connect();
}

/** The problem that a connection in vain has told last, so that it is told once. */
let told = "";

function onState(state: State): void {
  window.clearInterval(countdown);
  byId("countdown").textContent = "";
  byId("status").dataset["kind"] = state.kind;
  const [text, tone] = inWords(state);
  byId("status-text").textContent = text;
  switch (state.kind) {
    case "connected":
      told = "";
      alerts.clear();
      addEvent(`Connected to ${state.welcome.shieldId} as ${state.welcome.user} of ${state.welcome.tenant}`);
      break;
    case "waiting": {
      const since = line(state.problem);
      if (told !== since) complain(state.problem);
      told = since;
      addEvent(`Trying again, attempt ${state.attempt}`, "warn");
      countDown(state.until);
      break;
    }
    case "ended":
      complain(state.problem);
      break;
    case "idle":
      told = "";
      addEvent(text);
      break;
    case "connecting":
      break;
  }
  document.title = `${tone} ArqonBus console`.trim();
  rooms.connected(state.kind === "connected");
  if (state.kind === "idle" || state.kind === "ended") {
    rooms.clear();
    pings.clear();
  }
  render();
  if (state.kind === "connected" && rooms.all.size === 0) byId("room").focus();
  if (state.kind === "idle") focusFirst(["tenant", "token"]);
}

function inWords(state: State): [text: string, mark: string] {
  switch (state.kind) {
    case "idle":
      return ["Not connected", ""];
    case "connecting":
      return [state.attempt === 0 ? "Connecting" : `Connecting, attempt ${state.attempt + 1}`, "…"];
    case "connected":
      return [`Connected as ${state.welcome.user} of ${state.welcome.tenant}`, ""];
    case "waiting":
      return [`Trying again after ${state.problem.name ?? "a failure"}`, "!"];
    case "ended":
      return [`Not connected: ${state.problem.name ?? "see why above"}`, "!"];
  }
}

function countDown(until: number): void {
  const tick = (): void => {
    byId("countdown").textContent = `in ${Math.max(0, (until - Date.now()) / 1000).toFixed(1)} s`;
  };
  tick();
  countdown = window.setInterval(tick, 100);
}

// ---- the page ----

function render(): void {
  const state = connection?.state ?? { kind: "idle" };
  const up = state.kind === "connected";
  const off = state.kind === "idle" || state.kind === "ended";
  const room = rooms.selected;
  show(byId("connect"), off);
  show(byId("disconnect"), !off);
  show(byId("rooms-box"), !off);
  show(byId("latency-box"), !off);
  show(byId("conversation"), room !== undefined);
  show(byId("empty"), room === undefined);
  byId("empty-title").textContent = up ? "No room is open" : off ? "Not connected" : "Waiting for Shield";
  byId("empty-text").textContent = up
    ? "Join a room. What is said in it appears here. From a shell, speak in it with:"
    : off
      ? "Connect, then join a room. Two tabs with two users can talk to each other."
      : "The page connects by itself as soon as it can.";
  show(byId("empty-code"), up);
  byId("empty-code").textContent = up ? `arq pub lobby "hello" --tenant ${state.welcome.tenant}` : "";
  byId<HTMLButtonElement>("room").disabled = !up;
  const join = byId("join").querySelector<HTMLButtonElement>("button[type=submit]");
  if (join !== null) join.disabled = !up;
  renderRooms(rooms, (name) => void leave(name));
  renderPeople(room);
  renderLatency(pings, rooms.acks, rooms.echoes);
  renderSession(up ? state.welcome : undefined);
  log.open(room);
  if (room === undefined) return;
  byId("room-title").textContent = room.name;
  const echo = room.options.echo ? "" : ", own messages are not heard";
  byId("room-state").textContent = { joined: `joined${echo}`, joining: "joining…", out: "not in the room" }[room.state];
}

async function leave(name: string): Promise<void> {
  await rooms.leave(name);
  addEvent(`Left ${name}`);
  focusFirst(["payload", "room"]);
}

function focusFirst(ids: readonly string[]): void {
  ids
    .map((id) => byId(id))
    .find((element) => element.checkVisibility())
    ?.focus();
}

// ---- forms ----

function onSubmit(id: string, act: () => void | Promise<void>): void {
  byId(id).addEventListener("submit", (event) => {
    event.preventDefault();
    void act();
  });
}

function value(id: string): string {
  return byId<HTMLInputElement>(id).value;
}

onSubmit("development", () => {
  const [tenant, user] = [value("tenant").trim(), value("user").trim()];
  connect({
    renewable: true,
    get: async () => {
      const { token, expires_at: expiresAt } = await server.token(tenant, user);
      return { token, expiresAt };
    },
  });
});

onSubmit("paste", () => {
  const token = value("token").replace(/\s+/g, "");
  connect({ renewable: false, get: () => Promise.resolve({ token }) });
});

byId("disconnect").addEventListener("click", () => connection?.close());
byId("clear").addEventListener("click", () => log.clear());

onSubmit("join", async () => {
  const meta = pairs(value("meta"), "=");
  if (meta.wrong !== undefined) {
    complain({ message: `“${meta.wrong}” is no key=value`, hint: "Write for instance name=Ada, one a line" });
    return;
  }
  const presence = Number(value("presence")) as PresenceMode;
  const echo = byId<HTMLInputElement>("echo").checked;
  const name = value("room").trim();
  const joined = await rooms.join(name, { presence, echo, meta: meta.map });
  if (!joined) return;
  addEvent(`Joined ${name}`);
  byId<HTMLInputElement>("room").value = "";
  focusFirst(["payload"]);
});

onSubmit("send", async () => {
  const room = rooms.selected;
  const text = value("payload");
  const payload = value("format") === "hex" ? fromHex(text) : new TextEncoder().encode(text);
  if (room === undefined) return;
  if (payload === undefined) {
    complain({ message: "The message is no hexadecimal", hint: "Write two digits a byte: 00 ff 7e" });
    return;
  }
  const headers = pairs(value("headers"), ":");
  if (headers.wrong !== undefined) {
    complain({ message: `“${headers.wrong}” is no header`, hint: "Write for instance content-type: text/plain, one a line" });
    return;
  }
  const since = performance.now();
  const place = byId("sent");
  place.textContent = "";
  const ack = byId<HTMLInputElement>("ack").checked;
  const outcome = await rooms.send({ room: room.name, payload, headers: headers.map, ack });
  if (outcome === undefined) {
    place.textContent = "Not sent; see above why";
    return;
  }
  const ms = (performance.now() - since).toFixed(1);
  place.replaceChildren(...(ack ? [`Acknowledged after ${ms} ms as `, h("code", {}, outcome)] : [outcome]));
  if (value("payload") === text) byId<HTMLTextAreaElement>("payload").value = "";
});

byId("payload").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId<HTMLFormElement>("send").requestSubmit();
});

// ---- the start ----

async function start(): Promise<void> {
  try {
    session = await server.session();
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    complain(error.problem);
    byId("empty-text").textContent = "This page lacks its key: open the address that `arq dev open` printed.";
    show(byId("connect"), false);
    return;
  }
  byId("shield-url").textContent = session.shield_url;
  byId<HTMLInputElement>("tenant").value = session.tenant;
  byId<HTMLInputElement>("user").value = session.user;
  show(byId("development"), session.development);
  show(byId("no-key"), !session.development);
  byId<HTMLDetailsElement>("paste-box").open = !session.development;
  addEvent(`Served by arq ${session.version}`);
  render();
  focusFirst(["tenant", "token"]);
}

render();
void start();
