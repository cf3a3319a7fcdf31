// The server of `arq dev open`, which this page came from.

import type { Problem } from "./problem.ts";

/** What the page starts with. */
export interface Session {
  readonly version: string;
  readonly shield_url: string;
  /** Whether development tokens can be had. */
  readonly development: boolean;
  readonly tenant: string;
  readonly user: string;
}

/** What Shield says to a handshake with a token. */
export type Verdict =
  | { readonly outcome: "accepted" }
  | { readonly outcome: "unreachable"; readonly detail: string }
  | { readonly outcome: "refused"; readonly status: number; readonly code: number; readonly name: string };

/** Where the key is kept while this tab lives; it opens nothing once `arq dev open` has ended. */
const KEY = "arqon-console-key";

export class ServerError extends Error {
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(problem.message);
    this.problem = problem;
  }
}

export class Server {
  readonly #key: string;

  private constructor(key: string) {
    this.#key = key;
  }

  /** Takes the key out of the address, so that no picture or bookmark of it shows the key. */
  static open(): Server {
    const given = new URLSearchParams(location.hash.slice(1)).get("key");
    if (given !== null) {
      sessionStorage.setItem(KEY, given);
      history.replaceState(null, "", location.pathname);
    }
    return new Server(given ?? sessionStorage.getItem(KEY) ?? "");
  }

  async session(): Promise<Session> {
    return (await this.#ask("session", {})) as Session;
  }

  async token(tenant: string, user: string): Promise<{ token: string; expires_at: number }> {
    return (await this.#ask("token", { tenant, user })) as { token: string; expires_at: number };
  }

  /** Browsers do not tell why a WebSocket was refused; this does. */
  async refusal(token: string): Promise<Verdict> {
    return (await this.#ask("refusal", { token })) as Verdict;
  }

  async #ask(what: string, question: unknown): Promise<unknown> {
    let answer: Response;
    try {
      answer = await fetch(`/api/${what}`, {
        method: "POST",
        headers: { "content-type": "application/json", "arqon-console-key": this.#key },
        body: JSON.stringify(question),
      });
    } catch {
      throw new ServerError({
        message: "`arq dev open`, which served this page, has ended",
        hint: "Start it again and open the address it prints",
      });
    }
    const body: unknown = await answer.json().catch(() => ({}));
    if (answer.ok) return body;
    const { error, hint } = body as { error?: string; hint?: string };
    throw new ServerError({ message: error ?? `HTTP ${answer.status}`, ...(hint ? { hint } : {}) });
  }
}
