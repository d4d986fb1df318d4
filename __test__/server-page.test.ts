// The server's page, as it is sent, and in a real browser.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

import test from 'ava';
import type { ExecutionContext } from 'ava';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';

import { pagePaths } from '../src/server/page-files.js';
import { browserPath, startBrowser } from './support/browser.js';
import { apiKey, runningServer } from './support/server.js';
import type { RunningServer } from './support/server.js';

let running: RunningServer;
let browser: Browser | undefined;
test.before(async () => {
  running = await runningServer({ parallel: 1, budget: 0.05 });
  if (browserPath !== undefined) browser = await startBrowser(browserPath);
});
test.after.always(async () => {
  await browser?.close();
  await running[Symbol.asyncDispose]();
});

/** The name says where the page was not looked at. */
const inBrowser = browserPath === undefined ? 'the page, which NO BROWSER looked at, since this machine has no Chromium' : 'the page in Chromium';

test('the files of the page allow nothing but each other, and are not sent again', async (t) => {
  const authorization = `Basic ${Buffer.from(`:${apiKey}`).toString('base64')}`;
  for (const path of pagePaths) {
    const get = async (headers: Record<string, string>) => await fetch(running.server.url + path, { headers: { authorization, ...headers } });
    const response = await get({});
    const body = await response.text();
    t.is(response.status, 200, path);
    const policy = response.headers.get('content-security-policy') ?? '';
    t.true(policy.startsWith("default-src 'none'; script-src 'self'; style-src 'self'") && !/unsafe|\*|data:|http/.test(policy), policy);
    t.is(response.headers.get('x-content-type-options'), 'nosniff');
    t.notRegex(body.replaceAll('http://www.w3.org/2000/svg', ''), /https?:\/\/|<script>|<style|\sstyle=|\son[a-z]+=|localStorage|sessionStorage|document\.cookie|innerHTML/, path);
    const etag = response.headers.get('etag')!;
    t.is((await get({ 'if-none-match': etag })).status, 304);
    t.is((await get({ 'if-none-match': etag, authorization: '' })).status, 401, 'what a browser has kept needs the key too');
    t.is((await get({ origin: 'https://evil.example' })).status, 403);
  }
  t.is((await fetch(`${running.server.url}/page/..%2f..%2fserver.js`, { headers: { authorization } })).status, 404);
});

const document_ = `${Array.from({ length: 55 }, (_, at) => `Line ${at} – ü. `).join('')}<img src=x onerror="document.title='taken'">`;

/** Violations that axe finds, of WCAG 2.2 A and AA and of good practice. */
async function violations(page: Page): Promise<string[]> {
  return await page.evaluate(async () => {
    interface Axe { run(options: object): Promise<{ violations: { id: string; nodes: { target: unknown }[] }[] }> }
    const { axe } = globalThis as unknown as { axe: Axe };
    const found = await axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] });
    return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => String(target)).join(', ')}`);
  });
}

/** Asks, by the keyboard alone, and waits until it was answered. */
async function ask(page: Page, question: string): Promise<void> {
  await page.locator('#question').focus();
  await page.keyboard.type(question);
  await page.keyboard.press('Enter');
  await page.locator('#status', { hasText: /^Answered/ }).waitFor();
}

test.serial(`${inBrowser}: a document is asked, and shows where keys were sampled, at what cost and how far off`, async (t) => {
  if (browser === undefined) {
    t.log('no Chromium: install one (Debian: apt-get install chromium), or name it in CHROMIUM');
    t.pass();
    return;
  }
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: 'light', reducedMotion: 'reduce', httpCredentials: { username: '', password: apiKey } });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const complaints: string[] = [];
  const asked = new Set<string>();
  page.on('console', (message) => { if (message.type() === 'error') complaints.push(message.text()); });
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('request', (request) => asked.add(new URL(request.url()).origin));
  await page.goto(running.server.url);
  await page.evaluate(readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8'));
  await page.locator('#model', { hasText: /^tiny/ }).waitFor();

  const text = async (id: string) => (await page.locator(`#${id}`).textContent()) ?? '';
  await page.setInputFiles('#file', { name: 'paper.pdf', mimeType: 'text/plain', buffer: Buffer.from('%PDF-\xe2\xe3\0', 'latin1') });
  await page.locator('#problem', { hasText: 'paper.pdf is no text in UTF-8' }).waitFor();
  t.is(await page.inputValue('#source'), '');
  await page.setInputFiles('#file', { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('ü'.repeat(9000)) });
  await page.locator('#size', { hasText: 'the model takes 2,048: shorten it' }).waitFor();
  t.is(await text('problem'), '');
  await page.fill('#source', document_);
  t.notRegex(await text('size'), /shorten/);
  await page.locator('summary').first().click();
  await page.fill('#most-tokens', '40');
  await ask(page, 'hello?');
  t.is(await page.title(), 'magicpig: ask a document', 'what is in a document is text');
  t.true((await text('text')).includes(document_));
  t.is(await page.locator('#strip rect').count(), await page.locator('#text span').count());
  t.regex(await text('keys'), /^\d+(\.\d)?%$/);
  t.regex(await text('ms'), /^\d+(\.\d)?\sms$/);
  t.is(await page.locator('#most button').count(), 5);
  t.true(await page.locator('#error-row').isHidden());
  t.true((await page.locator('#chart line').count()) > 3);

  // By keyboard: a place on the strip, another layer, the same place of the text.
  const strip = page.locator('#strip');
  await strip.focus();
  await page.keyboard.press('Home');
  const first = await strip.getAttribute('aria-valuetext');
  t.regex(first!, /^Tokens 0 to \d+: 0\.0% of the sampled keys/);
  await page.keyboard.press('PageDown');
  await page.keyboard.press('PageUp');
  await page.keyboard.press('PageUp');
  await page.keyboard.press('ArrowLeft');
  t.not(await strip.getAttribute('aria-valuetext'), first);
  t.is(await page.locator('#text span.here').count(), 1);
  const all = await strip.innerHTML();
  await page.selectOption('#layer', '1');
  t.not(await strip.innerHTML(), all);

  await page.click('#compare');
  await page.locator('#compared', { hasText: 'exact' }).waitFor();
  t.regex(await text('exact-ms'), /^\d+(\.\d)?\sms$/);
  t.deepEqual(await violations(page), [], 'light');

  await page.emulateMedia({ colorScheme: 'dark' });
  await page.selectOption('#mode', 'verified');
  await ask(page, 'and now?');
  t.regex(await text('error'), /^\d+(\.\d)?%, at most [0-5]\.\d%$/);
  t.is(await page.locator('#chart line.limit').count(), 1);
  t.regex(await text('status'), /known already/);
  await page.locator('summary').last().click();
  t.true((await page.locator('#tokens tbody tr').count()) > 1);
  t.deepEqual(await violations(page), [], 'dark');
  await page.setViewportSize({ width: 360, height: 740 });
  t.deepEqual(await violations(page), [], 'narrow');
  t.is(await page.evaluate('document.documentElement.scrollWidth'), 360);

  await page.evaluate("document.querySelector('label[for=question]').remove()");
  t.true((await violations(page)).some((found) => found.startsWith('label:')), 'what is amiss is found');
  t.deepEqual(complaints, []);
  t.deepEqual([...asked], [running.server.url]);
  await keepsNoKey(t, page);
  await context.close();
});

