// The console as a person uses it: real Chromium, a real ArqonBus, in the order of a first hour.

import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import {
  alertWith,
  arq,
  Bus,
  connectAs,
  joinRoom,
  launch,
  message,
  openConsole,
  PATIENCE,
  say,
  status,
  stop,
  stopAll,
  tab,
  trespasses,
} from "./support.ts";

const bus = new Bus();
let browser: Browser;
let served: { child: ChildProcess; url: string; port: number };

before(async () => {
  await bus.up();
  served = await openConsole();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await bus.end();
  const ended = served === undefined ? 0 : await stop(served.child, "SIGINT");
  // What a failed test left would keep this program from ending.
  await stopAll();
  assert.equal(ended, 0, "`arq dev open` ends in good order");
});

/** Runs with a tab of its own, closed after it. */
async function withTabs(count: number, act: (...pages: Page[]) => Promise<void>): Promise<void> {
  const pages = await Promise.all(Array.from({ length: count }, () => tab(browser)));
  try {
    await act(...pages);
  } finally {
    await Promise.all(pages.map((page) => page.context().close()));
  }
}

const people = (page: Page, user: string): ReturnType<Page["locator"]> => page.locator("#people .name", { hasText: user });

test("two pages hear each other, and see each other come and go", () =>
  withTabs(2, async (ada, bob) => {
    assert.ok(ada !== undefined && bob !== undefined);
    await connectAs(ada, served.url, "ada");
    assert.ok(!ada.url().includes("key"), "the key does not stay in the address");
    await ada.getByText("How to join").click();
    await ada.getByLabel("What others see of you").fill("name=Ada Lovelace");
    await joinRoom(ada, "lobby");
    await people(ada, "ada").waitFor();

    await connectAs(bob, served.url, "bob");
    await joinRoom(bob, "lobby");
    await people(ada, "bob").waitFor();
    await ada.locator("#people-news", { hasText: "bob came" }).waitFor();
    await bob.locator("#people .meta", { hasText: "name=Ada Lovelace" }).waitFor();

    await ada.getByText("Headers", { exact: true }).click();
    await ada.locator("#headers").fill("content-type: text/plain\nx-not-ours: 1");
    await say(ada, "not this one");
    await alertWith(ada, "2008", "HEADER_RESERVED");
    await ada.locator("#headers").fill("content-type: text/plain\npriority: high");
    await say(ada, "hello bob");
    await ada.locator("#sent", { hasText: "Acknowledged after" }).waitFor();
    assert.equal(await ada.getByLabel("Message", { exact: true }).inputValue(), "");

    const heard = message(bob, "hello bob");
    await heard.locator("summary").click();
    const facts = await heard.locator(".facts").innerText();
    for (const fact of ["content-type", "text/plain", "priority", "high", "X-Twist-ID", "X-Timestamp", "sender", "ada", "session", "9 B"]) {
      assert.ok(facts.includes(fact), `${fact} in ${facts}`);
    }
    const twist = await ada.locator("#sent code").innerText();
    assert.ok(facts.includes(twist), "the id that the ACK told");
    await heard.getByRole("button", { name: "As bytes" }).click();
    await heard.locator("pre", { hasText: "68 65 6c 6c 6f 20 62 6f  62" }).waitFor();
    assert.equal(await message(bob, "not this one").count(), 0);

    // From the shell to the page, and the round trips are measured.
    arq(["pub", "lobby", "from a shell", "--user", "carol"]);
    await message(bob, "from a shell").waitFor();
    await ada.locator("#latency tbody").waitFor();
    for (const name of ["PING", "PUBLISH", "MESSAGE"]) {
      await ada.locator("#latency tr", { hasText: name }).filter({ hasText: /\d (µs|ms|s)/ }).waitFor();
    }

    // Another room counts what was not read; leaving it takes it away.
    await joinRoom(bob, "team.news");
    arq(["pub", "lobby", "unread", "--user", "carol"]);
    await bob.locator("#rooms .room", { hasText: "lobby" }).locator(".count", { hasText: "1" }).waitFor();
    await bob.getByRole("button", { name: "Leave team.news" }).click();
    await message(bob, "unread").waitFor();

    await bob.getByRole("button", { name: "Disconnect" }).click();
    await status(bob, "Not connected");
    await ada.locator("#people-news", { hasText: "bob left" }).waitFor();
    assert.equal(await people(ada, "bob").count(), 0);
  }));

