// What happens now: rates, budgets, lanes, workers, errors.

import { h } from '../vendor/preact.js';
import { Chart } from '../charts.js';
import * as format from '../format.js';
import { recent } from '../live.js';
import { Button, Card, Empty, GroupLink, Meaning, State, Table, Time, cell } from '../parts.js';

const OUTCOMES = [
  { label: 'sent', colour: '--c-good', names: ['sent', 'imported'], fill: true },
  { label: 'revoked', colour: '--c-info', names: ['revoked'] },
  { label: 'cancelled, expired', colour: '--c-calm', names: ['cancelled', 'expired', 'suppressed'] },
  { label: 'failed', colour: '--c-bad', names: ['failed', 'unknown', 'revoke_failed'] },
];
const CALLS = [
  { label: 'ok', colour: '--c-info', names: ['calls.ok', 'calls.already_done'], fill: true },
  { label: 'throttled', colour: '--c-warn', names: ['calls.throttled'] },
  { label: 'refused', colour: '--c-bad', names: ['calls.permanent', 'calls.recipient', 'calls.blocked', 'calls.auth'] },
  { label: 'lost or failing', colour: '--c-violet', names: ['calls.ambiguous', 'calls.transient'] },
];

function Figure({ title, value, unit, tone = '', href, note }) {
  const body = [h('span', { class: 'title' }, title), h('span', { class: 'value' }, value, unit && h('small', null, unit)), h('span', { class: 'note' }, note)];
  return href ? h('a', { class: `figure ${tone}`, href }, body) : h('div', { class: `figure ${tone}` }, body);
}

function Figures({ overview }) {
  const { backlog, lanes, dead_letters: letters, budgets, errors } = overview;
  const queued = lanes.some((lane) => lane.ready !== null) ? lanes.reduce((sum, lane) => sum + (lane.ready ?? 0), 0) : null;
  const inHand = budgets.reduce((sum, budget) => sum + budget.waiting.reduce((a, b) => a + b, 0), 0);
  const throttled = errors.filter((error) => ['im-60007', 'im-60011'].includes(error.code)).reduce((sum, error) => sum + error.recent, 0);
  const failed = recent(['failed', 'unknown', 'revoke_failed']);
  return h('div', { class: 'figures' },
    h(Figure, { title: 'Sent', value: format.rate(recent(['sent', 'imported'])), unit: '/s', note: `${format.rate(recent(CALLS.flatMap((line) => line.names)))} calls/s` }),
    h(Figure, { title: 'Failed', value: format.rate(failed), unit: '/s', tone: failed > 0 ? 'bad' : '', note: `${format.rate(recent(['revoked']))} revoked/s` }),
    h(Figure, { title: 'In queues', value: format.count(queued), note: `${format.count(inHand)} wait for a slot` }),
    h(Figure, { title: 'In the table', value: format.capped(backlog?.work, 100_000), tone: backlog?.past_due > 0 ? 'warn' : '', href: '#/waiting', note: `${format.capped(backlog?.past_due, 100_000)} past due` }),
    h(Figure, { title: 'In doubt', value: format.capped(backlog?.doubts, 100_000), tone: backlog?.doubts > 0 ? 'warn' : '', href: '#/waiting', note: 'answers lost' }),
    h(Figure, { title: 'Dead letters', value: format.count(letters), tone: letters > 0 ? 'bad' : '', href: '#/letters', note: letters > 0 ? 'look at them' : 'none' }),
    h(Figure, { title: 'Throttled', value: format.count(throttled), tone: throttled > 0 ? 'warn' : '', note: 'in 5 minutes' }));
}

