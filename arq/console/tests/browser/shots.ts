// Pictures of the page for who changes how it looks: light, dark, narrow. They are of arq/console/dist,
// so that arq need not be built anew for each look.

import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { alertWith, arq, Bus, connectAs, joinRoom, launch, message, openConsole, say, stop, tab } from "./support.ts";

const folder = process.argv[2] ?? "shots";
mkdirSync(folder, { recursive: true });
const bus = new Bus();
await bus.up();
const console_ = await openConsole();
// A page that is put in place of another comes from nowhere, and so from no local network.
const browser = await launch(["--disable-features=LocalNetworkAccessChecks"]);

async function shot(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: join(folder, `${name}.png`) });
  process.stdout.write(`${join(folder, `${name}.png`)}\n`);
}

/** The page of dist/, in place of the one inside arq. */
async function fresh(page: Page): Promise<void> {
  const body = readFileSync(join(import.meta.dirname, "../../dist/console.html"), "utf8");
  await page.route(`http://127.0.0.1:${console_.port}/`, (route) => route.fulfill({ body, contentType: "text/html; charset=utf-8" }));
}

async function fill(page: Page): Promise<void> {
  await connectAs(page, console_.url, "ada");
  await page.getByText("How to join").click();
  await page.getByLabel("What others see of you").fill("name=Ada Lovelace\nrole=host");
  await joinRoom(page, "team.news");
  await page.getByText("How to join").click();
  await joinRoom(page, "lobby");
  arq(["pub", "team.news", "standup in five minutes", "--user", "carol"]);
  for (const [user, text] of [
    ["grace", "hello from the shell"],
    ["linus", '{"order": 4711, "status": "shipped", "items": [{"sku": "A-1", "count": 3}]}'],
    ["grace", "two\nlines"],
  ] as const) {
    arq(["pub", "lobby", text, "--user", user]);
  }
  arq(["pub", "lobby", "-", "--user", "sensor"], Uint8Array.from({ length: 40 }, (_, at) => (at * 37 + 200) & 0xff));
  arq(["pub", "lobby", "invoice \u202Efdp.exe", "--user", "mallory"]);
  await say(page, "hello, everybody");
  await message(page, "hello, everybody").waitFor();
  await say(page, "free malware for all");
  await alertWith(page, "POLICY_BLOCKED");
  await message(page, "hello, everybody").locator("summary").click();
  await page.waitForTimeout(6_000);
}

arq(["policy", "add", "blocklist", "--words", "malware", "--platform", "--name", "shots"]);
const other = await tab(browser);
await connectAs(other, console_.url, "grace");
await joinRoom(other, "lobby");
for (const colorScheme of ["light", "dark"] as const) {
  const page = await tab(browser, { colorScheme, viewport: { width: 1440, height: 900 } });
  await fresh(page);
  await page.goto(console_.url);
  await page.getByLabel("Tenant").waitFor();
  await shot(page, `${colorScheme}-start`);
  await fill(page);
  await shot(page, `${colorScheme}-room`);
  await page.setViewportSize({ width: 900, height: 800 });
  await shot(page, `${colorScheme}-medium`);
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: join(folder, `${colorScheme}-narrow.png`), fullPage: true });
  await page.context().close();
}
await browser.close();
await stop(console_.child);
await bus.down();
