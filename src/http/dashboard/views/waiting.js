// What is in doubt, and what waits for its time.

import { Component, h } from '../vendor/preact.js';
import { get } from '../api.js';
import * as format from '../format.js';
import { Card, Empty, GroupLink, JobLink, Meaning, Problem, Table, Time, cell } from '../parts.js';

const EVERY = 3_000;

const SPANS = { 60: 'within a minute', 600: 'within 10 minutes', 3600: 'within an hour', 21600: 'within 6 hours', 86400: 'within a day' };

export class Waiting extends Component {
  constructor() {
    super();
    this.state = { doubts: null, parked: null, error: null };
  }

  componentDidMount() {
    this.alive = true;
    this.ask();
  }

  componentWillUnmount() {
    this.alive = false;
    clearTimeout(this.timer);
  }

  async ask() {
    try {
      if (!document.hidden) {
        const [{ doubts }, { parked }] = await Promise.all([get('/api/doubts'), get('/api/parked')]);
        if (!this.alive) return;
        this.setState({ doubts, parked, error: null });
      }
    } catch (error) {
      if (!this.alive) return;
      this.setState({ error });
    }
    this.timer = setTimeout(() => this.ask(), EVERY);
  }

  render({ live }, { doubts, parked, error }) {
    const spans = live.overview?.parked ?? [];
    const most = Math.max(1, ...spans.map((span) => span.rows));
    const backlog = live.overview?.backlog;
    return h('div', null,
      h('h1', { tabIndex: -1 }, 'Waiting'),
      error && h(Problem, { error }),
      h('div', { class: 'grid' },
        h(Card, { title: 'In doubt', id: 'doubts', wide: true, hint: 'calls whose answer was lost; the history is asked, nothing is to be done', key: 'doubts' },
          doubts === null ? h(Empty, null, 'Looking …') : doubts.length === 0 ? h(Empty, null, 'Nothing is in doubt: every call that was made has its answer.')
            : h(Table, { label: 'In doubt', columns: [['Job'], ['Since', 'num'], ['Looks', 'num'], ['Next look', 'num'], ['Ended with', 'grow']] },
              doubts.map((doubt) => h('tr', { key: `${doubt.job} ${doubt.part}` },
                h('th', { scope: 'row' }, h(JobLink, { job: doubt.job }), h('small', null, `${doubt.app}, ${doubt.lane}`)),
                cell(format.duration(format.age(doubt.since)), 'num'), cell(format.count(doubt.looks), 'num'), cell(h(Time, { at: doubt.next_look }), 'num'),
                cell(doubt.code ? [h('code', null, doubt.code), h(Meaning, doubt)] : h('span', { class: 'muted' }, 'the worker that called died'), 'grow'))))),
        h(Card, { title: 'By due time', id: 'due', hint: 'rows of the table that wait for their time', key: 'due' },
          h('ul', { class: 'bars' },
            h('li', { key: 'past', class: backlog?.past_due > 0 ? 'warn' : '' }, h('span', null, 'past due'), h('span', { class: 'track bare' }), h('strong', null, format.capped(backlog?.past_due, 100_000))),
            spans.map((span) => h('li', { key: span.within_seconds }, h('span', null, SPANS[span.within_seconds] ?? 'later'),
              h('span', { class: 'track' }, h('i', { style: { width: `${(span.rows / most) * 100}%` } })), h('strong', null, format.count(span.rows)))),
            h('li', { key: 'held' }, h('span', null, 'held by a pause'), h('span', { class: 'track bare' }), h('strong', null, format.capped(live.overview?.held_by_pauses, 10_000))))),
        h(Card, { title: 'Next', id: 'next', hint: 'what is due first', key: 'next' },
          parked === null ? h(Empty, null, 'Looking …') : parked.length === 0 ? h(Empty, null, 'Nothing waits for a later time.')
            : h(Table, { label: 'Next', columns: [['Job'], ['Due', 'num'], ['Next step'], ['Group'], ['Attempts', 'num']] },
              parked.map((row) => h('tr', { key: `${row.job} ${row.part}` }, h('th', { scope: 'row' }, h(JobLink, { job: row.job })), cell(h(Time, { at: row.due_at }), 'num'), cell(row.command), cell(h(GroupLink, { group: row.group })), cell(format.count(row.attempts), 'num')))))));
  }
}
