// A chart of the last minutes, with a legend that tells the values under the pointer.

import { Component, h, createRef } from './vendor/preact.js';
import uPlot from './vendor/uPlot.js';
import { rate, moment } from './format.js';

const HEIGHT = 190;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Sums series of the rates by line: [{label, colour, names, fill}].
function columns(rates, lines) {
  return [rates.seconds, ...lines.map(({ names }) => rates.seconds.map((_, at) => {
    let sum = 0;
    for (const name of names) {
      const values = rates.series[name];
      if (values === undefined) continue;
      if (values[at] === null) return null;
      sum += values[at];
    }
    return sum;
  }))];
}

export class Chart extends Component {
  constructor() {
    super();
    this.place = createRef();
    this.legend = createRef();
    this.at = null;
  }

  componentDidMount() {
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.place.current);
    this.themes = new MutationObserver(() => this.build());
    this.themes.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] });
    this.media = matchMedia('(prefers-color-scheme: dark)');
    this.rebuild = () => this.build();
    this.media.addEventListener('change', this.rebuild);
    this.build();
  }

  componentWillUnmount() {
    this.observer.disconnect();
    this.themes.disconnect();
    this.media.removeEventListener('change', this.rebuild);
    this.plot?.destroy();
  }

  componentDidUpdate() {
    this.plot?.setData(columns(this.props.rates, this.props.lines));
    this.tell();
  }

  resize() {
    const width = this.place.current?.clientWidth ?? 0;
    if (width > 0) this.plot?.setSize({ width, height: HEIGHT });
  }

  build() {
    this.plot?.destroy();
    const ink = colour('--muted');
    const grid = { stroke: colour('--line'), width: 1 };
    const axis = { stroke: ink, grid, ticks: { show: false }, font: '11px system-ui, sans-serif' };
    const options = {
      width: Math.max(this.place.current.clientWidth, 120),
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { y: { range: (_, __, max) => [0, Math.max(max * 1.1, 5)] } },
      series: [{}, ...this.props.lines.map((line) => ({
        stroke: colour(line.colour),
        width: 1.5,
        fill: line.fill ? `${colour(line.colour)}22` : undefined,
        points: { show: false },
        spanGaps: false,
      }))],
      axes: [
        { ...axis, space: 70, size: 26, grid: { show: false }, values: (_, ticks) => ticks.map((tick) => moment(tick * 1000).slice(-8, -3)), incrs: [60, 120, 300] },
        { ...axis, size: 44, values: (_, ticks) => ticks.map((tick) => rate(tick)) },
      ],
      hooks: { setCursor: [(plot) => { this.at = plot.cursor.idx; this.tell(); }] },
    };
    this.plot = new uPlot(options, columns(this.props.rates, this.props.lines), this.place.current);
    this.tell();
  }

  // The legend's values: written past the renderer, since the pointer moves more often than anything is rendered.
  tell() {
    const data = this.plot?.data;
    const cells = this.legend.current?.querySelectorAll('b');
    if (!data || !cells) return;
    const last = data[0].length - 1;
    const at = this.at !== null && this.at !== undefined && this.at <= last ? this.at : last;
    cells.forEach((cell, line) => {
      const value = data[line + 1]?.[at];
      cell.textContent = value === undefined || value === null ? '–' : rate(value);
    });
    const when = this.legend.current.querySelector('time');
    when.textContent = at === last || at < 0 ? 'now' : moment(data[0][at] * 1000);
  }

  render({ label, lines, rates }) {
    const last = columns(rates, lines).map((column) => column.at(-1) ?? 0);
    const told = lines.map((line, at) => `${line.label} ${rate(last[at + 1])}`).join(', ');
    return h('div', { class: 'chart' },
      h('div', { class: 'legend', ref: this.legend },
        lines.map((line) => h('span', null, h('i', { class: 'swatch', style: { background: `var(${line.colour})` } }), line.label, ' ', h('b', null, ''))),
        h('time', { class: 'muted' }, 'now')),
      h('div', { class: 'plot', ref: this.place, role: 'img', 'aria-label': `${label}: ${told} a second` }));
  }
}
