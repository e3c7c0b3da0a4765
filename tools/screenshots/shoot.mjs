// Called by shoot.sh: REPORT OUTDIR CHROMIUM.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [report, out, executablePath] = process.argv.slice(2);
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const VIEWS = [
  { name: "wide-light", width: 1280, height: 900, colorScheme: "light" },
  { name: "wide-dark", width: 1280, height: 900, colorScheme: "dark" },
  { name: "narrow-light", width: 390, height: 844, colorScheme: "light" },
  { name: "narrow-dark", width: 390, height: 844, colorScheme: "dark" },
];

const errors = [];
const profile = await mkdtemp(join(tmpdir(), "darwin-shots-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath, args: FLAGS, headless: true, offline: true, deviceScaleFactor: 1,
});
try {
  for (const view of VIEWS) {
    const page = await context.newPage();
    const say = (what) => errors.push(`${view.name}: ${what}`);
    page.on("console", (m) => ["error", "warning"].includes(m.type()) && say(`console: ${m.text()}`));
    page.on("pageerror", (e) => say(`page error: ${e.message}`));
    page.on("request", (r) => /^(file|data|blob):/.test(r.url()) || say(`request: ${r.url()}`));
    await page.setViewportSize({ width: view.width, height: view.height });
    await page.emulateMedia({ colorScheme: view.colorScheme });
    await page.goto(pathToFileURL(report).href);
    await page.waitForFunction(() => document.documentElement.dataset.ready === "true", null, { timeout: 120000 });
    await check(page, say);
    await page.screenshot({ path: join(out, `${view.name}.png`), fullPage: true });
    await page.close();
  }
  await live(context);
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
for (const error of errors) console.error(error);
process.exit(errors.length ? 1 : 0);

// Every figure drawn, and nothing wider than the window.
async function check(page, say) {
  const { empty, drawn, overflow } = await page.evaluate(() => {
    const plots = [...document.querySelectorAll(".plot")];
    const svg = (p) => p.querySelector("svg.main-svg");
    return {
      drawn: plots.length,
      empty: plots.filter((p) => !svg(p)).map((p) => p.id),
      overflow: document.documentElement.scrollWidth - window.innerWidth,
    };
  });
  if (empty.length) say(`figures not drawn: ${empty.join(", ")}`);
  if (overflow > 0) say(`the page is ${overflow} px wider than the window`);
  console.log(`${page.viewportSize().width} px: ${drawn} figures`);
}

// A page that is open while the system turns dark, or the window narrow, follows.
async function live(context) {
  const page = await context.newPage();
  page.on("pageerror", (e) => errors.push(`live: page error: ${e.message}`));
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });
  await page.goto(pathToFileURL(report).href);
  await page.waitForFunction(() => document.documentElement.dataset.ready === "true", null, { timeout: 120000 });
  const look = () => page.evaluate(() => {
    const p = document.querySelector(".plot");
    return p && { colour: p.layout.font.color, width: p.querySelector("svg.main-svg").clientWidth };
  });
  const before = await look();
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForTimeout(1500);
  const after = await look();
  if (before && before.colour === after.colour) errors.push("live: figures did not turn dark");
  if (before && after.width > 390) errors.push(`live: figures stayed ${after.width} px wide`);
  await page.close();
}
