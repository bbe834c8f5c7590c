// One job, or one group: where it stands, why, and what can be done.

import { Component, h } from '../vendor/preact.js';
import { get, part } from '../api.js';
import * as format from '../format.js';
import { Button, Card, Counts, Empty, GroupLink, Meaning, Problem, State, Table, Time, cell, jobHref } from '../parts.js';
import { JobTable } from './find.js';

// How often what isn't settled is asked about again, and what is: it may be revoked or tried again meanwhile.
const EVERY = 2_000;
const SETTLED = 6_000;

class Asking extends Component {
  constructor(props) {
    super(props);
    this.state = { error: null };
  }

  componentDidMount() {
    this.alive = true;
    this.ask();
  }

  componentWillUnmount() {
    this.alive = false;
    clearTimeout(this.timer);
  }

  // Asks, and again while something is pending. A group of a million takes the database some seconds to count.
  async ask() {
    const began = performance.now();
    let again = true;
    if (document.hidden) {
      this.timer = setTimeout(() => this.ask(), EVERY);
      return;
    }
    try {
      const answer = await this.load();
      if (!this.alive) return;
      this.setState({ ...answer, error: null });
      again = answer.pending;
    } catch (error) {
      if (!this.alive) return;
      this.setState({ error });
    }
    this.timer = setTimeout(() => this.ask(), Math.max(again ? EVERY : SETTLED, 5 * (performance.now() - began)));
  }
}

// The parts of a batch mostly wait for the same: that is told once, with how many they are.
const MOST_WAITS = 8;

function Waits({ waiting }) {
  const kinds = new Map();
  for (const wait of waiting) {
    const key = `${wait.for} ${wait.text}`;
    kinds.set(key, { ...wait, parts: (kinds.get(key)?.parts ?? 0) + 1 });
  }
  const told = [...kinds.values()];
  const rest = told.slice(MOST_WAITS).reduce((sum, wait) => sum + wait.parts, 0);
  return h('ul', { class: 'rows' },
    told.slice(0, MOST_WAITS).map((wait) => h('li', { key: `${wait.for} ${wait.text}` }, h(State, { word: 'pending', label: wait.for.replace('-', ' ') }),
      wait.parts > 1 && h('strong', null, format.plural(wait.parts, 'part')), h('span', null, wait.text), wait.until && h('span', { class: 'end' }, h(Time, { at: wait.until })))),
    rest > 0 && h('li', { class: 'muted', key: 'rest' }, `and ${format.plural(rest, 'part')} more`));
}

export class Job extends Asking {
  async load() {
    const { name, query } = this.props;
    const to = query.get('to');
    // Looked up first: what isn't on record is an answer and no failure.
    const { by_id: found } = await get(`/api/search?q=${part(name)}&by=id&limit=1`);
    if (found[0]?.job !== name) return { told: null, pending: false, missing: true };
    const told = await get(`/api/jobs/${part(name)}/explain${to ? `?to=${part(to)}` : ''}`);
    return { told, missing: false, pending: told.state === 'pending' || told.waiting.length > 0 };
  }

