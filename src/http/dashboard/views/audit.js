// Who did what.

import { Component, h } from '../vendor/preact.js';
import { get } from '../api.js';
import { Button, Card, Empty, Problem, State, Table, Time, cell } from '../parts.js';

const PAGE = 100;

export class Audit extends Component {
  constructor() {
    super();
    this.state = { entries: null, end: false, error: null };
  }

  componentDidMount() {
    this.ask();
  }

  async ask(before) {
    try {
      const { entries } = await get(`/api/audit?limit=${PAGE}${before ? `&before=${before}` : ''}`);
      this.setState(({ entries: had }) => ({ entries: before ? [...had, ...entries] : entries, end: entries.length < PAGE, error: null }));
    } catch (error) {
      this.setState({ error });
    }
  }

  render(_, { entries, end, error }) {
    return h('div', null,
      h('div', { class: 'head' }, h('h1', { tabIndex: -1 }, 'Audit'), h('div', { class: 'actions' }, h(Button, { act: () => this.ask() }, 'Look again'))),
      error && h(Problem, { error, again: () => this.ask() }),
      entries?.length === 0 && h(Empty, null, 'Nothing was done yet through the dashboard or the API.'),
      entries?.length > 0 && h('div', { class: 'grid' }, h(Card, { title: 'What was done', id: 'log', wide: true, hint: 'through the dashboard and the API, the newest first' },
        h(Table, { label: 'Audit log', columns: [['When'], ['Who'], ['Did'], ['To'], ['Result'], ['', 'grow']] },
          entries.map((entry) => h('tr', { key: entry.id },
            h('th', { scope: 'row' }, h(Time, { at: entry.at })),
            cell([entry.actor ?? entry.role, h('small', null, `${entry.via}${entry.address ? ` · ${entry.address}` : ''}`)]),
            cell(entry.action), cell(entry.target, 'id'), cell(entry.result ? h(State, { word: entry.result }) : h(State, { word: 'pending', label: 'not on record' })), cell(entry.detail ?? '', 'grow')))),
        !end && h(Button, { act: () => this.ask(entries.at(-1).id) }, 'More'))));
  }
}
