// What can be done: each in a dialog that tells first what it means, and then how far it is.

import { Component, createRef, h } from './vendor/preact.js';
import { get, part, post } from './api.js';
import * as format from './format.js';
import { soon } from './live.js';
import { Button, Counts, Problem } from './parts.js';

let dialog = null;
let draw = () => {};

// Opens a dialog: { kind: 'revoke' | 'pause' | 'resume' | 'letters', … }.
export function open(what) {
  dialog = { ...what, key: Date.now() };
  draw();
}

function close() {
  dialog = null;
  draw();
  soon();
}

export function Dialogs({ redraw }) {
  draw = redraw;
  if (!dialog) return null;
  const View = { revoke: Revoke, pause: Pause, resume: Resume, letters: Letters }[dialog.kind];
  return h(View, { ...dialog, key: dialog.key });
}

class Modal extends Component {
  constructor() {
    super();
    this.place = createRef();
  }

  componentDidMount() {
    this.before = document.activeElement;
    this.place.current.showModal();
  }

  componentWillUnmount() {
    if (this.before?.isConnected) this.before.focus();
  }

  render({ title, children }) {
    return h('dialog', { ref: this.place, 'aria-labelledby': 'dialog-title', onClose: close },
      h('h2', { id: 'dialog-title' }, title), children);
  }
}

const Close = ({ label = 'Close' }) => h(Button, { act: close }, label);

// The name has to be typed: nobody revokes a campaign by a slip of the hand.
class Typed extends Component {
  constructor() {
    super();
    this.state = { text: '', busy: false };
  }

  render({ word, verb, danger, act, disabled }, { text, busy }) {
    const fits = text.trim() === word;
    const submit = async (event) => {
      event.preventDefault();
      if (!fits || busy || disabled) return;
      this.setState({ busy: true });
      await act();
      this.setState({ busy: false });
    };
    return h('form', { onSubmit: submit },
      h('label', null, h('span', null, 'Type ', h('kbd', null, word), ' to confirm'),
        h('input', { name: 'confirm', type: 'text', autocomplete: 'off', autocapitalize: 'off', spellcheck: false, value: text, autofocus: true,
          onInput: (event) => this.setState({ text: event.target.value }) })),
      h('div', { class: 'buttons' }, h(Close, { label: 'Cancel' }),
        h(Button, { type: 'submit', kind: danger ? 'danger' : 'primary', disabled: !fits || busy || disabled }, busy ? 'One moment …' : verb)));
  }
}

function Progress({ done, total, label }) {
  const share = total > 0 ? done / total : 0;
  return h('div', { class: 'progress' },
    h('progress', { max: 1, value: share, 'aria-label': label }),
    h('p', null, h('strong', null, format.count(done)), ` of ${format.count(total)}`, total > 0 && ` · ${Math.floor(share * 100)} %`));
}

// A job, some of its recipients, or a group.
class Revoke extends Component {
  constructor(props) {
    super(props);
    this.state = { counts: null, jobs: null, revocation: null, status: null, error: null };
  }

  componentDidMount() {
    this.alive = true;
    this.count();
  }

  componentWillUnmount() {
    this.alive = false;
    clearTimeout(this.timer);
  }

  async count() {
    const { job, group, to } = this.props;
    try {
      if (group !== undefined) {
        const status = await get(`/api/groups/${part(group)}`);
        this.setState({ counts: status.recipients, jobs: status.jobs });
      } else if (to === undefined) {
        this.setState({ counts: (await get(`/api/jobs/${part(job)}?limit=0`)).recipients });
      }
    } catch (error) {
      // What can't be counted can be revoked all the same.
      this.setState({ error });
    }
  }

  async act() {
    const { job, group, to, app } = this.props;
    const target = group !== undefined ? { group } : to !== undefined ? { job, to: [to] } : { job };
    try {
      const { revocation } = await post(`/api/revocations${app ? `?app=${part(app)}` : ''}`, target);
      this.setState({ revocation, error: null });
      this.follow(revocation);
    } catch (error) {
      this.setState({ error });
    }
  }

