// The view of the last hours: what the node remembers of units and links, as plots.

import { Asker } from "./asker.js";
import { fill, h, note, say, select } from "./dom.js";
import { brief, clock, moment, rate } from "./format.js";
import { unavailable } from "./mesh.js";
import { Plot } from "./plot.js";
import { whenSeen } from "./seen.js";
import { STATE_NAMES } from "./units.js";

/** Seconds between two questions, while somebody looks. */
const PAUSE = 10;

/** Links beyond which what they send and what they receive is one line. */
const MANY_LINKS = 4;

/** Windows to choose from, in seconds. */
const WINDOWS = [
  ["900", "15 minutes"],
  ["3600", "1 hour"],
  ["10800", "3 hours"],
  ["0", "all that is known"],
];

/** Return the view. */
export function historyView({ api, live, signal }) {
  const view = new HistoryView(() => asker.now());
  const ask = async () => {
    await whenSeen(signal);
    try {
      view.update(await api.get("history", { seconds: view.window || null }, signal));
    } catch (error) {
      if (!signal.aborted) view.fail(error);
    }
    if (!signal.aborted) asker.wish(PAUSE);
  };
  const asker = new Asker(ask, 0);
  signal.addEventListener("abort", () => asker.stop());
  live.addEventListener("whole", () => asker.now(), { signal });
  asker.now();
  return { title: "History", element: view.element };
}

class HistoryView {
  #history = null;
  #window = 3600;
  #problem = h("div", null, note("Asking the node …"));
  #since = h("p", { class: "summary" });
  #plots = h("div", { class: "plots" });
  #shown = new Map();

  /** `onwindow` asks for another time. */
  constructor(onwindow) {
    const choice = select(WINDOWS, String(this.#window), (value) => {
      this.#window = Number(value);
      this.#render();
      onwindow();
    });
    choice.setAttribute("aria-label", "Time that the plots show");
    this.element = h("div", { class: "view" }, h("div", { class: "heading" }, h("h1", { tabindex: -1 }, "History"), choice, this.#since), this.#problem, this.#plots);
  }

  /** How many seconds are looked at; 0 for all. */
  get window() {
    return this.#window;
  }

  /** Show what the node remembers. */
  update(history) {
    this.#history = history;
    this.#render();
  }

  /** Say why there is nothing, or nothing new. */
  fail(problem) {
    fill(this.#problem, note(unavailable(problem, "The history"), problem.isUnavailable ? "" : "bad"));
  }

  #render() {
    if (!this.#history) return;
    fill(this.#problem);
    const { step, from, series } = cut(this.#history, this.#window);
    const more = this.#history.left_out;
    say(this.#since, `a point every ${brief(step)}, from ${clock(from)}${more ? `; the node has no room for ${more} more lines` : ""}`);
    const groups = grouped(series, step);
    if (!groups.length) fill(this.#problem, note("The node remembers nothing yet."));
    for (const [title, plot] of this.#shown) {
      if (groups.some((group) => group.title === title)) continue;
      plot.element.remove();
      this.#shown.delete(title);
    }
    for (const group of groups) {
      if (!this.#shown.has(group.title)) {
        const plot = new Plot(group);
        this.#shown.set(group.title, plot);
        this.#plots.append(plot.element);
      }
      this.#shown.get(group.title).update(group.lines, from, step);
    }
  }
}

/** Return the end of a history: so many seconds of it, or all (0). */
function cut({ step, from, series }, seconds) {
  const length = Math.max(0, ...Object.values(series).map((values) => values.length));
  const kept = seconds ? Math.min(length, Math.ceil(seconds / step)) : length;
  const entries = Object.entries(series).map(([name, values]) => [name, [...Array(length - values.length).fill(null), ...values].slice(length - kept)]);
  return { step, from: moment(from) + (length - kept) * step * 1000, series: Object.fromEntries(entries) };
}

/** Return the plots of a history: what belongs together is in one, with a name for each line. */
export function grouped(series, step) {
  const known = new Map();
  const isMany = Object.keys(series).filter((name) => name.endsWith(".sent")).length > MANY_LINKS;
  for (const [name, values] of Object.entries(series)) {
    const { title, place, line, show, base, made = (one) => one } = plotOf(name, step, isMany);
    if (!known.has(title)) known.set(title, { title, place, show, base, lines: new Map() });
    const { lines } = known.get(title);
    const shown = made(values.map((one) => (typeof one === "number" ? one : null)));
    lines.set(line, lines.has(line) ? added(lines.get(line), shown) : shown);
  }
  const order = (name) => STATE_NAMES.findIndex((state) => state.toLowerCase() === name);
  const sorted = (lines) => [...lines].sort(([a], [b]) => order(a) - order(b) || (a < b ? -1 : 1));
  return [...known.values()]
    .map((plot) => ({ ...plot, lines: sorted(plot.lines).map(([name, values]) => ({ name, values })) }))
    .sort((a, b) => a.place - b.place || (a.title < b.title ? -1 : 1));
}

/** Return sums of two series; what is known of one only is nothing to add to. */
function added(some, others) {
  return some.map((one, at) => (one === null || others[at] === null ? (one ?? others[at]) : one + others[at]));
}

/** Return what came in the last minute, for each moment; what came is counted for each step. */
function lastMinute(values, step) {
  const steps = Math.max(1, Math.round(60 / step));
  return values.map((one, at) => (one === null ? null : values.slice(Math.max(0, at - steps + 1), at + 1).reduce((sum, more) => sum + more, 0)));
}

function plotOf(name, step, isMany) {
  const link = /^link\.(.+)\.([^.]+)$/.exec(name);
  if (link) return linkPlot(link[1], link[2], step, isMany);
  const units = /^units\.(.+)$/.exec(name)?.[1];
  if (STATE_NAMES.some((state) => state.toLowerCase() === units)) return { title: "Units by state", place: 0, line: units, show: plain };
  if (units) return { title: "Units in a minute", place: 1, line: units, show: plain, made: (values) => lastMinute(values, step) };
  const [first, ...rest] = name.split(".");
  return { title: first, place: 4, line: rest.join(".") || first, show: plain };
}

function linkPlot(peer, what, step, isMany) {
  if (what === "rtt") return { title: "Round trip of links", place: 2, line: peer, show: brief };
  if (what === "sent" || what === "received") {
    const line = isMany ? peer : `${peer} ${what}`;
    return { title: "Traffic of links", place: 3, line, show: rate, base: 2, made: (values) => values.map((one) => (one === null ? null : one / step)) };
  }
  return { title: `Links: ${what}`, place: 4, line: peer, show: plain };
}

function plain(value) {
  return typeof value === "number" ? String(Number(value.toPrecision(4))) : "–";
}

