// One session with Shield, opened again whenever it breaks.
//
//   idle -> connecting -> connected -> waiting -> connecting ...
//                     \-> ended (nothing here would change by trying again)
//
// A socket belongs to one `#life`; what a former one still says is not heard.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { CODES } from "./gen/codes.ts";
import { type Envelope, type EnvelopeSchema, Opcode, type Welcome } from "./gen/arqon/v1/envelope_pb.js";
import { coded, fromClose, type Problem, reconnects } from "./problem.ts";
import { away, delay } from "./retry.ts";
import { type Server, ServerError } from "./server.ts";
import { decode, encode, ping, refresh } from "./wire.ts";

/** TCP, TLS, upgrade and WELCOME together. */
const WELCOME_LIMIT_MS = 10_000;
/** An answer to a request. Shield gives up on the Spine after 2 s. */
const ANSWER_LIMIT_MS = 10_000;
/** How often the round trip is measured; silence of one answer ends the connection. */
const PING_EVERY_MS = 5_000;
/** A token that ends sooner is not worth a connection. */
const TOKEN_SPARE_MS = 15_000;

/** What answers a request; other frames may carry its number too. */
const ANSWERS: ReadonlySet<Opcode> = new Set([
  Opcode.JOINED,
  Opcode.LEFT,
  Opcode.ACK,
  Opcode.ERROR,
  Opcode.REFRESHED,
  Opcode.PONG,
]);

export type State =
  | { readonly kind: "idle" }
  | { readonly kind: "connecting"; readonly attempt: number }
  | { readonly kind: "connected"; readonly welcome: Welcome }
  | { readonly kind: "waiting"; readonly attempt: number; readonly until: number; readonly problem: Problem }
  | { readonly kind: "ended"; readonly problem: Problem };

/** Where tokens come from. */
export interface Tokens {
  /** Whether another one can be had without asking a person. */
  readonly renewable: boolean;
  get(): Promise<{ token: string; expiresAt?: number }>;
}

export interface Listener {
  state(state: State): void;
  /** A frame that answers no request. */
  frame(frame: Envelope): void;
  /** The round trip of a PING. */
  pong(ms: number): void;
  /** The token of the live session was replaced. */
  renewed(): void;
  /** Something a person may want to know, and need not act on. */
  note(text: string): void;
  problem(problem: Problem): void;
}

/** The answer, and how long it took. */
export interface Answer {
  readonly frame: Envelope;
  readonly ms: number;
}

interface Waiting {
  readonly since: number;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Unanswered) => void;
  readonly timer: number;
}

/** A request that nobody answered. */
export class Unanswered extends Error {
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(problem.message);
    this.problem = problem;
  }
}

export class Connection {
  readonly #url: string;
  readonly #server: Server;
  readonly #listener: Listener;
  readonly #tokens: Tokens;
  #state: State = { kind: "idle" };
  #life = 0;
  #socket: WebSocket | undefined;
  #ref = 0n;
  #waiting = new Map<bigint, Waiting>();
  #timers = new Set<number>();
  #token: { token: string; expiresAt?: number } | undefined;
  /** When a GOAWAY asked to come back. */
  #back: number | undefined;

  constructor(url: string, server: Server, tokens: Tokens, listener: Listener) {
    this.#url = url;
    this.#server = server;
    this.#tokens = tokens;
    this.#listener = listener;
  }

  get state(): State {
    return this.#state;
  }

  connect(): void {
    void this.#open(0);
  }

  /** Ends it for good. */
  close(): void {
    this.#end({ kind: "idle" });
  }

  /** Sends a request and waits for what carries its number. */
  ask(fields: MessageInitShape<typeof EnvelopeSchema>): Promise<Answer> {
    const ref = ++this.#ref;
    return new Promise((resolve, reject) => {
      if (this.#state.kind !== "connected" || this.#socket === undefined) {
        reject(new Unanswered(coded(5011)));
        return;
      }
      const timer = window.setTimeout(() => {
        this.#waiting.delete(ref);
        reject(new Unanswered(coded(5012)));
      }, ANSWER_LIMIT_MS);
      this.#waiting.set(ref, { since: performance.now(), resolve, reject, timer });
      this.#socket.send(encode(fields, ref));
    });
  }