test("a tenant hears nothing of another", () =>
  withTabs(2, async (acme, globex) => {
    assert.ok(acme !== undefined && globex !== undefined);
    await connectAs(acme, served.url, "ada");
    await connectAs(globex, served.url, "gus", "globex");
    await joinRoom(acme, "apart");
    await joinRoom(globex, "apart");
    await say(acme, "of acme");
    await message(acme, "of acme").waitFor();
    await say(globex, "of globex");
    await message(globex, "of globex").waitFor();
    assert.equal(await globex.locator("#log .entry").count(), 1);
    assert.equal(await people(globex, "ada").count(), 0);
  }));

test("a message blocked by a policy shows its error, and nobody hears it", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    await connectAs(page, served.url, "ada");
    await joinRoom(page, "judged");
    arq(["policy", "add", "blocklist", "--words", "malware", "--platform", "--name", "words"]);
    try {
      await say(page, "free malware");
      await alertWith(page, "3601", "POLICY_BLOCKED", "Message blocked by policy");
      await page.locator("#log .note.bad", { hasText: "Message blocked by policy" }).waitFor();
      await page.locator("#events .bad", { hasText: "POLICY_BLOCKED" }).waitFor();
      assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "free malware", "what was not sent stays");
      await say(page, "free software");
      await message(page, "free software").waitFor();
      assert.equal(await message(page, "malware").count(), 0);
    } finally {
      arq(["policy", "unbind", "words", "--platform"]);
    }
    await page.getByRole("button", { name: /^Dismiss/ }).click();
    assert.equal(await page.getByRole("alert").count(), 0);
    assert.equal(await page.evaluate(() => document.activeElement?.id), "payload", "the keyboard is not lost");
  }));

test("a page of its own speaks with Shield by JSON, without any library", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    const { shields } = JSON.parse(arq(["status", "--json"])) as { shields: { public_address: string }[] };
    const token = arq(["auth", "gen", "--user", "ada"]).trim();
    // As typed into a console of the browser, on no page at all.
    const heard = await page.evaluate(
      ([url, bearer]) =>
        new Promise<string[]>((resolve, reject) => {
          const socket = new WebSocket(url ?? "", ["arqon.v1+json", `arqon.bearer.${bearer}`]);
          const frames: string[] = [socket.protocol];
          const send = (frame: object): void => socket.send(JSON.stringify(frame));
          socket.onerror = () => reject(new Error("no session"));
          socket.onopen = () => send({ op: "OPCODE_JOIN", room: "by-json", ref: 1 });
          socket.onmessage = ({ data }) => {
            const frame = JSON.parse(String(data)) as { op: string; payload?: string; error?: { name: string; message: string } };
            frames.push(frame.op);
            if (frame.op === "OPCODE_JOINED") send({ op: "OPCODE_PUBLISH", room: "by-json", payload: btoa("hello") });
            if (frame.op === "OPCODE_MESSAGE") {
              frames.push(atob(frame.payload ?? ""));
              send({ op: "OPCODE_PUBLISH", room: "by-json", publish: { ack: "yes" } });
            }
            if (frame.op === "OPCODE_ERROR") {
              frames.push(frame.error?.name ?? "", frame.error?.message ?? "");
              socket.onclose = () => resolve([socket.protocol, ...frames.slice(1)]);
              socket.close(1000);
            }
          };
        }),
      [shields[0]?.public_address, token],
    );
    assert.deepEqual(heard.slice(0, -1), ["arqon.v1+json", "OPCODE_WELCOME", "OPCODE_JOINED", "OPCODE_MESSAGE", "hello", "OPCODE_ERROR", "JSON_INVALID"]);
    assert.match(heard.at(-1) ?? "", /^`publish\.ack`: /);
  }));

