// The dashboard in a real browser against a live worker with load: see README.md.
//
//   node run.mjs            the whole test
//   node run.mjs --pictures only the pictures of the README, into docs/images

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { ADMIN, GUEST, World, eventually, out, sleep } from './world.mjs';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
// Jobs on record that a search has to find its way among.
const JOBS = Number(process.env.JOBS ?? 1_000_000);
// With it, the first result of a search has to come within a second; otherwise its time is only told, since a machine
// that does much else says little.
const STRICT = process.env.STRICT === '1';
// With it, the page's files are those of the source tree and not what the binary has: to try a change without a build.
const SOURCE = process.env.SOURCE === '1';
const CAMPAIGN = 5_000;
const DESKTOP = { width: 1360, height: 900 };
const PHONE = { width: 360, height: 740 };

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const started = Date.now();
const say = (text) => console.log(`${((Date.now() - started) / 1000).toFixed(1).padStart(7)} s  ${text}`);

function check(holds, what) {
  if (!holds) throw new Error(`does not hold: ${what}`);
  say(`ok: ${what}`);
}

// Errors of the console that no phase of the test meant to cause.
class Console {
  constructor(page) {
    this.errors = [];
    this.meant = null;
    page.on('console', (message) => {
      if (message.type() === 'error' && !(this.meant?.test(message.text()))) this.errors.push(`${message.text()} ${message.location().url}`);
    });
    page.on('pageerror', (error) => this.errors.push(error.message));
  }

  async during(meant, deed) {
    this.meant = meant;
    await deed();
    await sleep(200);
    this.meant = null;
  }
}

// A page in a session of its own.
async function newPage(browser, world) {
  const context = await browser.newContext({ viewport: DESKTOP });
  if (SOURCE) {
    const dashboard = path.resolve(import.meta.dirname, '../../src/http/dashboard');
    await context.route(`${world.url}/assets/**`, async (route) => {
      const file = path.join(dashboard, new URL(route.request().url()).pathname.replace('/assets/', ''));
      // What is vendored has other names there, and doesn't change.
      if (file.includes('/vendor/')) await route.continue();
      else await route.fulfill({ path: file });
    });
  }
  return context.newPage();
}

// For people to look at; nothing compares them. Of a phone the whole page: most of it is below the edge.
async function picture(page, name) {
  await page.screenshot({ path: path.join(out, `${name.replaceAll(' ', '-')}.png`), fullPage: name.includes('phone') });
}

async function signIn(page, token) {
  await page.waitForSelector('input[name=token]');
  await page.fill('input[name=token]', token);
  await page.fill('input[name=name]', 'Ada');
  await page.keyboard.press('Enter');
}

