// The rooms of this page: what was heard in each, who is there, and which of them to join again.

import type { Answer, Connection } from "./connection.ts";
import { Unanswered } from "./connection.ts";
import { type Envelope, GapReason, Opcode, PresenceMode } from "./gen/arqon/v1/envelope_pb.js";
import { coded, fromError, line, type Problem } from "./problem.ts";
import { Roster } from "./roster.ts";
import { Samples } from "./samples.ts";
import { join, type JoinOptions, leave, type Outgoing, publish, twistId } from "./wire.ts";

/** Entries that a room keeps. */
export const KEPT_ENTRIES = 500;
/** Codes of a client's own. */
const CONNECTION_LOST = 5010;
const REQUEST_TIMEOUT = 5012;
const PUBLISH_UNCERTAIN = 5013;
/** Own messages whose echo is awaited. */
const KEPT_ECHOES = 1_000;

export type Entry =
  | { readonly kind: "message"; readonly id: number; readonly at: number; readonly frame: Envelope; readonly own: boolean; readonly echoMs?: number }
  | { readonly kind: "note"; readonly id: number; readonly at: number; readonly tone: "info" | "warn" | "bad"; readonly text: string };

export interface Room {
  readonly name: string;
  options: JoinOptions;
  state: "joining" | "joined" | "out";
  readonly entries: Entry[];
  /** Messages since it was last looked at. */
  unread: number;
  roster: Roster;
}

export interface RoomsListener {
  /** Rooms came, went or changed their state. */
  rooms(): void;
  entry(room: Room, entry: Entry): void;
  roster(room: Room, came: readonly string[], left: readonly string[]): void;
  latency(): void;
  problem(problem: Problem): void;
}

export class Rooms {
  readonly all = new Map<string, Room>();
  readonly acks = new Samples();
  readonly echoes = new Samples();
  selected: Room | undefined;
  #connection: Connection | undefined;
  readonly #listener: RoomsListener;
  /** When own messages were sent, by X-Twist-ID. */
  readonly #sent = new Map<string, number>();
  #entries = 0;

  constructor(listener: RoomsListener) {
    this.#listener = listener;
  }

  use(connection: Connection | undefined): void {
    this.#connection = connection;
    this.#sent.clear();
  }

  select(name: string): void {
    this.selected = this.all.get(name);
    if (this.selected !== undefined) this.selected.unread = 0;
    this.#listener.rooms();
  }

  async join(name: string, options: JoinOptions): Promise<boolean> {
    let room = this.all.get(name);
    if (room !== undefined && room.state !== "out") {
      this.select(name);
      return true;
    }
    const isNew = room === undefined;
    room ??= { name, options, state: "joining", entries: [], unread: 0, roster: new Roster() };
    room.options = options;
    this.all.set(name, room);
    const joined = await this.#enter(room);
    if (joined) this.select(name);
    else if (isNew) this.#drop(room);
    return joined;
  }

  async leave(name: string): Promise<void> {
    const room = this.all.get(name);
    if (room === undefined) return;
    if (room.state === "joined") await this.#ask(leave(name), name);
    this.#drop(room);
  }