  /** Sends what is not answered; an ERROR for it comes as a frame. */
  tell(fields: MessageInitShape<typeof EnvelopeSchema>): void {
    if (this.#state.kind !== "connected" || this.#socket === undefined) throw new Unanswered(coded(5011));
    this.#socket.send(encode(fields, ++this.#ref));
  }

  // ---- one life ----

  async #open(attempt: number): Promise<void> {
    const life = this.#begin();
    this.#set({ kind: "connecting", attempt });
    let token: string;
    try {
      token = await this.#fresh();
    } catch (error) {
      if (life !== this.#life) return;
      const problem = error instanceof ServerError ? error.problem : coded(5007);
      this.#end({ kind: "ended", problem });
      return;
    }
    if (life !== this.#life) return;
    if (!/^[A-Za-z0-9._-]+$/.test(token)) {
      // No browser offers it as a subprotocol, so Shield cannot be asked.
      this.#end({ kind: "ended", problem: coded(1002) });
      return;
    }
    const socket = new WebSocket(this.#url, ["arqon.v1", `arqon.bearer.${token}`]);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#after(WELCOME_LIMIT_MS, () => this.#lost(attempt, coded(5004)));
    let opened = false;
    const on = <K extends keyof WebSocketEventMap>(kind: K, react: (event: WebSocketEventMap[K]) => void): void => {
      socket.addEventListener(kind, (event) => {
        if (life === this.#life) react(event);
      });
    };
    on("open", () => {
      opened = true;
    });
    on("message", (event) => {
      const frame = decode(event.data);
      if (frame === undefined) {
        this.#lost(attempt, coded(5009));
      } else {
        this.#received(frame);
      }
    });
    on("close", (event) => {
      if (opened) {
        this.#closed(attempt, event);
      } else {
        void this.#refused(attempt, token, life);
      }
    });
  }

  /** A token that lasts; the one in hand where it does. */
  async #fresh(): Promise<string> {
    const spent = this.#token?.expiresAt !== undefined && this.#token.expiresAt * 1000 - Date.now() < TOKEN_SPARE_MS;
    if (this.#token === undefined || (spent && this.#tokens.renewable)) {
      this.#token = await this.#tokens.get();
    }
    return this.#token.token;
  }

  #received(frame: Envelope): void {
    const { body } = frame;
    if (body.case === "welcome") {
      this.#clearTimers();
      this.#set({ kind: "connected", welcome: body.value });
      this.#ping();
      return;
    }
    const waiting = ANSWERS.has(frame.op) ? this.#waiting.get(frame.ref) : undefined;
    if (waiting !== undefined) {
      this.#waiting.delete(frame.ref);
      window.clearTimeout(waiting.timer);
      waiting.resolve({ frame, ms: performance.now() - waiting.since });
      return;
    }
    if (body.case === "goaway") {
      const { retryAfterMs, spreadMs, deadlineMs } = body.value;
      const wait = away(retryAfterMs, spreadMs, Math.random());
      this.#back = Date.now() + wait;
      this.#listener.note(
        `GOAWAY: this Shield stops; it closes in ${deadlineMs} ms, and the page comes back in ${wait} ms`,
      );
      this.#after(Math.min(wait, deadlineMs), () => this.#lost(0, coded(4001)));
      return;
    }
    if (body.case === "tokenExpiring") {
      void this.#renew(body.value.expiresAt);
      return;
    }
    this.#listener.frame(frame);
  }

  async #renew(expiresAt: bigint): Promise<void> {
    const when = new Date(Number(expiresAt) * 1000).toLocaleTimeString();
    if (!this.#tokens.renewable) {
      this.#listener.problem({
        message: `The token ends at ${when}`,
        hint: "Disconnect and connect with a new one before that",
      });
      return;
    }
    try {
      this.#token = await this.#tokens.get();
      const { frame } = await this.ask(refresh(this.#token.token));
      if (frame.body.case === "error") throw new Unanswered(coded(frame.body.value.code));
      if (frame.body.case === "refreshed" && this.#state.kind === "connected") {
        this.#state.welcome.tokenExpiresAt = frame.body.value.expiresAt;
      }
      this.#listener.renewed();
    } catch (error) {
      const known = error instanceof Unanswered || error instanceof ServerError;
      this.#listener.problem(known ? error.problem : coded(5007));
    }
  }

  #ping(): void {
    this.ask(ping()).then(
      ({ ms }) => {
        this.#listener.pong(ms);
        this.#after(PING_EVERY_MS, () => this.#ping());
      },
      (error: unknown) => {
        // Nothing comes back any more: a dead network closes no socket.
        if (error instanceof Unanswered && error.problem.code === 5012) this.#lost(0, coded(5010));
      },
    );
  }

  // ---- how it ends ----

  #closed(attempt: number, event: CloseEvent): void {
    const problem = fromClose(event.code, event.reason);
    if (event.code === 4005 && this.#tokens.renewable) this.#token = undefined;
    const hopeless = !reconnects(event.code) || (event.code === 4005 && !this.#tokens.renewable);
    if (hopeless) {
      this.#end({ kind: "ended", problem });
    } else {
      this.#lost(this.#state.kind === "connected" ? 0 : attempt, problem);
    }
  }

  /** The upgrade failed, and the browser does not say why. */
  async #refused(attempt: number, token: string, life: number): Promise<void> {
    const problem = await this.#why(token);
    if (life !== this.#life) return;
    const retry = CODES.get(problem.code ?? 0)?.retry;
    if (retry === "new_token" && attempt === 0 && this.#tokens.renewable && problem.code === 1003) {
      this.#token = undefined;
      this.#lost(attempt + 1, problem);
    } else if (retry === "never" || retry === "new_token") {
      this.#end({ kind: "ended", problem });
    } else {
      this.#lost(attempt + 1, problem);
    }
  }

  async #why(token: string): Promise<Problem> {
    try {
      const verdict = await this.#server.refusal(token);
      switch (verdict.outcome) {
        case "refused":
          return verdict.code > 0
            ? coded(verdict.code, { name: verdict.name })
            : { ...coded(5005), hint: `It answered HTTP ${verdict.status}` };
        case "unreachable":
          return { ...coded(5002), hint: "`arq dev up` starts an ArqonBus here, `arq doctor` checks each hop; reload this page where its ports have changed" };
        case "accepted":
          return this.#url.startsWith("wss:")
            ? { ...coded(5003), hint: "arq trusts the certificate and this browser may not: add its authority here too" }
            : {
                ...coded(5010),
                hint: "Shield accepts the same handshake from arq: look for an extension or a proxy of this browser in between",
              };
      }
    } catch (error) {
      return error instanceof ServerError ? error.problem : coded(5002);
    }
  }

  /** Broken: again after a while. */
  #lost(attempt: number, problem: Problem): void {
    this.#begin();
    const wait = this.#back === undefined ? delay(attempt, Math.random()) : Math.max(0, this.#back - Date.now());
    this.#back = undefined;
    this.#set({ kind: "waiting", attempt: attempt + 1, until: Date.now() + wait, problem });
    this.#after(wait, () => void this.#open(attempt));
  }

  #end(state: State): void {
    this.#begin();
    this.#back = undefined;
    this.#set(state);
  }

  /** A new life: the socket, the timers and the requests of the former one are over. */
  #begin(): number {
    this.#life++;
    this.#clearTimers();
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close(1000);
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { timer, reject } of waiting) {
      window.clearTimeout(timer);
      reject(new Unanswered(coded(5010)));
    }
    return this.#life;
  }

  #set(state: State): void {
    this.#state = state;
    this.#listener.state(state);
  }

  #after(ms: number, act: () => void): void {
    const timer = window.setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, ms);
    this.#timers.add(timer);
  }

  #clearTimers(): void {
    for (const timer of this.#timers) window.clearTimeout(timer);
    this.#timers.clear();
  }
}
