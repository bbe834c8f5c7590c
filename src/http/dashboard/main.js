// The frame: signing in, the way from view to view, the theme, the line that tells when the worker is gone.

import { h, render } from './vendor/preact.js';
import { api, get, onSignedOut } from './api.js';
import * as format from './format.js';
import { live, start, stop } from './live.js';
import { Button } from './parts.js';
import { Dialogs, open } from './acts.js';
import { Now } from './views/now.js';
import { Find } from './views/find.js';
import { Job, Group } from './views/job.js';
import { Waiting } from './views/waiting.js';
import { Letters } from './views/letters.js';
import { Audit } from './views/audit.js';

const VIEWS = [
  ['', 'Now', Now],
  ['find', 'Find', Find],
  ['waiting', 'Waiting', Waiting],
  ['letters', 'Dead letters', Letters],
  ['audit', 'Audit', Audit],
];
const THEMES = ['auto', 'light', 'dark'];

const state = { session: null, problem: null, theme: 'auto', place: null };

// #/job/ID?to=X as { view, name, query }.
function placeNow() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [view = '', name = ''] = path.split('/');
  let decoded = name;
  try { decoded = decodeURIComponent(name); } catch { /* as it is */ }
  return { view, name: decoded, query: new URLSearchParams(query), hash: location.hash };
}

function draw() {
  render(h(App), document.getElementById('app'));
}

async function begin() {
  try {
    state.session = await get('/api/session', 5_000);
    state.problem = null;
    if (state.session.role) start(draw);
    draw();
  } catch (error) {
    state.problem = error;
    draw();
    setTimeout(begin, 1_000);
  }
}

async function signIn(event) {
  event.preventDefault();
  const form = new FormData(event.target);
  try {
    state.session = await api('POST', '/api/session', { token: form.get('token'), name: form.get('name') ?? '' });
    state.problem = null;
    start(draw);
  } catch (error) {
    state.problem = error;
  }
  draw();
}

async function signOut() {
  try { await api('DELETE', '/api/session'); } catch { /* the cookie ends by itself */ }
  stop();
  state.session = { role: null, sign_in: true };
  draw();
}

onSignedOut(() => {
  if (!state.session?.role) return;
  stop();
  state.session = { role: null, sign_in: true };
  state.problem = new Error('the session is over; sign in again');
  draw();
});

function setTheme(theme) {
  state.theme = theme;
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try { localStorage.setItem('theme', theme); } catch { /* not kept */ }
}

function SignIn() {
  return h('main', { class: 'alone' },
    h('form', { class: 'card sign-in', onSubmit: signIn },
      h('h1', null, h('img', { src: '/assets/icon.svg', alt: '', width: 32, height: 32 }), 'im-dispatcher'),
      h('label', null, 'Token', h('input', { name: 'token', type: 'password', required: true, autocomplete: 'current-password', autofocus: true })),
      h('label', null, 'Your name, for the audit log', h('input', { name: 'name', type: 'text', maxlength: 64, autocomplete: 'username' })),
      state.problem && h('p', { class: 'problem', role: 'alert' }, state.problem.message),
      h(Button, { type: 'submit', kind: 'primary' }, 'Sign in'),
      h('p', { class: 'hint' }, 'The admin token looks and acts, the read-only token looks: http.admin_token and http.readonly_token of the settings.')));
}

function Gone() {
  const since = format.duration((Date.now() - (live.answeredAt ?? live.goneSince)) / 1000);
  return h('div', { class: 'banner bad', role: 'status' },
    h('strong', null, 'The worker behind this page is gone.'),
    ` It answered last ${since} ago. What you see is from then; it is asked again every second.`);
}

function Banner() {
  const overview = live.overview;
  if (live.goneSince !== null && overview) return h(Gone);
  if (!overview) return null;
  const lines = [];
  for (const reason of overview.reasons) lines.push(['bad', reason]);
  if (overview.depths_at && !overview.database) lines.push(['bad', 'Postgres does not answer: numbers of the records are old or missing']);
  if (overview.depths_at && !overview.broker) lines.push(['bad', 'RabbitMQ does not answer: depths of the queues are missing']);
  for (const note of overview.notes) lines.push(['warn', note]);
  return lines.map(([tone, text]) => h('div', { class: `banner ${tone}`, role: 'status', key: text }, text));
}