async function audit(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  const grave = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
  const told = grave.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target.join(' ')).slice(0, 5).join(', ')}`);
  check(grave.length === 0, `axe finds nothing serious or critical ${where}${told.length ? `: ${told.join('; ')}` : ''}`);
}

async function go(page, hash) {
  await page.evaluate((to) => { location.hash = to; }, hash);
  await page.waitForTimeout(700);
}

const VIEWS = { 'now': '#/', 'found': '#/find?q=spring-sale', 'nothing found': '#/find?q=nobody-knows', 'a batch': '#/job/spring-1',
  'a single job': '#/job/order-1', 'a group': '#/group/spring-sale', 'what waits': '#/waiting', 'dead letters': '#/letters', 'the audit log': '#/audit' };

async function accessible(page) {
  for (const scheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme: scheme });
    for (const [device, size] of [['desktop', DESKTOP], ['phone', PHONE]]) {
      await page.setViewportSize(size);
      for (const [name, hash] of Object.entries(VIEWS)) {
        await go(page, hash);
        await audit(page, `on ${name}, ${device}, ${scheme}`);
        await picture(page, `${name} ${device} ${scheme}`);
        if (device === 'phone') await fits(page, name);
      }
    }
  }
  await page.setViewportSize(DESKTOP);
  await page.emulateMedia({ colorScheme: 'light' });
}

// On a phone nothing is cut off, and the ways to the other views are in sight wherever one has scrolled to.
async function fits(page, name) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(over <= 0, `nothing of ${name} is cut off on a phone (${over} px)`);
  const beyond = await page.$$eval('main button', (all) => all.filter((button) => button.getBoundingClientRect().right > innerWidth).map((button) => button.textContent));
  check(beyond.length === 0, `nothing that ${name} offers is beyond the edge of a phone${beyond.map((text) => `: ${text}`)}`);
  for (const to of ['the end', 'the beginning']) {
    const hidden = await page.evaluate((end) => {
      scrollTo(0, end ? document.documentElement.scrollHeight : 0);
      return [...document.querySelectorAll('.bar nav a')].filter((link) => {
        const { left, right, top, bottom } = link.getBoundingClientRect();
        const seen = left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
        return !seen || !link.contains(document.elementFromPoint((left + right) / 2, (top + bottom) / 2));
      }).map((link) => link.textContent);
    }, to === 'the end');
    check(hidden.length === 0, `every view can be reached from ${to} of ${name} on a phone${hidden.map((text) => `: not ${text}`)}`);
  }
}

async function finds(page) {
  const some = Math.floor(JOBS / 2);
  for (const [by, text, section] of [['id', `old-${some}`, '#by-id'], ['recipient', `person-${some}`, '#by-recipient'], ['group', `old-campaign-${some % 40}`, '#by-group']]) {
    await go(page, '#/find');
    await page.fill('main input[name=q]', text);
    const began = Date.now();
    await page.keyboard.press('Enter');
    await page.waitForSelector(`section[aria-labelledby=${section.slice(1)}] tbody tr`);
    const took = Date.now() - began;
    check(!STRICT || took < 1_000, `the first result by ${by} among ${JOBS} jobs came after ${took} ms`);
  }
  await go(page, '#/find');
  await page.fill('main input[name=q]', `old-${some}`);
  await page.keyboard.press('Enter');
  await page.click(`section[aria-labelledby=by-id] a.id >> text="old-${some}"`);
  await page.waitForSelector('.timeline li.outcome');
  check(page.url().includes(`/job/old-${some}`), 'a job that was found shows its timeline');
}

async function revokes(page, world) {
  await eventually('the campaign is sent', async () => (await world.api('GET', '/api/groups/spring-sale')).recipients?.sent === CAMPAIGN);
  await go(page, '#/group/spring-sale');
  await page.click('text=Revoke campaign …');
  await page.waitForSelector('dialog .counts');
  await audit(page, 'in the dialog of a revocation');
  await picture(page, 'revoke desktop light');
  await page.setViewportSize(PHONE);
  await picture(page, 'revoke phone light');
  await page.setViewportSize(DESKTOP);
  await page.fill('dialog input[name=confirm]', 'spring');
  check(await page.isDisabled('dialog button[type=submit]'), 'a wrong word confirms nothing');
  await page.fill('dialog input[name=confirm]', 'spring-sale');
  await page.keyboard.press('Enter');
  await page.waitForSelector('dialog progress');
  const seen = new Set();
  while (!(await page.isVisible('dialog .ended'))) {
    seen.add(await page.getAttribute('dialog progress', 'value'));
    await sleep(300);
  }
  check(seen.size >= 3, `the revocation's progress moved (${seen.size} steps were seen)`);
  const told = await page.textContent('dialog .ended');
  check(told.includes('5,000 revoked'), `it went to the end: ${told}`);
  const { recipients } = await world.api('GET', '/api/groups/spring-sale');
  check(recipients.revoked === CAMPAIGN, 'the records agree');
  await page.click('dialog button');
}

async function replays(page, world) {
  await world.faults(['sendmsg:code:90001=next:4,to=unlucky_*']);
  world.submit('normal', [0, 1, 2, 3].map((n) => ({ type: 'send', id: `unlucky-${n}`, from: 'shop', to: `unlucky_${n}`, message: { text: 'Hello' } })));
  await eventually('four dead letters', async () => (await world.api('GET', '/api/overview')).dead_letters === 4);
  await go(page, '#/letters');
  await page.waitForSelector('section[aria-labelledby=reasons] tbody tr');
  check((await page.textContent('section[aria-labelledby=reasons]')).includes('im-90001'), 'dead letters are told by their reason');
  for (const scheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme: scheme });
    for (const [device, size] of [['desktop', DESKTOP], ['phone', PHONE]]) {
      await page.setViewportSize(size);
      await audit(page, `on dead letters that are there, ${device}, ${scheme}`);
      await picture(page, `dead letters that are there ${device} ${scheme}`);
      if (device === 'phone') await fits(page, 'dead letters that are there');
    }
  }
  await page.setViewportSize(DESKTOP);
  await page.emulateMedia({ colorScheme: 'light' });
  await page.click('text=Replay all …');
  await page.waitForSelector('dialog .count');
  check((await page.textContent('dialog .count')).startsWith('4'), 'they are counted first');
  await page.fill('dialog input[name=confirm]', 'replay');
  await page.keyboard.press('Enter');
  await page.waitForSelector('dialog .ended');
  check((await page.textContent('dialog .ended')).includes('4 of 4 letters replayed'), 'they are replayed');
  await page.keyboard.press('Escape');
  await eventually('the jobs are sent', async () => {
    const states = await Promise.all([0, 1, 2, 3].map((n) => world.api('GET', `/api/jobs/unlucky-${n}`)));
    return states.every((job) => job.state === 'sent');
  });
  check(true, 'their jobs are sent');
}

