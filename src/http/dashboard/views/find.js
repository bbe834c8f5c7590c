// Which job is it? By id, by recipient, by group.

import { Component, h } from '../vendor/preact.js';
import { get, part } from '../api.js';
import * as format from '../format.js';
import { Button, Card, Empty, GroupLink, JobLink, Problem, State, Table, Time, cell, groupHref } from '../parts.js';

export function JobTable({ label, jobs, by }) {
  return h(Table, { label, columns: [['Job'], ['Type'], ['Recipient'], ['State'], ['Group'], ['Lane'], ['Received', 'num']] },
    jobs.map((job) => h('tr', { key: `${job.job} ${job.to}` },
      h('th', { scope: 'row' }, h(JobLink, { job: job.job, to: by === 'recipient' && job.recipients > 1 ? job.to : undefined })),
      cell(job.type.replace('_', ' ')),
      cell(job.to ?? (job.recipients > 0 ? format.plural(job.recipients, 'recipient') : '–')),
      cell(job.state ? [h(State, { word: job.state }), job.error && h('small', null, ` ${job.error}`)] : job.error ? h(State, { word: 'failed', label: job.error }) : h('span', { class: 'muted' }, 'several')),
      cell(h(GroupLink, { group: job.group })),
      cell(job.lane),
      cell(h(Time, { at: job.created_at }), 'num'))));
}

export class Find extends Component {
  constructor(props) {
    super(props);
    this.state = { found: null, error: null, busy: false, took: 0 };
  }

  componentDidMount() {
    const text = this.props.query.get('q');
    if (text) this.search(text);
  }

  async search(text) {
    const own = (this.searched = (this.searched ?? 0) + 1);
    const began = performance.now();
    this.setState({ busy: true, error: null, found: null });
    // Each way by itself: what is found first is shown first.
    const ways = ['id', 'recipient', 'group'].map(async (by) => {
      const answer = await get(`/api/search?q=${part(text)}&by=${by}`);
      if (own !== this.searched) return;
      this.setState(({ found }) => ({
        found: { by_id: [], by_recipient: [], by_group: [], groups: [], ...found, q: answer.q, limit: answer.limit, [`by_${by}`]: answer[`by_${by}`], ...(by === 'group' && { groups: answer.groups }) },
        took: performance.now() - began,
      }));
    });
    try {
      await Promise.all(ways);
    } catch (error) {
      if (own === this.searched) this.setState({ error });
    }
    if (own === this.searched) this.setState({ busy: false });
  }

  async more(by) {
    const { found } = this.state;
    const list = found[`by_${by}`];
    const last = list.at(-1);
    const behind = by === 'recipient' ? `before=${part(last.created_at)}` : `after=${part(last.job)}`;
    try {
      const next = await get(`/api/search?q=${part(found.q)}&by=${by}&${behind}`);
      this.setState({ found: { ...found, [`by_${by}`]: [...list, ...next[`by_${by}`]], [`end_${by}`]: next[`by_${by}`].length < next.limit } });
    } catch (error) {
      this.setState({ error });
    }
  }

  render({ query }, { found, error, busy, took }) {
    const text = query.get('q') ?? '';
    const submit = (event) => {
      event.preventDefault();
      const wanted = new FormData(event.target).get('q').trim();
      if (!wanted) return;
      if (wanted === text) this.search(wanted);
      else location.hash = `#/find?q=${part(wanted)}`;
    };
    const section = (by, title) => {
      const jobs = found[`by_${by}`];
      if (jobs.length === 0) return null;
      const more = by !== 'id' && jobs.length % found.limit === 0 && !found[`end_${by}`];
      return h(Card, { title, id: `by-${by}`, wide: true, hint: by === 'recipient' ? 'the newest first' : undefined, key: by },
        h(JobTable, { label: title, jobs, by }),
        more && h(Button, { act: () => this.more(by) }, 'More'));
    };
    const nothing = found && !busy && !error && ['by_id', 'by_recipient', 'by_group', 'groups'].every((list) => found[list].length === 0);
    return h('div', null,
      h('h1', { tabIndex: -1 }, 'Find'),
      h('form', { class: 'search', role: 'search', onSubmit: submit },
        h('input', { name: 'q', type: 'search', 'aria-label': 'Job id, recipient or group', placeholder: 'A job’s id or its beginning, a recipient, a group', defaultValue: text, autofocus: !text }),
        h(Button, { type: 'submit', kind: 'primary', disabled: busy }, busy ? 'Looking …' : 'Find')),
      h('p', { class: 'hint', role: 'status' }, found && !nothing ? `found in ${format.duration(took / 1000)}` : ''),
      error && h(Problem, { error, again: () => this.search(text) }),
      nothing && h(Empty, null, `Nothing on record has the id, the recipient or the group “${found.q}”. A job that still waits in its queue is not on record yet; one that was refused is a dead letter.`),
      !text && h(Empty, null, 'Type what you know: ids and groups are also found by how they begin, recipients by their whole account.'),
      found && h('div', { class: 'grid' },
        found.groups.length > 0 && h(Card, { title: 'Groups', id: 'groups', wide: true, key: 'groups' },
          h('ul', { class: 'chips' }, found.groups.map((group) => h('li', { key: group }, h('a', { class: 'chip', href: groupHref(group) }, group))))),
        section('id', 'Jobs by id'), section('recipient', 'Messages to this recipient'), section('group', 'Jobs of this group')));
  }
}
