// Dead letters: jobs that can't be carried out, with their reasons.

import { Component, h } from '../vendor/preact.js';
import { get } from '../api.js';
import * as format from '../format.js';
import { Button, Card, Empty, JobLink, Meaning, Problem, Table, cell } from '../parts.js';

export class Letters extends Component {
  constructor() {
    super();
    this.state = { list: null, error: null, busy: false };
  }

  componentDidMount() {
    this.ask();
  }

  // Not by itself each second: a look takes the letters out of their queue for a moment.
  async ask() {
    this.setState({ busy: true });
    try {
      this.setState({ list: await get('/api/dead-letters'), error: null, busy: false });
    } catch (error) {
      this.setState({ error, busy: false });
    }
  }

  act(action, selection, label) {
    this.props.open({ kind: 'letters', action, selection, label, done: () => this.ask() });
  }

  buttons(selection, label) {
    if (!this.props.may) return null;
    return h('div', { class: 'pair' },
      h(Button, { kind: 'small', label: `Replay ${label}`, act: () => this.act('replay', selection, label) }, 'Replay'),
      h(Button, { kind: 'small', label: `Discard ${label}`, act: () => this.act('discard', selection, label) }, 'Discard'));
  }

  render({ may, live }, { list, error, busy }) {
    const total = live.overview?.dead_letters;
    const stale = list && !list.more && total !== null && total !== undefined && total !== list.letters.length;
    return h('div', null,
      h('div', { class: 'head' }, h('h1', { tabIndex: -1 }, 'Dead letters'),
        h('div', { class: 'actions' },
          h(Button, { act: () => this.ask(), disabled: busy }, busy ? 'Looking …' : 'Look again'),
          may && list?.letters.length > 0 && [
            h(Button, { act: () => this.act('replay', { all: true }, 'all dead letters') }, 'Replay all …'),
            h(Button, { kind: 'danger', act: () => this.act('discard', { all: true }, 'all dead letters') }, 'Discard all …')])),
      h('p', { class: 'summary', role: 'status' }, total === undefined || total === null ? '' : `${format.plural(total, 'letter')} in the dead queue.`, stale && ' The list is older: look again.'),
      error && h(Problem, { error, again: () => this.ask() }),
      list && list.letters.length === 0 && h(Empty, null, 'No dead letters. Jobs that can’t be carried out come here, each with its reason; nothing is dropped.'),
      list && list.letters.length > 0 && h('div', { class: 'grid' },
        h(Card, { title: 'By reason', id: 'reasons', wide: true, key: 'reasons', hint: list.more ? `of the first ${list.letters.length}` : undefined },
          h(Table, { label: 'Dead letters by reason', columns: [['Reason'], ['Letters', 'num'], ['What it means, and what to do', 'most'], ['']] },
            list.codes.map((code) => h('tr', { key: code.code }, h('th', { scope: 'row' }, code.code), cell(format.count(code.count), 'num'), cell(h(Meaning, code), 'most'),
              cell(this.buttons({ code: code.code }, `letters with ${code.code}`), 'end'))))),
        h(Card, { title: 'Letters', id: 'letters', wide: true, key: 'letters', hint: list.more ? `the first ${list.letters.length}, the oldest first` : 'the oldest first' },
          h(Table, { label: 'Letters', columns: [['Job'], ['Reason'], ['Why', 'grow'], ['Queue'], ['Attempts', 'num'], ['']] },
            list.letters.map((letter) => h('tr', { key: letter.letter },
              h('th', { scope: 'row' }, letter.job ? h(JobLink, { job: letter.job }) : h('span', { class: 'muted' }, 'no id')),
              cell(letter.code), cell(letter.error, 'grow'), cell(letter.queue ?? '–'), cell(format.count(letter.attempts), 'num'),
              cell(this.buttons({ letter: letter.letter }, `letter ${letter.letter}`), 'end')))))));
  }
}