// By keyboard alone.
async function pauses(page, world) {
  await go(page, '#/');
  const paused = (is) => eventually(`lane bulk is ${is ? '' : 'not '}paused`, async () => {
    const { lanes } = await world.api('GET', '/api/overview');
    return lanes.find(({ lane }) => lane === 'bulk')?.paused === is;
  });
  await page.focus('button[aria-label="Pause lane bulk"]');
  await page.keyboard.press('Enter');
  await page.waitForSelector('dialog select');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await paused(true);
  await page.waitForSelector('.banner >> text=lane bulk is paused');
  await audit(page, 'while a lane is paused');
  world.submit('bulk', [{ type: 'send', id: 'held', from: 'shop', to: 'alice', message: { text: 'Later' } }]);
  await page.waitForSelector('button[aria-label="Resume lane bulk"]');
  await page.focus('button[aria-label="Resume lane bulk"]');
  await page.keyboard.press('Enter');
  await page.waitForSelector('dialog button.primary');
  await page.focus('dialog button.primary');
  await page.keyboard.press('Enter');
  await paused(false);
  await page.waitForSelector('button[aria-label="Pause lane bulk"]');
  await eventually('what the lane held is sent', async () => (await world.api('GET', '/api/jobs/held')).state === 'sent');
  check(true, 'a lane is paused and resumed by keyboard');
}

async function comesBack(page, world, console) {
  await page.evaluate(() => { globalThis.sameDocument = true; });
  await console.during(/net::ERR_|Failed to load resource/, async () => {
    await world.end(world.worker, 'SIGKILL');
    await page.waitForSelector('.banner >> text=The worker behind this page is gone');
    check(await page.isVisible('section[aria-labelledby=workers] .state.bad'), 'a killed worker is shown as gone');
    await audit(page, 'while the worker is gone');
    await picture(page, 'gone desktop light');
    await page.setViewportSize(PHONE);
    await picture(page, 'gone phone light');
    await page.setViewportSize(DESKTOP);
    await world.startWorker();
    const began = Date.now();
    await page.waitForSelector('.banner >> text=The worker behind this page is gone', { state: 'detached', timeout: 30_000 });
    const took = Date.now() - began;
    check(took < 5_000, `the page is back ${took} ms after /readyz`);
  });
  check(await page.evaluate(() => globalThis.sameDocument === true), 'without a reload, and still signed in');
}

// What a page of another origin can make this browser do, which is signed in as the operator: the simulator's page is of the same
// site, so the session's cookie goes with the request, SameSite or not.
async function crossSite(context, world) {
  const page = await context.newPage();
  const act = `${world.url}/api/lanes/bulk/pause`;
  await page.goto(`${world.sim}/_sim/report`);
  // Neither needs a preflight. The answer to the first is kept from that page (Cross-Origin-Resource-Policy); the second's is seen.
  await page.evaluate((url) => fetch(url, { method: 'POST', mode: 'no-cors', credentials: 'include', body: '{}' }).catch(() => {}), act);
  const [answer] = await Promise.all([page.waitForResponse(act), page.evaluate((url) => {
    const form = document.body.appendChild(document.createElement('form'));
    Object.assign(form, { method: 'post', action: url, enctype: 'text/plain' });
    form.submit();
  }, act)]);
  check(answer.status() === 403, `a form of another origin is refused (${answer.status()})`);
  const { lanes } = await world.api('GET', '/api/overview');
  check(lanes.every(({ paused }) => !paused), 'what another origin asked for was not done');
  await page.close();
}

