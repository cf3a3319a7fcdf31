// A real ArqonBus, a real `arq dev open`, a real Chromium.

import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";

/** These machines are small and shared. */
export const PATIENCE = 30_000;

const ARQ = needed("ARQ");
const STATE = needed("ARQON_STATE");

function needed(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set: run scripts/console test`);
  return value;
}

/** `arq` with these arguments, to its end; what it printed. */
export function arq(args: readonly string[], input: string | Uint8Array = ""): string {
  return execFileSync(ARQ, [...args, "--state", STATE], { input, encoding: "utf8", stdio: ["pipe", "pipe", "inherit"] });
}

/** A long-running `arq`, back with the first line it prints. */
async function start(args: readonly string[], env = process.env, state = STATE): Promise<{ child: ChildProcess; first: Record<string, unknown> }> {
  const child = spawn(ARQ, [...args, "--state", state], { stdio: ["ignore", "pipe", "inherit"], env });
  children.add(child);
  child.once("exit", () => children.delete(child));
  for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
    return { child, first: JSON.parse(line) as Record<string, unknown> };
  }
  throw new Error(`arq ${args.join(" ")} ended before it was ready`);
}

const children = new Set<ChildProcess>();
// Only where a test was cut short: `stop` has them end in good order.
process.on("exit", () => children.forEach((child) => child.kill("SIGTERM")));

export async function stop(child: ChildProcess, signal: NodeJS.Signals = "SIGTERM"): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const ended = once(child, "exit");
  child.kill(signal);
  return ((await ended) as [number | null])[0];
}

export async function stopAll(): Promise<void> {
  await Promise.all([...children].map((child) => stop(child)));
}

/** An ArqonBus; the first one takes free ports, later ones of the same folder the same. */
export class Bus {
  #child: ChildProcess | undefined;
  #first = true;

  async up(): Promise<void> {
    const ports = this.#first ? ["--port-base", "0"] : [];
    this.#first = false;
    const { child, first } = await start(["dev", "up", "--native", "--quiet", "--json", ...ports]);
    assert.equal(first["already_running"], undefined, "another one runs in this folder");
    this.#child = child;
  }

  /** In good order: sessions are told to go. */
  async down(): Promise<void> {
    if (this.#child !== undefined) assert.equal(await stop(this.#child), 0);
  }

  /** Whatever state a test left it in. */
  async end(): Promise<void> {
    if (this.#child !== undefined) await stop(this.#child);
  }

  /** Shield dies at once, and `arq dev up`, which does not live without it, ends. */
  async killShield(): Promise<void> {
    assert.ok(this.#child !== undefined);
    const ended = once(this.#child, "exit");
    const status = JSON.parse(arq(["dev", "status", "--json"])) as { parts: { name: string; pid: number }[] };
    const shield = status.parts.find((part) => part.name === "shield");
    assert.ok(shield !== undefined);
    process.kill(shield.pid, "SIGKILL");
    await ended;
  }
}

/** A running `arq dev open`. */
export async function openConsole(args: readonly string[] = ["--no-browser"], env = process.env, state = STATE): Promise<{ child: ChildProcess; url: string; port: number; asked: boolean }> {
  const { child, first } = await start(["--json", "dev", "open", ...args], env, state);
  return { child, url: String(first["url"]), port: Number(first["port"]), asked: first["browser_asked"] === true };
}

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // A name that another site lets point here.
  "--host-resolver-rules=MAP rebound.example 127.0.0.1",
];

/** Chromium with a profile of its own, deleted at the end. */
export function launch(more: readonly string[] = []): Promise<Browser> {
  return chromium.launch({ executablePath: "/usr/bin/chromium", args: [...FLAGS, ...more] });
}

/** What pages did that they must not: filled by every page, checked by the last test. */
export const trespasses: string[] = [];

/** A tab in a profile of its own. */
export async function tab(browser: Browser, options: BrowserContextOptions = {}): Promise<Page> {
  const context: BrowserContext = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(PATIENCE);
  context.on("request", (request) => {
    const { hostname, protocol } = new URL(request.url());
    if (hostname !== "127.0.0.1" && protocol !== "data:") trespasses.push(`request to ${request.url()}`);
  });
  await context.exposeBinding("trespass", (_, what: string) => void trespasses.push(what));
  await context.addInitScript(() => {
    const report = (globalThis as unknown as { trespass: (what: string) => void }).trespass;
    document.addEventListener("securitypolicyviolation", (event) => report(`CSP ${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
    window.addEventListener("error", (event) => report(`uncaught: ${event.message}`));
    window.addEventListener("unhandledrejection", (event) => report(`unhandled: ${String(event.reason)}`));
  });
  const page = await context.newPage();
  page.on("websocket", (socket) => {
    if (new URL(socket.url()).hostname !== "127.0.0.1") trespasses.push(`WebSocket to ${socket.url()}`);
    if (socket.url().includes("eyJ")) trespasses.push("a token in a URL");
  });
  page.on("dialog", (dialog) => {
    trespasses.push(`dialog ${dialog.message()}`);
    void dialog.dismiss();
  });
  return page;
}

/** Connects as a user of a tenant, with a development token. */
export async function connectAs(page: Page, url: string, user: string, tenant = "acme"): Promise<void> {
  await page.goto(url);
  await page.getByLabel("Tenant").fill(tenant);
  await page.getByLabel("User").fill(user);
  await page.getByRole("button", { name: "Connect", exact: true }).click();
  await status(page, `Connected as ${user} of ${tenant}`);
}

export async function joinRoom(page: Page, room: string): Promise<void> {
  await page.getByLabel("Room to join").fill(room);
  await page.getByRole("button", { name: "Join", exact: true }).click();
  await page.getByRole("log", { name: `Messages in ${room}` }).waitFor();
  await page.locator("#room-state", { hasText: "joined" }).waitFor();
}

export async function say(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/** Waits for the line that says how the connection is. */
export async function status(page: Page, text: string): Promise<void> {
  await page.locator("#status", { hasText: text }).waitFor();
}

/** Waits for an alert with all of these texts. */
export async function alertWith(page: Page, ...texts: readonly string[]): Promise<void> {
  let alert = page.getByRole("alert");
  for (const text of texts) alert = alert.filter({ hasText: text });
  await alert.first().waitFor();
}

/** The row of a message, by a text in it. */
export function message(page: Page, text: string): ReturnType<Page["locator"]> {
  return page.locator("#log .entry", { hasText: text });
}