function Health() {
  const overview = live.overview;
  if (live.goneSince !== null) return h('span', { class: 'state bad' }, 'gone');
  if (!overview) return h('span', { class: 'state calm' }, 'connecting');
  const workers = overview.workers.filter((worker) => worker.state !== 'gone');
  const ready = workers.filter((worker) => worker.state === 'ready').length;
  const tone = overview.ready && ready === workers.length ? 'good' : ready > 0 ? 'warn' : 'bad';
  return h('span', { class: `state ${tone}` }, `${ready} of ${workers.length} ready`);
}

function Bar() {
  const { view } = state.place;
  const active = view === 'job' || view === 'group' ? 'find' : view;
  const letters = live.overview?.dead_letters;
  const doubts = live.overview?.backlog?.doubts;
  const badge = { letters, waiting: doubts };
  const next = THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length];
  return h('header', { class: 'bar' },
    h('a', { class: 'skip', href: '#content', onClick: (event) => { event.preventDefault(); focusTitle(); } }, 'Skip to content'),
    h('a', { class: 'brand', href: '#/' }, h('img', { src: '/assets/icon.svg', alt: 'im-dispatcher', width: 22, height: 22 }), h('span', { 'aria-hidden': true }, 'im-dispatcher'),
      live.overview && h('small', null, live.overview.namespace)),
    h(Health),
    h('nav', { 'aria-label': 'Views' }, VIEWS.map(([name, title]) => h('a', { href: `#/${name}`, 'aria-current': name === active ? 'page' : undefined, key: name },
      title, badge[name] > 0 && h('span', { class: 'badge' }, format.count(badge[name]))))),
    h('form', { class: 'quick', role: 'search', onSubmit: (event) => {
      event.preventDefault();
      const text = new FormData(event.target).get('q').trim();
      if (text) location.hash = `#/find?q=${encodeURIComponent(text)}`;
    } }, h('input', { name: 'q', type: 'search', placeholder: 'Job, recipient, group', 'aria-label': 'Find a job, a recipient or a group (Ctrl+K)' })),
    h('div', { class: 'who' },
      h(Button, { kind: 'quiet', label: `Theme: ${state.theme}. Change to ${next}`, act: () => { setTheme(next); draw(); } }, { auto: '◐', light: '☀', dark: '☾' }[state.theme]),
      h('span', { class: 'role' }, state.session.name ? `${state.session.name} · ` : '', state.session.role),
      state.session.sign_in && h(Button, { kind: 'quiet', act: signOut }, 'Sign out')));
}

function App() {
  state.place = placeNow();
  if (!state.session) return h('main', { class: 'alone' }, h('p', { role: 'status' }, state.problem ? `${state.problem.message}; trying again …` : 'Connecting …'));
  if (!state.session.role) return h(SignIn);
  const { view, name, query, hash } = state.place;
  const may = state.session.role === 'operator';
  const props = { name, query, may, live, redraw: draw, open, key: hash };
  const View = { job: Job, group: Group }[view] ?? (VIEWS.find(([own]) => own === view) ?? VIEWS[0])[2];
  return [
    h(Bar, { key: 'bar' }),
    h('main', { id: 'content', key: 'main', class: live.goneSince !== null ? 'stale' : '' }, h('div', { class: 'banners' }, h(Banner)), h(View, props)),
    h(Dialogs, { key: 'dialogs', redraw: draw }),
  ];
}

// A view's title is where a keyboard or a screen reader goes on.
function focusTitle() {
  document.querySelector('main h1')?.focus();
}

window.addEventListener('hashchange', () => {
  draw();
  scrollTo(0, 0);
  focusTitle();
  const title = document.querySelector('main h1')?.textContent;
  document.title = title ? `${title} · im-dispatcher` : 'im-dispatcher';
});
window.addEventListener('keydown', (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === 'k') {
    event.preventDefault();
    const quick = document.querySelector('.quick input');
    // Narrow screens have the view alone.
    if (quick?.checkVisibility()) quick.focus();
    else if (state.session?.role) location.hash = '#/find';
  }
});
try { setTheme(THEMES.includes(localStorage.getItem('theme')) ? localStorage.getItem('theme') : 'auto'); } catch { /* auto */ }
begin();