async function readOnly(browser, world) {
  const page = await newPage(browser, world);
  const errors = new Console(page);
  await page.goto(world.url);
  await page.waitForSelector('input[name=token]');
  for (const scheme of ['dark', 'light']) {
    await page.emulateMedia({ colorScheme: scheme });
    await audit(page, `on the sign-in page, ${scheme}`);
    await picture(page, `sign in desktop ${scheme}`);
  }
  await errors.during(/401/, async () => {
    await signIn(page, 'nonsense');
    await page.waitForSelector('.problem >> text=the token is wrong');
  });
  await signIn(page, GUEST);
  await page.waitForSelector('.figures');
  for (const hash of Object.values(VIEWS)) {
    await go(page, hash);
    const buttons = await page.$$eval('main button', (all) => all.map((button) => button.textContent));
    const acts = buttons.filter((text) => /pause|resume|revoke|replay|discard/i.test(text));
    check(acts.length === 0, `a reader is offered no act at ${hash}`);
  }
  await errors.during(/403/, async () => {
    const status = await page.evaluate(async () => (await fetch('/api/lanes/bulk/pause', { method: 'POST', headers: { 'x-im-dispatcher': 'dashboard', 'content-type': 'application/json' }, body: '{}' })).status);
    check(status === 403, 'and can do none');
  });
  check((await page.evaluate(() => document.cookie)) === '', 'no script reads the session');
  check(errors.errors.length === 0, `no console error for a reader${errors.errors.map((text) => `: ${text}`)}`);
  await page.context().close();
}

async function load(world) {
  await world.faults(['sendmsg:code:60007=nth:700', 'sendmsg:cut_after=nth:900', 'sendmsg:code:80003=nth:600']);
  const to = Array.from({ length: CAMPAIGN }, (_, n) => `member_${n}`);
  world.submit('bulk', [{ type: 'batch_send', id: 'spring-1', group: 'spring-sale', from: 'shop', to, message: { text: 'Spring sale' } }]);
  world.submit('normal', Array.from({ length: 30 }, (_, n) => ({ type: 'send', id: `reminder-${n}`, group: 'reminders', from: 'shop', to: `customer_${n}`, send_at: new Date(Date.now() + 60_000 * (10 + n * n)).toISOString(), message: { text: 'Reminder' } })));
  world.submit('normal', Array.from({ length: 8_000 }, (_, n) => ({ type: 'send', id: `order-${n}`, group: 'orders', from: 'shop', to: `${n % 97 === 50 ? 'unknown' : 'customer'}_${n}`, message: { text: 'Your order' } })));
}

async function pictures(page, world) {
  const images = path.resolve(import.meta.dirname, '../../docs/images');
  await page.setViewportSize({ width: 1280, height: 860 });
  await world.startSecond();
  await go(page, '#/');
  await sleep(35_000);
  await page.screenshot({ path: path.join(images, 'dashboard.png') });
  await eventually('the campaign is sent', async () => (await world.api('GET', '/api/groups/spring-sale')).recipients?.sent === CAMPAIGN);
  await page.emulateMedia({ colorScheme: 'dark' });
  await go(page, '#/group/spring-sale');
  await page.click('text=Revoke campaign …');
  await page.waitForSelector('dialog .counts');
  await page.fill('dialog input[name=confirm]', 'spring-sale');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelector('dialog progress')?.value > 0.4);
  await page.screenshot({ path: path.join(images, 'dashboard-revoke.png') });
}

const world = await World.start(process.argv.includes('--pictures') ? 'demo' : 'browser');
let browser = null;
let failed = null;
try {
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
  const page = await newPage(browser, world);
  page.setDefaultTimeout(120_000);
  const errors = new Console(page);
  await load(world);
  await page.goto(world.url);
  await signIn(page, ADMIN);
  await page.waitForSelector('.figures');
  check((await page.title()).includes('im-dispatcher'), 'signed in');
  try {
    if (process.argv.includes('--pictures')) {
      await pictures(page, world);
    } else {
      await accessible(page);
      await revokes(page, world);
      await replays(page, world);
      await pauses(page, world);
      await comesBack(page, world, errors);
      world.fill(JOBS);
      say(`${JOBS} jobs are on record`);
      await finds(page);
      await crossSite(page.context(), world);
      await readOnly(browser, world);
    }
  } catch (error) {
    await page.screenshot({ path: path.join(out, 'failed.png'), fullPage: true });
    throw error;
  }
  check(errors.errors.length === 0, `no console error${errors.errors.map((text) => `: ${text}`)}`);
} catch (error) {
  failed = error;
} finally {
  await browser?.close();
  await world.stop();
}
if (failed) {
  console.error(failed);
  process.exit(1);
}
say('the dashboard works');
