// The view of the last hours: what the node remembers of units and links, as plots.

import { fill, h, note, say, select } from "./dom.js";
import { brief, clock, moment, rate } from "./format.js";
import { unavailable } from "./mesh.js";
import { Plot } from "./plot.js";
import { STATE_NAMES } from "./units.js";

/** Seconds between two questions, while somebody looks. */
const PAUSE = 10;

/** Windows to choose from, in seconds. */
const WINDOWS = [
  ["900", "15 minutes"],
  ["3600", "1 hour"],
  ["10800", "3 hours"],
  ["0", "all that is known"],
];

/** Return the view. */
export function historyView({ api, live, signal }) {
  const view = new HistoryView();
  const ask = async () => {
    try {
      view.update(await api.get("history", {}, signal));
    } catch (error) {
      if (!signal.aborted) view.fail(error);
    }
  };
  const timer = setInterval(() => document.hidden || ask(), PAUSE * 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
  live.addEventListener("state", () => live.state === "live" && ask(), { signal });
  ask();
  return { title: "History", element: view.element };
}

class HistoryView {
  #history = null;
  #window = 3600;
  #problem = h("div", null, note("Asking the node …"));
  #since = h("p", { class: "summary" });
  #plots = h("div", { class: "plots" });
  #shown = new Map();

  constructor() {
    const choice = select(WINDOWS, String(this.#window), (value) => {
      this.#window = Number(value);
      this.#render();
    });
    choice.setAttribute("aria-label", "Time that the plots show");
    this.element = h("div", { class: "view" }, h("div", { class: "heading" }, h("h1", { tabindex: -1 }, "History"), choice, this.#since), this.#problem, this.#plots);
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
    say(this.#since, `a point every ${brief(step)}, from ${clock(from)}`);
    const groups = grouped(series);
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
export function cut({ step, from, series }, seconds) {
  const length = Math.max(0, ...Object.values(series).map((values) => values.length));
  const kept = seconds ? Math.min(length, Math.ceil(seconds / step)) : length;
  const entries = Object.entries(series).map(([name, values]) => [name, [...Array(length - values.length).fill(null), ...values].slice(length - kept)]);
  return { step, from: moment(from) + (length - kept) * step * 1000, series: Object.fromEntries(entries) };
}

/** Return the plots of a history: what belongs together is in one, with a name for each line. */
export function grouped(series) {
  const known = new Map();
  for (const [name, values] of Object.entries(series)) {
    const found = plotOf(name);
    if (!known.has(found.title)) known.set(found.title, { ...found, lines: [] });
    known.get(found.title).lines.push({ name: found.line, values: values.map((one) => (typeof one === "number" ? one : null)) });
  }
  const order = (name) => STATE_NAMES.findIndex((state) => state.toLowerCase() === name);
  for (const { lines } of known.values()) lines.sort((a, b) => order(a.name) - order(b.name) || (a.name < b.name ? -1 : 1));
  return [...known.values()].sort((a, b) => a.place - b.place || (a.title < b.title ? -1 : 1));
}

function plotOf(name) {
  const link = /^link\.(.+)\.([^.]+)$/.exec(name);
  if (link) return linkPlot(link[1], link[2]);
  const units = /^units\.(.+)$/.exec(name);
  if (units && STATE_NAMES.some((state) => state.toLowerCase() === units[1])) {
    return { title: "Units by state", place: 0, line: units[1], show: plain, isCount: true };
  }
  if (units) return { title: "Throughput", place: 1, line: units[1], show: plain, isCount: true };
  const [first, ...rest] = name.split(".");
  return { title: first, place: 4, line: rest.join(".") || first, show: plain };
}

function linkPlot(peer, what) {
  if (what === "rtt") return { title: "Round trip of links", place: 2, line: peer, show: brief };
  if (/bytes|sent|received/.test(what)) {
    const line = what === "bytes" ? peer : `${peer} ${what.replace(/_?bytes_?/, "")}`;
    return { title: "Traffic of links", place: 3, line, show: rate, base: 2, perStep: true };
  }
  return { title: `Links: ${what}`, place: 4, line: peer, show: plain };
}

function plain(value) {
  return typeof value === "number" ? String(Number(value.toPrecision(4))) : "–";
}