  async follow(revocation) {
    try {
      const status = await get(`/api/jobs/${part(revocation)}?limit=0`);
      if (!this.alive) return;
      this.setState({ status, error: null });
      if (status.state !== 'pending') return;
    } catch (error) {
      if (!this.alive) return;
      this.setState({ error });
    }
    this.timer = setTimeout(() => this.follow(revocation), 500);
  }

  render({ job, group, to }, { counts, jobs, revocation, status, error }) {
    const word = group ?? to ?? job;
    const what = group !== undefined ? `campaign ${group}` : to !== undefined ? `the message of ${job} to ${to}` : `job ${job}`;
    if (revocation) {
      const of = status?.recipients;
      const done = of ? of.revoked + of.cancelled + of.failed : 0;
      const ended = status && status.state !== 'pending';
      return h(Modal, { title: ended ? `Revoked: ${what}` : `Revoking ${what}` },
        h('div', { 'aria-live': 'polite' },
          h(Progress, { done, total: of?.total ?? 0, label: 'messages revoked or cancelled' }),
          of && h(Counts, { counts: of }),
          ended && h('p', { class: 'ended' }, of.total === 0 ? 'Nothing had to be revoked.'
            : `Done: ${format.count(of.revoked)} revoked, ${format.count(of.cancelled)} cancelled before they were sent, ${format.count(of.failed)} failed.`)),
        error && h(Problem, { error }),
        h('p', { class: 'hint' }, 'Revocation ', h('a', { href: `#/job/${part(revocation)}`, onClick: close }, revocation), '. It goes on though this window is closed.'),
        h('div', { class: 'buttons' }, h(Close)));
    }
    return h(Modal, { title: `Revoke ${what}?` },
      h('p', null, 'Messages that were sent are withdrawn at their recipients; what waits is cancelled.',
        group !== undefined && ' Jobs of this group that arrive within seven days are cancelled too.'),
      jobs !== null && h('p', null, format.plural(jobs, 'job'), ':'),
      counts && h(Counts, { counts }),
      !counts && to === undefined && !error && h('p', { class: 'muted' }, 'Counting …'),
      error && h(Problem, { error }),
      h(Typed, { word, verb: 'Revoke', danger: true, act: () => this.act() }));
  }
}

const ENDS = [['', 'until it is resumed'], ['900', 'for 15 minutes'], ['3600', 'for an hour'], ['14400', 'for 4 hours'], ['43200', 'for 12 hours']];

class Pause extends Component {
  constructor() {
    super();
    this.state = { error: null, busy: false };
  }

  async act(event) {
    event.preventDefault();
    const { scope, name } = this.props;
    const form = new FormData(event.target);
    const target = name ?? form.get('name').trim();
    const seconds = form.get('end');
    const until = seconds ? `?until=${part(new Date(format.now() + seconds * 1000).toISOString())}` : '';
    this.setState({ busy: true });
    try {
      await post(`/api/${scope}s/${part(target)}/pause${until}`);
      close();
    } catch (error) {
      this.setState({ error, busy: false });
    }
  }

  render({ scope, name }, { error, busy }) {
    return h(Modal, { title: name ? `Pause the ${scope} ${name}?` : `Pause a ${scope}` },
      h('p', null, 'Nothing of it is sent, on any worker, within a second. Nothing is lost: it waits. Revocations, reconciliation and reads go on.'),
      h('form', { onSubmit: (event) => this.act(event) },
        !name && h('label', null, `Name of the ${scope}`, h('input', { name: 'name', required: true, maxlength: 128, autofocus: true })),
        h('label', null, 'How long', h('select', { name: 'end', autofocus: Boolean(name) }, ENDS.map(([value, label]) => h('option', { value }, label)))),
        error && h(Problem, { error }),
        h('div', { class: 'buttons' }, h(Close, { label: 'Cancel' }), h(Button, { type: 'submit', kind: 'primary', disabled: busy }, busy ? 'One moment …' : 'Pause'))));
  }
}

class Resume extends Component {
  constructor() {
    super();
    this.state = { error: null, busy: false };
  }

  async act(event) {
    event.preventDefault();
    const { scope, name } = this.props;
    this.setState({ busy: true });
    try {
      await post(`/api/${scope}s/${part(name)}/resume`);
      close();
    } catch (error) {
      this.setState({ error, busy: false });
    }
  }

