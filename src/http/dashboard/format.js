// Numbers, times and words.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat('en', { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const count = (n) => (n === null || n === undefined ? '–' : whole.format(n));
// Counts of waiting work stop somewhere.
export const capped = (n, cap) => (n === null || n === undefined ? '–' : n >= cap ? `${whole.format(cap)}+` : whole.format(n));
export const rate = (n) => (n === 0 ? '0' : n < 10 ? tenth.format(n) : whole.format(n));

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const s = Math.max(0, seconds);
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${tenth.format(s)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

// The difference of the server's clock, in milliseconds.
let skew = 0;

export function setClock(time) {
  skew = Date.parse(time) - Date.now();
}

export const now = () => Date.now() + skew;
export const age = (time) => (time ? (now() - Date.parse(time)) / 1000 : null);

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });

export function moment(time, fraction = false) {
  const date = new Date(time);
  const text = clock.format(date) + (fraction ? `.${String(date.getMilliseconds()).padStart(3, '0')}` : '');
  return date.toDateString() === new Date(now()).toDateString() ? text : `${day.format(date)} ${text}`;
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