test("a token that is refused says why, with its code", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    await page.goto(served.url);
    await page.getByText("With a token of your own").click();
    const paste = async (token: string): Promise<void> => {
      await page.getByLabel("Token (JWT)").fill(token);
      await page.getByRole("button", { name: "Connect with this token" }).click();
    };
    await paste(arq(["auth", "gen", "--ttl", "-5m"]));
    await alertWith(page, "1003", "TOKEN_EXPIRED", "Get a new one");
    await status(page, "Not connected: TOKEN_EXPIRED");
    await paste(arq(["auth", "gen", "--tenant", "nobody"]));
    await alertWith(page, "1005", "TOKEN_UNTRUSTED");
    await paste("no token\nat all!");
    await alertWith(page, "1002", "TOKEN_MALFORMED");
    await paste(`  ${arq(["auth", "gen", "--user", "paul", "--join", "public.*"])}\n`);
    await status(page, "Connected as paul of acme");
    assert.equal(await page.getByRole("alert").count(), 0);
    await page.getByLabel("Room to join").fill("private");
    await page.keyboard.press("Enter");
    await alertWith(page, "3004", "JOIN_FORBIDDEN");
    await page.getByLabel("Room to join").fill("no room!");
    await page.keyboard.press("Enter");
    await alertWith(page, "2005", "ROOM_NAME_INVALID");
    assert.equal(await page.locator("#rooms li").count(), 0);
  }));

test("a development token is replaced before it ends, a pasted one is not", () =>
  withTabs(2, async (renewed, pasted) => {
    assert.ok(renewed !== undefined && pasted !== undefined);
    // The first token is a short one; those after it are as ever.
    await renewed.route("**/api/token", (route) => {
      const json = { token: arq(["auth", "gen", "--user", "rena", "--ttl", "6s"]).trim(), expires_at: Date.now() / 1000 + 3_600 };
      return route.fulfill({ json });
    }, { times: 1 });
    await connectAs(renewed, served.url, "rena");
    const until = (): Promise<string> => renewed.locator("#session dt:text-is('token until') + dd").innerText();
    const before_ = await until();
    await joinRoom(renewed, "lasting");

    await pasted.goto(served.url);
    await pasted.getByText("With a token of your own").click();
    await pasted.getByLabel("Token (JWT)").fill(arq(["auth", "gen", "--user", "paul", "--ttl", "6s"]));
    await pasted.getByRole("button", { name: "Connect with this token" }).click();
    await status(pasted, "Connected as paul of acme");
    await alertWith(pasted, "The token ends at", "connect with a new one");
    await alertWith(pasted, "4005", "TOKEN_EXPIRED_CLOSE", "Get a new one");
    await status(pasted, "Not connected: TOKEN_EXPIRED_CLOSE");

    await renewed.locator("#events", { hasText: "The token was replaced on the live session" }).waitFor();
    assert.notEqual(await until(), before_);
    await say(renewed, "still here");
    await message(renewed, "still here").waitFor();
    assert.equal(await renewed.locator("#events .warn").count(), 0, "the connection never broke");
  }));

test("a Shield that dies and comes back finds the page in its rooms", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    await connectAs(page, served.url, "ada");
    await joinRoom(page, "steady");
    await say(page, "before");
    await message(page, "before").waitFor();

    await bus.killShield();
    await status(page, "Trying again after");
    await alertWith(page, "5010", "CONNECTION_LOST");
    await alertWith(page, "5002", "UNREACHABLE", "arq dev up");
    await say(page, "nobody hears this");
    await alertWith(page, "5011", "NOT_CONNECTED");
    await bus.up();
    await status(page, "Connected as ada of acme");
    await page.locator("#log .note.warn", { hasText: "was not heard" }).waitFor();
    await people(page, "ada").waitFor();
    await say(page, "after");
    await message(page, "after").waitFor();
    assert.equal(await message(page, "before").count(), 1, "what was heard stays");
    assert.equal(await message(page, "nobody hears this").count(), 0);

    // In good order it says so before.
    await bus.down();
    await page.locator("#events", { hasText: "GOAWAY" }).waitFor();
    await page.locator("#events .bad", { hasText: "4001 GOING_AWAY" }).waitFor();
    await bus.up();
    await status(page, "Connected as ada of acme");
    await say(page, "and again");
    await message(page, "and again").waitFor();
  }));