  render({ scope, name }, { error, busy }) {
    return h(Modal, { title: `Resume the ${scope} ${name}?` },
      h('p', null, 'What waits is sent, as fast as the budget allows.'),
      h('form', { onSubmit: (event) => this.act(event) },
        error && h(Problem, { error }),
        h('div', { class: 'buttons' }, h(Close, { label: 'Cancel' }), h(Button, { type: 'submit', kind: 'primary', disabled: busy }, busy ? 'One moment …' : 'Resume'))));
  }
}

// Replays or discards dead letters: counted first.
class Letters extends Component {
  constructor() {
    super();
    this.state = { matched: null, run: null, error: null, lane: '' };
  }

  componentDidMount() {
    this.alive = true;
    this.count();
  }

  componentWillUnmount() {
    this.alive = false;
    clearTimeout(this.timer);
  }

  async count() {
    try {
      const run = await post(`/api/dead-letters/${this.props.action}`, { ...this.props.selection, dry_run: true });
      const counted = run.running ? await this.until() : run;
      if (this.alive) this.setState({ matched: counted.matched });
    } catch (error) {
      if (this.alive) this.setState({ error });
    }
  }

  // Follows the run to its end.
  until() {
    return new Promise((resolve) => {
      const look = async () => {
        try {
          const { run } = await get('/api/dead-letters/run');
          if (this.alive && run && !run.dry_run) this.setState({ run });
          if (!this.alive || !run?.running) { resolve(run); return; }
        } catch { /* the worker is gone for a moment */ }
        this.timer = setTimeout(look, 400);
      };
      look();
    });
  }

  async act() {
    const { action, selection, done } = this.props;
    const { lane, matched } = this.state;
    this.setState({ run: { running: true, seen: 0, matched: 0, done: 0, failures: 0, failed: [] }, error: null });
    const order = lane && action === 'replay' ? { ...selection, lane } : selection;
    const following = this.until();
    try {
      const answer = await post(`/api/dead-letters/${action}`, order);
      const run = answer.running ? await following : answer;
      clearTimeout(this.timer);
      if (this.alive) this.setState({ run });
    } catch (error) {
      clearTimeout(this.timer);
      if (this.alive) this.setState({ error, run: null, matched });
    }
    done?.();
  }

  render({ action, label }, { matched, run, error, lane }) {
    const verb = action === 'replay' ? 'Replay' : 'Discard';
    const past = action === 'replay' ? 'replayed' : 'discarded';
    if (run) {
      return h(Modal, { title: run.running ? `${verb}: ${label}` : `${format.plural(run.done, 'letter')} ${past}` },
        h('div', { 'aria-live': 'polite' },
          h(Progress, { done: run.done, total: Math.max(matched ?? 0, run.matched), label: `letters ${past}` }),
          !run.running && h('p', { class: 'ended' }, `Done: ${format.count(run.done)} of ${format.plural(run.matched, 'letter')} ${past}.`),
          run.failures > 0 && h('p', { class: 'problem' }, `${format.plural(run.failures, 'letter')} still there: ${run.failed[0]?.why}`)),
        h('div', { class: 'buttons' }, h(Close)));
    }
    return h(Modal, { title: `${verb} ${label}?` },
      h('p', null, action === 'replay'
        ? 'The jobs go back into the queues that they came from. A failed job’s failed recipients are tried again under the same id; a letter that is replayed twice acts once.'
        : 'The letters are dropped for good. Records of what was sent stay.'),
      matched === null && !error && h('p', { class: 'muted' }, 'Counting …'),
      matched !== null && h('p', { class: 'count' }, h('strong', null, format.count(matched)), matched === 1 ? ' letter' : ' letters'),
      action === 'replay' && h('label', null, 'Into', h('select', { value: lane, onChange: (event) => this.setState({ lane: event.target.value }) },
        [['', 'the queues that they came from'], ['high', 'lane high'], ['normal', 'lane normal'], ['bulk', 'lane bulk']].map(([value, text]) => h('option', { value }, text)))),
      error && h(Problem, { error }),
      matched > 0 ? h(Typed, { word: action, verb, danger: action === 'discard', act: () => this.act() }) : h('div', { class: 'buttons' }, h(Close)));
  }
}