/** The browser has the key, and the page does not. */
async function keepsNoKey(t: ExecutionContext, page: Page): Promise<void> {
  const kept = await page.evaluate<string>('JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.documentElement.outerHTML])');
  t.false(kept.includes(apiKey));
}

test.serial(`${inBrowser}: its browser is asked for the key, where there is one, which then serves for all that the page does`, async (t) => {
  if (browser === undefined) {
    t.pass();
    return;
  }
  const opened = async (options: BrowserContextOptions, url = running.server.url) => {
    const context = await browser!.newContext(options);
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    const statuses: Record<string, number> = {};
    page.on('response', (response) => { statuses[new URL(response.url()).pathname] = response.status(); });
    await page.goto(url);
    return { context, page, statuses };
  };
  const wrong = await opened({ httpCredentials: { username: apiKey, password: 'wrong-key' } });
  t.deepEqual(wrong.statuses, { '/': 401 });
  t.regex(await wrong.page.locator('body').innerText(), /no valid key; .* in a browser as the password of any user/);
  await wrong.context.close();

  await using open = await runningServer({ apiKey: undefined });
  const ways = [
    await opened({ httpCredentials: { username: 'somebody', password: apiKey } }),
    // An address with the key in it, which the page's own requests must not take over.
    await opened({}, running.server.url.replace('//', `//:${apiKey}@`)),
    await opened({}, open.server.url),
  ];
  for (const { context, page, statuses } of ways) {
    await page.locator('#model', { hasText: /^tiny/ }).waitFor();
    t.deepEqual(Object.entries(statuses).filter(([, status]) => status !== 200), []);
    t.true('/v1/models' in statuses && '/page/main.js' in statuses);
    await context.close();
  }
});

test.serial(`${inBrowser}: where the server has another key, the page says how to go on, and does`, async (t) => {
  if (browser === undefined) {
    t.pass();
    return;
  }
  await using first = await runningServer({ parallel: 1 });
  const context = await browser.newContext({ httpCredentials: { username: '', password: apiKey } });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(first.server.url);
  await ask(page, 'hello?');
  await first.server.close();

  const newKey = 'another-key-for-tests';
  await using _second = await runningServer({ parallel: 1, apiKey: newKey, port: Number(new URL(first.server.url).port) });
  await page.fill('#question', 'and now?');
  await page.keyboard.press('Enter');
  await page.locator('#problem', { hasText: /another tab, which asks for the key/ }).waitFor();
  t.is(await page.inputValue('#question'), 'and now?');
  await context.setHTTPCredentials({ username: '', password: newKey });
  const tab = await context.newPage();
  await tab.goto(first.server.url);
  await tab.locator('#model', { hasText: /^tiny/ }).waitFor();
  await page.click('#send');
  await page.locator('#status', { hasText: /^Answered/ }).waitFor();
  t.is(await page.locator('#problem').textContent(), '');
  await context.close();
});