function Meter({ used, limit, effective, label }) {
  const share = limit > 0 ? Math.min(1, used / limit) : 0;
  return h('div', { class: 'meter', role: 'meter', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': limit || 0, 'aria-valuenow': Math.min(used, limit || 0) },
    h('span', { class: `fill${share > 0.97 ? ' full' : ''}`, style: { width: `${share * 100}%` } }),
    limit > 0 && effective < limit && h('i', { style: { left: `${(effective / limit) * 100}%` }, title: `${effective} in force` }));
}

function BudgetRow({ budget }) {
  const { app, command, limit, effective, used, waiting, oldest_wait: oldest, paused_for: paused, throttled } = budget;
  const held = paused > 0 ? h(State, { word: 'throttled', label: `stopped ${format.duration(paused)}` })
    : limit > 0 && effective < limit ? h(State, { word: 'throttled', label: `lowered to ${effective}` }) : throttled > 0 ? h('span', { class: 'muted' }, `${format.count(throttled)} throttled`) : '';
  const rows = [h('tr', { key: `${app} ${command}` },
    h('th', { scope: 'row' }, command, h('small', null, app)),
    cell(h(Meter, { used, limit, effective, label: `${command} of ${app}: calls a second` }), 'grow'),
    cell([h('strong', null, format.count(used)), limit > 0 ? ` / ${format.count(limit)} s⁻¹` : ' s⁻¹, no limit'], 'num'),
    waiting.map((n) => cell(format.count(n), `num${n ? '' : ' zero'}`)),
    cell(format.duration(oldest), 'num'),
    cell(held))];
  if (budget.recipients_limit > 0) {
    rows.push(h('tr', { key: `${app} ${command} recipients` },
      h('th', { scope: 'row' }, 'recipients', h('small', null, `${command}, ${app}`)),
      cell(h(Meter, { used: budget.recipients_used, limit: budget.recipients_limit, effective: budget.recipients_limit, label: `${command} of ${app}: recipients a minute` }), 'grow'),
      cell([h('strong', null, format.count(budget.recipients_used)), ` / ${format.count(budget.recipients_limit)} min⁻¹`], 'num'),
      h('td', { colSpan: 5 })));
  }
  return rows;
}

function Budgets({ budgets }) {
  return h(Card, { title: 'Budget', id: 'budget', hint: 'calls of the last second, of all workers', wide: true },
    budgets.length === 0 ? h(Empty, null, 'No command was called yet. Each app and command appears with its first call.')
      : h(Table, { label: 'Budget by app and command', columns: [['Command'], ['Use', 'grow'], ['Used', 'num'], ['High', 'num'], ['Normal', 'num'], ['Bulk', 'num'], ['Oldest wait', 'num'], ['']] },
        budgets.map((budget) => h(BudgetRow, { budget, key: `${budget.app} ${budget.host} ${budget.command}` }))));
}

// What is still in the queue was published after what came last.
function headAge(lane) {
  const queued = lane.ready > 0 ? format.age(lane.head_published_at) : null;
  const due = format.age(lane.oldest_due_at);
  const oldest = Math.max(queued ?? 0, due ?? 0);
  return lane.ready > 0 || lane.due > 0 ? (queued === null && due === null ? 'not known' : format.duration(oldest)) : '–';
}

function Lanes({ overview, may, open }) {
  const paused = overview.pauses.filter((pause) => pause.kind !== 'lane');
  const button = (scope, name, is) => may && h(Button, { kind: 'small', label: `${is ? 'Resume' : 'Pause'} ${scope} ${name}`, act: () => open({ kind: is ? 'resume' : 'pause', scope, name }) }, is ? 'Resume' : 'Pause');
  return h(Card, { title: 'Lanes', id: 'lanes', hint: 'what waits, and what is paused', actions: may && [
    h(Button, { kind: 'small', act: () => open({ kind: 'pause', scope: 'group' }) }, 'Pause a group …'),
  ] },
  h(Table, { label: 'Lanes', columns: [['Lane'], ['In queue', 'num'], ['Due in table', 'num opt'], ['Oldest', 'num'], ['Consumers', 'num opt'], ['State'], ['']] },
    overview.lanes.map((lane) => h('tr', { key: lane.lane },
      h('th', { scope: 'row' }, lane.lane),
      cell(format.count(lane.ready), `num${lane.ready ? '' : ' zero'}`),
      cell(format.count(lane.due), `num opt${lane.due ? '' : ' zero'}`),
      cell(headAge(lane), 'num'),
      cell(format.count(lane.queues.reduce((sum, queue) => sum + queue.consumers, 0)), 'num opt'),
      cell(lane.paused ? [h(State, { word: 'paused' }), lane.paused_until && [' until ', h(Time, { at: lane.paused_until })]] : h(State, { word: 'ready', label: 'open' })),
      cell(button('lane', lane.lane, lane.paused), 'end')))),
  h('h3', null, 'Apps and groups'),
  h('ul', { class: 'rows' },
    overview.apps.map((app) => {
      const pause = paused.find((pause) => pause.kind === 'app' && pause.name === app);
      return h('li', { key: `app ${app}` }, h('span', null, 'app ', h('strong', null, app)), pause && h(State, { word: 'paused' }), pause?.until && h('span', null, 'until ', h(Time, { at: pause.until })), h('span', { class: 'end' }, button('app', app, Boolean(pause))));
    }),
    paused.filter((pause) => pause.kind === 'group').map((pause) => h('li', { key: `group ${pause.name}` }, h('span', null, 'group ', h(GroupLink, { group: pause.name })), h(State, { word: 'paused' }),
      pause.until && h('span', null, 'until ', h(Time, { at: pause.until })), h('span', { class: 'end' }, button('group', pause.name, true))))),
  overview.held_by_pauses > 0 && h('p', { class: 'hint' }, `${format.capped(overview.held_by_pauses, 10_000)} rows of work are held back by paused groups.`));
}

function Workers({ overview, gone }) {
  return h(Card, { title: 'Workers', id: 'workers', hint: format.plural(overview.workers.length, 'process', 'processes') },
    overview.workers.length === 0 ? h(Empty, null, 'No worker has reported yet.')
      : h(Table, { label: 'Workers', columns: [['Worker'], ['State'], ['Up', 'num'], ['In flight', 'num'], ['Heard', 'num'], ['']] },
        overview.workers.map((worker) => {
          const own = worker.id === overview.worker;
          const state = own && gone ? 'gone' : worker.state;
          return h('tr', { key: worker.id, class: state === 'gone' ? 'faded' : '' },
            h('th', { scope: 'row' }, worker.host, h('small', null, `pid ${worker.pid}${worker.http ? ` · ${worker.http}` : ''}${own ? ' · this page' : ''}`)),
            cell(h(State, { word: state })),
            cell(format.duration(format.age(worker.started_at)), 'num'),
            cell(state === 'gone' ? '–' : format.count(worker.calls_in_flight), 'num'),
            cell(state === 'gone' ? `${format.duration(format.age(worker.seen_at))} ago` : 'now', 'num'),
            cell(h('small', null, state === 'gone' ? 'what it held is delivered or taken again' : worker.reasons.join('; ') || `v${worker.version}`)));
        })));
}

function Errors({ errors }) {
  return h(Card, { title: 'Errors', id: 'errors', hint: 'by code, of all workers since their start', wide: true },
    errors.length === 0 ? h(Empty, null, 'No call has failed.')
      : h(Table, { label: 'Errors by code', columns: [['Code'], ['5 minutes', 'num'], ['In all', 'num opt'], ['What it means, and what to do', 'most']] },
        errors.slice(0, 50).map((error) => h('tr', { key: `${error.command} ${error.code}` },
          h('th', { scope: 'row' }, error.code, h('small', null, error.command)),
          cell(format.count(error.recent), `num${error.recent ? '' : ' zero'}`),
          cell(format.count(error.count), 'num opt'),
          cell(h(Meaning, error), 'most')))));
}

export function Now({ live, may, open }) {
  const { overview, rates } = live;
  if (!overview) return h('div', null, h('h1', { tabIndex: -1, class: 'hidden' }, 'Now'), h(Empty, null, 'Connecting …'));
  return h('div', { class: 'now' },
    h('h1', { tabIndex: -1, class: 'hidden' }, 'Now'),
    h(Figures, { overview }),
    h('div', { class: 'grid' },
      h(Card, { title: 'Outcomes', id: 'outcomes', hint: 'messages a second, the last ten minutes' }, h(Chart, { label: 'Outcomes', lines: OUTCOMES, rates })),
      h(Card, { title: 'Calls', id: 'calls', hint: 'answers of the IM API a second' }, h(Chart, { label: 'Calls', lines: CALLS, rates })),
      h(Budgets, { budgets: overview.budgets }),
      h(Lanes, { overview, may, open }),
      h(Workers, { overview, gone: live.goneSince !== null }),
      h(Errors, { errors: overview.errors })));
}