  render({ name, query, may, open }, { told, missing, error }) {
    const to = query.get('to');
    const title = h('h1', { tabIndex: -1 }, h('span', { class: 'kind' }, 'Job'), h('span', { class: 'id' }, name));
    if (missing) {
      return h('div', null, title, h(Empty, null, 'No such job is on record. It may still wait in its queue (jobs are recorded when a worker takes them), be a dead letter that was refused, be older than the records, or never have been published.'));
    }
    if (!told) return h('div', null, title, error ? h(Problem, { error, again: () => this.ask() }) : h(Empty, null, 'Looking …'));
    const sends = ['send', 'batch_send', 'import'].includes(told.type);
    const several = told.recipients.total > 1;
    return h('div', null,
      h('div', { class: 'head' }, title, h(State, { word: told.state }),
        may && sends && h('div', { class: 'actions' },
          to && several && h(Button, { act: () => open({ kind: 'revoke', job: told.job, to, app: told.app }) }, `Revoke ${to} …`),
          h(Button, { kind: 'danger', act: () => open({ kind: 'revoke', job: told.job, app: told.app }) }, 'Revoke job …'))),
      h('p', { class: 'summary' }, told.summary),
      error && h(Problem, { error }),
      h('dl', { class: 'facts' },
        [['Type', told.type.replace('_', ' ')], ['App', told.app], ['Lane', told.lane], ['Group', h(GroupLink, { group: told.group })], told.to && ['Recipient', told.to]]
          .filter(Boolean).map(([key, value]) => h('div', { key }, h('dt', null, key), h('dd', null, value)))),
      told.recipients.total > 0 && h(Counts, { counts: told.recipients }),
      several && h('form', { class: 'search', onSubmit: (event) => {
        event.preventDefault();
        const wanted = new FormData(event.target).get('to').trim();
        if (wanted) location.hash = jobHref(told.job, wanted).slice(1);
      } }, h('input', { name: 'to', 'aria-label': 'One recipient of this job', placeholder: 'One recipient’s own timeline', defaultValue: to ?? '' }), h(Button, { type: 'submit' }, 'Show')),
      h('div', { class: 'grid' },
        told.waiting.length > 0 && h(Card, { title: 'Waits for', id: 'waits', wide: true, key: 'waits' },
          h(Waits, { waiting: told.waiting })),
        h(Card, { title: 'Timeline', id: 'timeline', wide: true, key: 'timeline', hint: told.left_out > 0 ? `${format.plural(told.left_out, 'entry', 'entries')} left out of the middle` : undefined },
          h('ol', { class: 'timeline' }, told.timeline.map((entry, at) => h('li', { key: at, class: `${entry.event}${entry.code ? ' coded' : ''}` },
            h('span', { class: 'when' }, entry.at ? h(Time, { at: entry.at, fraction: true }) : h('span', { class: 'muted' }, 'no time on record')),
            h('div', null, h('span', { class: 'event' }, entry.event.replace('-', ' ')), entry.code && h('code', null, entry.code), h('p', null, entry.text), entry.meaning && h(Meaning, entry)))))),
        told.failures.length > 0 && h(Card, { title: 'Recipients that failed', id: 'failures', wide: true, key: 'failures', hint: `the first ${told.failures.length} of ${format.count(told.recipients.failed)}` },
          h(Table, { label: 'Recipients that failed', columns: [['Recipient'], ['Error'], ['Attempts', 'num']] },
            told.failures.map((failure) => h('tr', { key: failure.to }, h('th', { scope: 'row' }, h('a', { href: jobHref(told.job, failure.to) }, failure.to)), cell(failure.error ? `${failure.error.code} ${failure.error.message}` : '–'), cell(format.count(failure.attempts), 'num')))))));
  }
}

export class Group extends Asking {
  async load() {
    const { name } = this.props;
    const found = await get(`/api/search?q=${part(name)}&by=group`);
    if (found.by_group.length === 0) return { jobs: [], status: null, missing: true, pending: false };
    this.setState({ jobs: found.by_group, missing: false });
    const status = await get(`/api/groups/${part(name)}`);
    return { jobs: found.by_group, status, missing: false, pending: status.recipients.pending > 0 };
  }

  render({ name, may, open, live }, { jobs, status, missing, error }) {
    const paused = live.overview?.pauses.find((pause) => pause.kind === 'group' && pause.name === name);
    return h('div', null,
      h('div', { class: 'head' },
        h('h1', { tabIndex: -1 }, h('span', { class: 'kind' }, 'Group'), h('span', { class: 'id' }, name)),
        paused && h(State, { word: 'paused' }),
        may && h('div', { class: 'actions' },
          h(Button, { act: () => open({ kind: paused ? 'resume' : 'pause', scope: 'group', name }) }, paused ? 'Resume …' : 'Pause …'),
          h(Button, { kind: 'danger', act: () => open({ kind: 'revoke', group: name }) }, 'Revoke campaign …'))),
      paused?.until && h('p', { class: 'summary' }, 'Paused until ', h(Time, { at: paused.until })),
      error && h(Problem, { error, again: () => this.ask() }),
      missing && h(Empty, null, 'No job of this group is on record yet. It can be paused or revoked all the same: that holds for jobs that arrive later.'),
      status ? [h('p', { class: 'summary', key: 'jobs' }, format.plural(status.jobs, 'job')), h(Counts, { counts: status.recipients, key: 'counts' })]
        : !missing && !error && h('p', { class: 'muted' }, 'Counting …'),
      jobs?.length > 0 && h('div', { class: 'grid' }, h(Card, { title: 'Jobs', id: 'jobs', wide: true, hint: jobs.length >= 50 ? `the first ${jobs.length} by id` : undefined }, h(JobTable, { label: 'Jobs of the group', jobs }))));
  }
}