test("hostile messages are harmless", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    await connectAs(page, served.url, "ada");
    await joinRoom(page, "hostile");
    const markup = `<img src=x onerror="trespass('xss')"><script>trespass('xss')</script>`;
    arq(["pub", "hostile", markup, "--user", "mallory"]);
    arq(["pub", "hostile", "invoice \u202Efdp.exe\u200B\u001B[2J", "--user", "mallory"]);
    arq(["pub", "hostile", "-", "--user", "mallory"], Uint8Array.of(0xff, 0xfe, 0x3c, 0x00, 0xc3));
    arq(["pub", "hostile", "-", "--user", "mallory"], "\n".repeat(5_000));
    arq(["pub", "hostile", "-", "--user", "mallory"], `${"A".repeat(61_430)}!the-end`.slice(0, 61_440));
    await page.locator("#log .entry").nth(4).waitFor();

    const shown = message(page, "<img src=x");
    assert.ok((await shown.innerText()).includes(markup), "as text");
    assert.equal(await page.locator("#log img, #log script").count(), 0);
    const bidi = await message(page, "invoice").innerText();
    assert.ok(bidi.includes("invoice \\u{202e}fdp.exe\\u{200b}\\u{1b}[2J"), bidi);

    const binary = message(page, "ff fe 3c 00 c3");
    await binary.locator("summary").click();
    await binary.locator("pre", { hasText: "000000  ff fe 3c 00 c3" }).waitFor();
    assert.equal(await binary.getByRole("button", { name: "As text" }).count(), 0);

    const large = message(page, "AAAA");
    const box = await large.boundingBox();
    assert.ok(box !== null && box.height < 300, `a row of ${box?.height} px`);
    assert.ok((await message(page, "4.88 KiB").boundingBox())?.height ?? 999 < 300, "five thousand lines are six");
    await large.locator("summary").click();
    await large.getByRole("button", { name: "Show all 60 KiB" }).click();
    assert.ok((await large.locator("pre").innerText()).endsWith("!the-end"));

    // What is too large is refused, and the page survives it.
    await say(page, "B".repeat(65_000));
    await alertWith(page, "2007", "PAYLOAD_TOO_LARGE");
    const room = "<b>hostile</b>";
    await page.getByLabel("Room to join").fill(room);
    await page.keyboard.press("Enter");
    await alertWith(page, "2005", "ROOM_NAME_INVALID");

    // A flood stays bounded.
    const lines = Array.from({ length: 700 }, (_, at) => `flood ${at}`).join("\n");
    arq(["pub", "hostile", "-", "--lines", "--user", "mallory"], lines);
    await message(page, "flood 699").waitFor();
    const entries = await page.locator("#log > *").count();
    assert.ok(entries <= 500, `${entries} entries`);
  }));

test("all of it works by the keyboard alone", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    const focused = (): Promise<string> => page.evaluate(() => document.activeElement?.id ?? "");
    const tabTo = async (id: string): Promise<void> => {
      for (let presses = 0; presses < 40 && (await focused()) !== id; presses++) await page.keyboard.press("Tab");
      assert.equal(await focused(), id);
      const outline = await page.evaluate(() => getComputedStyle(document.activeElement as Element).outlineStyle);
      assert.notEqual(outline, "none", `#${id} shows its focus`);
    };
    await page.goto(served.url);
    await page.waitForFunction(() => document.activeElement?.id === "tenant");
    await tabTo("user");
    await page.keyboard.press("Control+A");
    await page.keyboard.type("kay");
    await page.keyboard.press("Enter");
    await status(page, "Connected as kay of acme");
    await page.waitForFunction(() => document.activeElement?.id === "room");
    await page.keyboard.type("keys");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement?.id === "payload");
    for (const text of ["one", "two", "three"]) {
      await page.keyboard.type(text);
      await page.keyboard.press("Enter");
      await message(page, text).waitFor();
      await page.waitForFunction(() => (document.activeElement as HTMLTextAreaElement).value === "");
    }
    await page.keyboard.type("a");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("b");
    assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "a\nb");

    // Back into the log: one stop, arrows within, Enter opens, Escape returns.
    await page.keyboard.press("Shift+Tab");
    assert.equal(await focused(), "log");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Enter");
    await message(page, "two").locator(".facts").waitFor();
    await page.keyboard.press("Home");
    await page.keyboard.press("Enter");
    await message(page, "one").locator(".facts").waitFor();
    await page.keyboard.press("Escape");
    assert.equal(await focused(), "log");
    await tabTo("payload");

    // Out again.
    await page.keyboard.press("Shift+Tab");
    for (let presses = 0; presses < 40 && (await focused()) !== "disconnect"; presses++) await page.keyboard.press("Shift+Tab");
    assert.equal(await focused(), "disconnect");
    await page.keyboard.press("Enter");
    await status(page, "Not connected");
    assert.equal(await focused(), "tenant");
  }));

