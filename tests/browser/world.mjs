// A database and a namespace of this run's own on given services, a simulated IM API, a worker, load.

import { execFileSync, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';

const repo = path.resolve(import.meta.dirname, '../..');
const bin = path.resolve(repo, process.env.IMD_BIN ?? path.join(process.env.CARGO_TARGET_DIR ?? 'target', 'debug'));
const binary = path.join(bin, 'im-dispatcher');
export const out = path.join(import.meta.dirname, 'out');
export const ADMIN = 'browser-test-admin';
export const GUEST = 'browser-test-guest';

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function eventually(what, probe, patience = 120_000) {
  const end = Date.now() + patience;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${patience / 1000} s: ${what}`);
    await sleep(100);
  }
}

const freePort = () => new Promise((resolve, reject) => {
  const server = createServer();
  server.once('error', reject);
  server.listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

export class World {
  static async start(prefix) {
    const world = new World();
    mkdirSync(out, { recursive: true });
    const { DATABASE_URL: database, AMQP_URL: amqp } = process.env;
    if (!database || !amqp) throw new Error('DATABASE_URL and AMQP_URL name the services: scripts/services.sh up');
    world.name = `${prefix}_${process.pid % 1000}${Math.floor(Math.random() * 10_000)}`;
    world.given = database;
    world.sql(database, `CREATE DATABASE ${world.name}`);
    const own = new URL(database);
    own.pathname = `/${world.name}`;
    world.database = own.href;
    const sim = await freePort();
    world.http = await freePort();
    world.url = `http://127.0.0.1:${world.http}`;
    world.sim = `http://127.0.0.1:${sim}`;
    world.env = {
      ...process.env,
      DATABASE_URL: world.database,
      AMQP_URL: amqp,
      IM_DISPATCHER_NAMESPACE: world.name,
      IM_BASE_URL: world.sim,
      IM_SDK_APP_ID: '1400000000',
      IM_ADMIN_ACCOUNT: 'administrator',
      // The public sample key of the service's documentation, the simulator's too.
      IM_SECRET_KEY: '5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e',
      IM_DISPATCHER_HTTP_ADDR: `127.0.0.1:${world.http}`,
      IM_DISPATCHER_ADMIN_TOKEN: ADMIN,
      IM_DISPATCHER_READONLY_TOKEN: GUEST,
    };
    world.simulator = world.spawn('simulator', ['simulate', '--listen', `127.0.0.1:${sim}`]);
    await eventually('the simulator answers', () => world.answers(`${world.sim}/_sim/report`));
    await world.startWorker();
    return world;
  }

  sql(url, text) {
    return execFileSync('psql', [url, '-XqAt', '-v', 'ON_ERROR_STOP=1', '-c', text], { encoding: 'utf8' }).trim();
  }

  query(text) {
    return this.sql(this.database, text);
  }

  spawn(name, args, extra = {}) {
    const log = createWriteStream(path.join(out, `${name}.log`), { flags: 'a' });
    const child = spawn(binary, args, { env: { ...this.env, ...extra }, stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.pipe(log);
    child.stderr.pipe(log);
    return child;
  }

  async startWorker() {
    this.worker = this.spawn('worker', ['worker']);
    await eventually('the worker is ready', () => this.answers(`${this.url}/readyz`));
  }

  // Another worker of the fleet, whose page nobody looks at.
  async startSecond() {
    const port = await freePort();
    this.second = this.spawn('second', ['worker'], { IM_DISPATCHER_HTTP_ADDR: `127.0.0.1:${port}` });
    await eventually('the second worker is ready', () => this.answers(`http://127.0.0.1:${port}/readyz`));
  }

  async answers(url) {
    try {
      return (await fetch(url, { signal: AbortSignal.timeout(2_000) })).ok;
    } catch {
      return false;
    }
  }

  cli(args, input = '') {
    return execFileSync(binary, args, { env: this.env, input, encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'], maxBuffer: 1 << 26 });
  }

  submit(lane, jobs) {
    this.cli(['submit', '--lane', lane, '-'], jobs.map((job) => JSON.stringify(job)).join('\n'));
  }

  async api(method, where, body) {
    const response = await fetch(this.url + where, {
      method,
      headers: { authorization: `Bearer ${ADMIN}`, 'content-type': 'application/json', 'x-im-actor': 'browser test' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    return response.json();
  }

  async faults(rules) {
    await fetch(`${this.sim}/_sim/faults`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ add: rules }) });
  }

  // So many jobs that were sent long ago, with a message each.
  fill(jobs) {
    this.query(`INSERT INTO jobs (id, created_at, digest, type, app, group_name, lane, owner, state, total)
      SELECT 'old-' || n, now() - interval '1 day' - n * interval '10 milliseconds', '\\x00', 0, 'default',
             'old-campaign-' || n % 40, 1, 0, 1, 1 FROM generate_series(1, ${jobs}) n;
      INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state, attempts, msg_key, msg_time, sent_at)
      SELECT created_at, id, 0, 'shop', 'person-' || substr(id, 5), 3, 1, 'key-' || id, 1, created_at FROM jobs WHERE id LIKE 'old-%';
      ANALYZE jobs; ANALYZE messages;`);
  }

  async end(child, signal = 'SIGTERM') {
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    const last = setTimeout(() => child.kill('SIGKILL'), 30_000);
    await ended;
    clearTimeout(last);
  }

  async stop() {
    await this.end(this.second);
    await this.end(this.worker);
    await this.end(this.simulator);
    try {
      execFileSync(path.join(bin, 'examples/producer'), ['--delete-namespace'], { env: this.env, stdio: 'ignore' });
    } catch {
      console.error(`the namespace ${this.name} stays on RabbitMQ: build the example producer to have it removed`);
    }
    this.sql(this.given, `DROP DATABASE IF EXISTS ${this.name} WITH (FORCE)`);
  }
}
