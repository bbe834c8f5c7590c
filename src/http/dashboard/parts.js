// Small parts that every view is made of.

import { h } from './vendor/preact.js';
import * as format from './format.js';

// The tone of a state's word: what is well, what wants a look, what is wrong.
const TONES = {
  sent: 'good', ready: 'good', done: 'good', imported: 'good', ok: 'good', read: 'good',
  revoked: 'info', pending: 'info', draining: 'warn', mixed: 'info', cancelled: 'calm', expired: 'calm', suppressed: 'calm',
  failed: 'bad', unknown: 'bad', gone: 'bad', 'not-ready': 'bad', paused: 'warn', throttled: 'warn',
};

export const State = ({ word, label }) => h('span', { class: `state ${TONES[word] ?? 'calm'}` }, label ?? word.replace('-', ' '));

export function Time({ at, fraction }) {
  if (!at) return h('span', { class: 'muted' }, '–');
  return h('time', { datetime: at, title: at }, format.moment(at, fraction));
}

export const Empty = ({ children }) => h('p', { class: 'empty' }, children);

export function Card({ title, hint, actions, children, wide, id }) {
  return h('section', { class: `card${wide ? ' wide' : ''}`, 'aria-labelledby': id },
    h('header', null, h('h2', { id }, title), hint && h('p', { class: 'hint' }, hint), actions && h('div', { class: 'actions' }, actions)),
    children);
}

// A table that scrolls by itself on a narrow screen, also by keyboard. Columns: [title, class].
export function Table({ label, columns, children }) {
  return h('div', { class: 'scroll', tabIndex: 0, role: 'region', 'aria-label': label },
    h('table', null,
      h('thead', null, h('tr', null, columns.map(([title, kind]) => h('th', { scope: 'col', class: kind }, title)))),
      h('tbody', null, children)));
}

export const cell = (content, kind) => h('td', { class: kind }, content);

export function Button({ act, children, kind = '', disabled, label, type = 'button' }) {
  return h('button', { type, class: kind, disabled, onClick: act, 'aria-label': label }, children);
}

export const jobHref = (job, to) => `#/job/${encodeURIComponent(job)}${to ? `?to=${encodeURIComponent(to)}` : ''}`;
export const groupHref = (group) => `#/group/${encodeURIComponent(group)}`;
export const JobLink = ({ job, to }) => h('a', { class: 'id', href: jobHref(job, to) }, job);
export const GroupLink = ({ group }) => (group ? h('a', { href: groupHref(group) }, group) : h('span', { class: 'muted' }, '–'));

// What a code means and what to do about it.
export function Meaning({ meaning, advice }) {
  if (!meaning) return h('span', { class: 'muted' }, 'not documented');
  return h('div', { class: 'meaning' }, h('p', null, meaning), advice && advice !== 'nothing' && h('p', { class: 'advice' }, advice));
}

// Recipients by state, as a bar and in words.
const STATES = ['sent', 'revoked', 'pending', 'cancelled', 'expired', 'suppressed', 'failed', 'unknown'];

export function Counts({ counts }) {
  const shown = STATES.filter((state) => counts[state] > 0);
  if (counts.total === 0) return h('p', { class: 'muted' }, 'no recipients');
  return h('div', { class: 'counts' },
    h('div', { class: 'stack', 'aria-hidden': 'true' },
      shown.map((state) => h('span', { class: `fill ${TONES[state]} ${state}`, style: { flexGrow: counts[state] } }))),
    h('ul', null, shown.map((state) => h('li', null, h('i', { class: `dot ${TONES[state]} ${state}` }), `${format.count(counts[state])} ${state}`)),
      h('li', { class: 'muted' }, `of ${format.count(counts.total)}`)));
}

export function Problem({ error, again }) {
  return h('p', { class: 'problem', role: 'alert' }, error.message, again && h(Button, { act: again, kind: 'small' }, 'Try again'));
}
