// What changes from second to second: asked for once a second while the page is seen. A worker that doesn't answer is asked
// again each second, so the page comes back with it.

import { get } from './api.js';
import { setClock } from './format.js';

const EVERY = 1_000;
const PATIENCE = 4_000;
const KEPT = 600;

export const live = {
  overview: null,
  rates: { seconds: [], series: {} },
  // Since when nobody answers, by this browser's clock.
  goneSince: null,
  answeredAt: null,
};

let running = false;
let changed = () => {};
let timer = null;
let begun = 0;

export function start(callback) {
  changed = callback;
  if (running) return;
  running = true;
  document.addEventListener('visibilitychange', wake);
  tick();
}

export function stop() {
  running = false;
  clearTimeout(timer);
  document.removeEventListener('visibilitychange', wake);
  live.overview = null;
}

// Asks at once: something was just done.
export function soon() {
  clearTimeout(timer);
  timer = setTimeout(tick, 250);
}

function wake() {
  if (!document.hidden && running) soon();
}

async function tick() {
  if (!running || document.hidden) return;
  const own = ++begun;
  const last = live.rates.seconds.at(-1) ?? 0;
  try {
    const [overview, rates] = await Promise.all([get('/api/overview', PATIENCE), get(`/api/rates?after=${last}`, PATIENCE)]);
    if (!running || own !== begun) return;
    setClock(overview.time);
    live.overview = overview;
    live.goneSince = null;
    live.answeredAt = Date.now();
    append(rates);
  } catch (error) {
    if (!running || own !== begun) return;
    if (error.gone || error.status >= 500) live.goneSince ??= Date.now();
  }
  changed();
  timer = setTimeout(tick, EVERY);
}

function append(rates) {
  const kept = live.rates;
  const had = kept.seconds.length;
  const fresh = rates.seconds.length;
  if (fresh === 0) return;
  // Seconds that no worker told of, while this one was away, are a gap and no zero.
  const jump = had > 0 && rates.seconds[0] > kept.seconds[had - 1] + 1 ? [kept.seconds[had - 1] + 1] : [];
  const names = new Set([...Object.keys(kept.series), ...Object.keys(rates.series)]);
  const series = {};
  for (const name of names) {
    const old = kept.series[name] ?? new Array(had).fill(0);
    const more = rates.series[name] ?? new Array(fresh).fill(0);
    series[name] = [...old, ...jump.map(() => null), ...more].slice(-KEPT);
  }
  live.rates = { seconds: [...kept.seconds, ...jump, ...rates.seconds].slice(-KEPT), series };
}

// The mean of the last ten seconds of some series.
export function recent(names, span = 10) {
  const { seconds, series } = live.rates;
  const n = Math.min(span, seconds.length);
  if (n === 0) return 0;
  let sum = 0;
  for (const name of names) for (const value of (series[name] ?? []).slice(-n)) sum += value ?? 0;
  return sum / n;
}
