// When units waited and ran: one bar each, in as few lanes as they need.

import { fill, h, say, select, svg } from "./dom.js";
import { clock, count, duration, moment } from "./format.js";
import { ticks } from "./scale.js";
import { createdAt, isFinal, signOf, stateOf, typeOf } from "./units.js";

/** Windows to choose from, in seconds. */
const WINDOWS = [
  ["300", "5 minutes"],
  ["3600", "1 hour"],
  ["21600", "6 hours"],
  ["86400", "1 day"],
];

/** Lanes that are drawn; units that need more are counted beneath. */
const MOST_LANES = 14;

/** Bars that are drawn, the newest: more could not be told apart, and take long. */
const MOST_BARS = 500;

/** Pixels: a lane, a bar in it, the foot with the times, and the width where no layout is known. */
const LANE = 16;
const BAR = 11;
const FOOT = 22;
const WIDTH = 1000;

export class Timeline {
  #window = 3600;
  #isChosen = false;
  #units = [];
  #now = 0;
  #canvas = svg("svg", { class: "timeline", role: "img" });
  #rest = h("p", { class: "help" });
  #choice;

  constructor() {
    const choice = select(WINDOWS, String(this.#window), (value) => {
      [this.#window, this.#isChosen] = [Number(value), true];
      this.#render();
    });
    this.#choice = choice;
    choice.setAttribute("aria-label", "Time that the timeline shows");
    const heading = h("div", { class: "heading" }, h("h2", { id: "timeline-title" }, "Timeline"), choice);
    this.element = h("div", null, heading, this.#canvas, this.#rest);
    new ResizeObserver(() => this.#render()).observe(this.#canvas);
  }

  /** Show these units as they are at a moment. */
  update(units, now) {
    this.#units = units;
    this.#now = now;
    if (!this.#isChosen && units.length) this.#choose();
    this.#render();
  }

  /** Show the shortest time that has most of the units, until somebody chooses another. */
  #choose() {
    const ages = this.#units.map((unit) => (this.#now - createdAt(unit)) / 1000).sort((a, b) => a - b);
    const wanted = ages[Math.floor(ages.length * 0.8)];
    const [size] = WINDOWS.find(([seconds]) => Number(seconds) >= wanted) ?? WINDOWS.at(-1);
    this.#window = Number(size);
    this.#choice.value = size;
  }

  #render() {
    const [to, from] = [this.#now, this.#now - this.#window * 1000];
    const width = this.#canvas.clientWidth || WIDTH;
    const { lanes, hidden } = laned(this.#units, from, to, (3 * (to - from)) / width);
    const height = Math.max(2, Math.min(lanes.length, MOST_LANES)) * LANE + FOOT;
    const x = (at) => Math.max(0, ((at - from) / (to - from)) * width);
    this.#canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#canvas.style.height = `${height}px`;
    const shown = lanes.flat().length;
    this.#canvas.setAttribute("aria-label", `${count(shown, "unit")} in this time; the table has them all`);
    fill(this.#canvas, grid(from, to, x, height), lanes.map((units, lane) => units.map((unit) => bar(unit, lane * LANE + 2, x, to))));
    say(this.#rest, hidden ? `${hidden} more in this time are not drawn; the table has them.` : shown ? "" : "No unit in this time.");
  }
}

/** Return units in lanes, so that none lies upon another: each in the first that is free. */
export function laned(units, from, to, gap, most = MOST_LANES) {
  const [lanes, ends] = [[], []];
  const inside = units.filter((unit) => endOf(unit, to) >= from && createdAt(unit) <= to);
  const sorted = inside.sort((a, b) => createdAt(a) - createdAt(b) || (a.ID < b.ID ? -1 : 1));
  let hidden = Math.max(0, sorted.length - MOST_BARS);
  for (const unit of sorted.slice(hidden)) {
    const free = ends.findIndex((end) => end + gap < createdAt(unit));
    const lane = free < 0 ? ends.length : free;
    if (lane >= most) {
      hidden += 1;
      continue;
    }
    (lanes[lane] ??= []).push(unit);
    ends[lane] = endOf(unit, to);
  }
  return { lanes, hidden };
}

function endOf(unit, now) {
  const end = moment(unit.Finished);
  if (!Number.isNaN(end)) return end;
  return isFinal(unit) ? moment(unit.Started) || createdAt(unit) : now;
}

function bar(unit, y, x, now) {
  const [created, started, end] = [createdAt(unit), moment(unit.Started), endOf(unit, now)];
  const begun = Number.isNaN(started) ? end : started;
  const text = `${unit.ID} ${typeOf(unit)}: ${stateOf(unit)}, ${duration((end - begun) / 1000)}, from ${clock(unit.Created, now)}`;
  const [left, middle, right] = [x(created), x(begun), Math.max(x(end), x(begun) + 2.5)];
  // For the pointer only: the table has the same links, for keys and for those who do not see.
  const open = () => (location.hash = `#/work/${encodeURIComponent(unit.ID)}`);
  return svg(
    "g",
    { class: "bar-of-unit", "data-state": stateOf(unit), onclick: open },
    svg("title", null, text),
    middle > left ? svg("rect", { class: "waited", x: left, y: y + BAR / 2 - 1.5, width: middle - left, height: 3 }) : null,
    svg("rect", { class: "ran", x: middle, y, width: right - middle, height: BAR, rx: 2 }),
    right - middle > 24 ? svg("text", { x: middle + 4, y: y + BAR - 2 }, right - middle > 90 ? `${signOf(stateOf(unit))} ${typeOf(unit).slice(0, (right - middle - 24) / 7)}` : signOf(stateOf(unit))) : null,
  );
}

function grid(from, to, x, height) {
  const isWhole = ({ at }) => x(at) > 20 && x(at) < x(to) - 20;
  return ticks(from, to, 6).filter(isWhole).map(({ at, text }) =>
    svg("g", { class: "grid" }, svg("line", { x1: x(at), x2: x(at), y1: 0, y2: height - FOOT }), svg("text", { x: x(at), y: height - 7 }, text)),
  );
}