  /** The connection is there again, or is gone. */
  connected(now: boolean): void {
    for (const room of this.all.values()) {
      if (now) {
        void this.#enter(room).then((joined) => {
          if (joined && room.entries.length > 0) this.#note(room, "warn", "Joined again: what was said meanwhile was not heard");
        });
      } else if (room.state !== "out") {
        room.state = "joining";
        room.roster = new Roster();
        this.#listener.roster(room, [], []);
      }
    }
    if (!now) this.#sent.clear();
    this.#listener.rooms();
  }

  /** Forgets everything. */
  clear(): void {
    this.all.clear();
    this.selected = undefined;
    this.acks.clear();
    this.echoes.clear();
    this.#listener.rooms();
    this.#listener.latency();
  }

  /** Publishes; what became of it, in words, or nothing where a problem was told. */
  async send(message: Outgoing): Promise<string | undefined> {
    const id = twistId(Date.now(), crypto.getRandomValues(new Uint8Array(16)));
    const frame = publish({ ...message, headers: { ...message.headers, "X-Twist-ID": id } });
    this.#sent.set(id, performance.now());
    const oldest = this.#sent.keys().next().value;
    if (this.#sent.size > KEPT_ECHOES && oldest !== undefined) this.#sent.delete(oldest);
    if (!message.ack) {
      try {
        this.#connection?.tell(frame);
        return "Sent, without asking for an ACK";
      } catch (error) {
        this.#failed(error, message.room, true);
        return undefined;
      }
    }
    const answer = await this.#ask(frame, message.room, true);
    if (answer?.frame.body.case !== "ack") return undefined;
    this.acks.add(answer.ms);
    this.#listener.latency();
    return answer.frame.body.value.twistId;
  }

  /** A frame that answers nothing. */
  frame(frame: Envelope): void {
    const room = this.all.get(frame.room);
    const { body } = frame;
    if (body.case === "error") {
      this.#refused(fromError(body.value), frame.room);
      return;
    }
    if (room === undefined) return;
    switch (body.case) {
      case "message":
        this.#message(room, frame);
        break;
      case "gap": {
        const missed = body.value.missed === undefined ? "messages may be missing" : `${body.value.missed} messages are missing`;
        this.#note(room, "warn", `GAP: ${missed}, ${GAPS[body.value.reason]}`);
        break;
      }
      case "left":
        room.state = "out";
        room.roster = new Roster();
        this.#note(room, "bad", `LEFT by the server: ${line(coded(body.value.code, { name: body.value.name }))}`);
        this.#listener.rooms();
        this.#listener.roster(room, [], []);
        break;
      case "presenceState": {
        const { members, count, lastPage, truncated } = body.value;
        room.roster.state(members, count, lastPage, truncated);
        this.#listener.roster(room, [], []);
        break;
      }
      case "presenceUpdate":
        this.#listener.roster(room, room.roster.update(body.value.members, body.value.count), []);
        break;
      case "presenceLeave":
        this.#listener.roster(room, [], room.roster.leave(body.value.users, body.value.count));
        break;
      case "presenceCount":
        room.roster.counted(body.value.count);
        this.#listener.roster(room, [], []);
        break;
    }
  }

  #message(room: Room, frame: Envelope): void {
    const id = frame.headers["X-Twist-ID"] ?? "";
    const since = this.#sent.get(id);
    const own = since !== undefined;
    const echoMs = own ? performance.now() - since : undefined;
    if (echoMs !== undefined) {
      this.#sent.delete(id);
      this.echoes.add(echoMs);
      this.#listener.latency();
    }
    this.#add(room, {
      kind: "message",
      id: ++this.#entries,
      at: Date.now(),
      frame,
      own,
      ...(echoMs === undefined ? {} : { echoMs }),
    });
  }

  async #enter(room: Room): Promise<boolean> {
    room.state = "joining";
    room.roster = new Roster();
    this.#listener.rooms();
    const answer = await this.#ask(join(room.name, room.options), room.name);
    if (answer?.frame.op === Opcode.JOINED) {
      room.state = "joined";
    } else if (this.#connection?.state.kind === "connected") {
      room.state = "out";
    }
    this.#listener.rooms();
    this.#listener.roster(room, [], []);
    return room.state === "joined";
  }

  #drop(room: Room): void {
    this.all.delete(room.name);
    if (this.selected === room) this.selected = this.all.values().next().value;
    this.#listener.rooms();
  }

  /** Asks; problems are told, in the room they happened in too. */
  async #ask(fields: Parameters<Connection["ask"]>[0], room: string, publishing = false): Promise<Answer | undefined> {
    try {
      if (this.#connection === undefined) throw new Unanswered(coded(5011));
      const answer = await this.#connection.ask(fields);
      if (answer.frame.body.case !== "error") return answer;
      this.#refused(fromError(answer.frame.body.value), room);
    } catch (error) {
      this.#failed(error, room, publishing);
    }
    return undefined;
  }

  /** No answer. That the connection is gone is told once, by its state. */
  #failed(error: unknown, room: string, publishing = false): void {
    if (!(error instanceof Unanswered)) throw error;
    const gone = error.problem.code === CONNECTION_LOST || error.problem.code === REQUEST_TIMEOUT;
    if (publishing && gone) this.#refused(coded(PUBLISH_UNCERTAIN), room);
    else if (publishing || error.problem.code === REQUEST_TIMEOUT) this.#refused(error.problem, room);
  }

  #refused(problem: Problem, name: string): void {
    const room = this.all.get(name);
    if (room !== undefined) this.#note(room, "bad", line(problem));
    this.#listener.problem(problem);
  }

  #note(room: Room, tone: "info" | "warn" | "bad", text: string): void {
    this.#add(room, { kind: "note", id: ++this.#entries, at: Date.now(), tone, text });
  }

  #add(room: Room, entry: Entry): void {
    room.entries.push(entry);
    if (room.entries.length > KEPT_ENTRIES) room.entries.shift();
    if (room !== this.selected && entry.kind === "message") {
      room.unread++;
      this.#listener.rooms();
    }
    this.#listener.entry(room, entry);
  }
}

const GAPS: Readonly<Record<GapReason, string>> = {
  [GapReason.UNSPECIFIED]: "for a reason that was not said",
  [GapReason.SPINE_RECONNECTED]: "since the Spine connection broke and came back",
  [GapReason.SEQUENCE]: "since a number of a publisher was skipped",
  [GapReason.SLOW_READER]: "since this page read too slowly",
  [GapReason.SHIELD_OVERLOADED]: "since Shield could not keep up",
  [GapReason.LATEST_ONLY]: "since only the latest message of this room waits",
};

/** Whether a mode tells who is there. */
export function tellsMembers(mode: PresenceMode): boolean {
  return mode === PresenceMode.FULL || mode === PresenceMode.WATCH;
}