test("axe finds nothing, in light and dark, wide and narrow", async () => {
  const axe = readFileSync(join(import.meta.dirname, "../../node_modules/axe-core/axe.min.js"), "utf8");
  const judge = async (page: Page, where: string): Promise<void> => {
    const found = await page.evaluate(async (source) => {
      const scope = globalThis as unknown as { axe?: { run(options: unknown): Promise<{ violations: unknown[]; passes: unknown[] }> } };
      if (scope.axe === undefined) (0, eval)(source);
      const { violations, passes } = (await scope.axe?.run({ resultTypes: ["violations"] })) ?? { violations: ["axe did not run"], passes: [] };
      return { violations, passes: passes.length };
    }, axe);
    assert.deepEqual(found.violations, [], `${where}: ${JSON.stringify(found.violations, undefined, 1)}`);
    assert.ok(found.passes > 20, `${where}: ${found.passes} rules passed`);
  };
  for (const colorScheme of ["light", "dark"] as const) {
    for (const width of [1440, 900, 360]) {
      const where = `${colorScheme}, ${width} px`;
      // axe needs eval, which the page's policy forbids; the policy is what the other tests hold.
      const page = await tab(browser, { colorScheme, viewport: { width, height: 800 }, bypassCSP: true, reducedMotion: "reduce" });
      await page.goto(served.url);
      await page.getByLabel("Tenant").waitFor();
      await page.getByText("With a token of your own").click();
      await judge(page, `${where}, before connecting`);
      await connectAs(page, served.url, "ada");
      await judge(page, `${where}, no room`);
      await page.getByText("How to join").click();
      await joinRoom(page, "axe");
      arq(["pub", "axe", "bytes \u202E and more", "--user", "bob"]);
      arq(["pub", "axe", "-", "--user", "bob"], Uint8Array.of(0xff));
      await say(page, "mine");
      await message(page, "mine").locator("summary").click();
      await page.getByLabel("Room to join").fill("no room!");
      await page.keyboard.press("Enter");
      await alertWith(page, "ROOM_NAME_INVALID");
      await page.locator("#latency tr", { hasText: "PING" }).filter({ hasText: /\d (µs|ms)/ }).waitFor();
      await judge(page, `${where}, in a room`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(wide, 0, `${where}: scrolls sideways by ${wide} px`);
      await page.context().close();
    }
  }
});

test("without its key, or under another name, the page is nothing", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    await page.goto(served.url.replace(/#.*/, "#key=wrong"));
    await alertWith(page, "the key of this page is not that of the running `arq dev open`");
    assert.ok(!(await page.getByRole("button", { name: "Connect", exact: true }).isVisible()));

    // DNS rebinding: Chromium resolves this name to 127.0.0.1.
    const answer = await page.request.fetch(`http://127.0.0.1:${served.port}/`, { headers: { Host: "rebound.example" } });
    assert.equal(answer.status(), 421);
    const rebound = await browser.newPage();
    const refused = await rebound.goto(`http://rebound.example:${served.port}/`);
    assert.equal(refused?.status(), 421);
    await rebound.close();

    // A page of another origin of this machine, as any local program may serve one.
    const other = await openConsole();
    const key = new URL(served.url).hash.slice("#key=".length);
    const stranger = await browser.newPage({ bypassCSP: true });
    await stranger.goto(other.url);
    const stolen = await stranger.evaluate(
      async ([port, secret]) => {
        const question = { method: "POST", body: '{"tenant":"acme","user":"ann"}' };
        const headers = { "content-type": "application/json", "arqon-console-key": String(secret) };
        const tries = [{ ...question, headers }, question, { ...question, mode: "no-cors" as const }];
        const said: string[] = [];
        for (const options of tries) {
          said.push(await fetch(`http://127.0.0.1:${port}/api/token`, options).then((heard) => heard.text(), () => ""));
        }
        return said;
      },
      [served.port, key] as const,
    );
    assert.deepEqual(stolen, ["", "", ""], "nothing of it is told to another origin");
    await stranger.close();
    assert.equal(await stop(other.child), 0);
  }));

test("what the policy of the page forbids does not happen, and is noticed", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    await page.goto(served.url);
    await page.getByLabel("Tenant").waitFor();
    const before_ = trespasses.length;
    const outcomes = await page.evaluate(async () => {
      const failed = async (act: () => unknown): Promise<boolean> => {
        try {
          await act();
          return false;
        } catch {
          return true;
        }
      };
      const parsed = await failed(() => (document.body.innerHTML += "<b>x</b>"));
      const fetched = await failed(() => fetch("http://127.0.0.1:9/"));
      const image = await failed(() => new Promise((resolve, reject) => {
        const element = document.createElement("img");
        element.addEventListener("load", resolve);
        element.addEventListener("error", reject);
        element.src = "/favicon.ico";
        document.body.append(element);
      }));
      const socket = await failed(() => new Promise((resolve, reject) => {
        const other = new WebSocket("ws://127.0.0.1:9/");
        other.addEventListener("open", resolve);
        other.addEventListener("error", reject);
      }));
      return { parsed, fetched, image, socket };
    });
    assert.deepEqual(outcomes, { parsed: true, fetched: true, image: true, socket: true });
    await page.waitForFunction(() => true);
    const noticed = trespasses.splice(before_).join("\n");
    for (const directive of ["require-trusted-types-for", "connect-src: http://127.0.0.1:9/", "img-src", "connect-src: ws://127.0.0.1:9/"]) {
      assert.ok(noticed.includes(directive), `${directive} in ${noticed}`);
    }
  }));

test("when arq has ended, the page says so", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    const short = await openConsole();
    await page.goto(short.url);
    await page.getByLabel("Tenant").waitFor();
    assert.equal(await stop(short.child), 0);
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await alertWith(page, "`arq dev open`, which served this page, has ended");
  }));

test("where there is no ArqonBus yet, the page says what to do", () =>
  withTabs(1, async (page) => {
    assert.ok(page !== undefined);
    const alone = await openConsole(["--no-browser"], process.env, join(process.env["WORK"] ?? "", "nothing"));
    await page.goto(alone.url);
    await page.getByText("arq dev up makes one; then reload this page").waitFor();
    await page.getByLabel("Token (JWT)").waitFor();
    assert.ok(!(await page.getByRole("button", { name: "Connect", exact: true }).isVisible()));
    assert.equal(await stop(alone.child), 0);
  }));

test("on a desktop the browser is opened by itself", async () => {
  // The desktop of this test has Chromium for a browser, one that tells what it sees.
  const home = join(process.env["WORK"] ?? "", "desktop");
  const seen = join(home, "seen.html");
  const flags = `--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --user-data-dir=${home}/profile`;
  for (const folder of ["config", "data/applications"]) mkdirSync(join(home, folder), { recursive: true });
  writeFileSync(join(home, "browser"), `#!/bin/sh\nchromium ${flags} --virtual-time-budget=10000 --dump-dom "$1" >"${seen}.part" 2>/dev/null\nmv "${seen}.part" "${seen}"\n`);
  chmodSync(join(home, "browser"), 0o755);
  writeFileSync(join(home, "data/applications/seer.desktop"), `[Desktop Entry]\nType=Application\nName=Seer\nExec=${home}/browser %u\nMimeType=x-scheme-handler/http;\n`);
  writeFileSync(join(home, "config/mimeapps.list"), "[Default Applications]\nx-scheme-handler/http=seer.desktop\n");
  const env = { ...process.env, DISPLAY: ":99", XDG_CONFIG_HOME: join(home, "config"), XDG_DATA_HOME: join(home, "data") };
  const opened = await openConsole([], env);
  assert.equal(opened.asked, true);
  const deadline = Date.now() + PATIENCE;
  while (!existsSync(seen)) {
    assert.ok(Date.now() < deadline, "no browser was opened");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const page = readFileSync(seen, "utf8");
  assert.match(page, /<code id="shield-url">ws:\/\/127\.0\.0\.1:\d+\/v1\/socket<\/code>/, "the page had its key");
  assert.equal(await stop(opened.child, "SIGINT"), 0);
});

test("no page asked another host, broke its policy, or failed unheard", async () => {
  const policy = await new Promise((resolve, reject) => {
    get(`http://127.0.0.1:${served.port}/`, (answer) => {
      answer.resume();
      resolve(answer.headers["content-security-policy"]);
    }).on("error", reject);
  });
  assert.match(String(policy), /^default-src 'none'; .*connect-src 'self' ws:\/\/127\.0\.0\.1:\d+; /);
  assert.deepEqual(trespasses, []);
});
