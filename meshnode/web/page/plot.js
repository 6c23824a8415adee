// Lines over time, with their values at the pointer or the keyboard's place, and as a table.

import { button, fill, h, say, svg } from "./dom.js";
import { clock } from "./format.js";
import { levels, ticks } from "./scale.js";

/** Pixels of the plot, and of the room for the numbers at its left and the times beneath. */
const HEIGHT = 190;
const LEFT = 62;
const RIGHT = 10;
const FOOT = 24;
const HEAD = 8;
const WIDTH = 640;

/** Lines that are drawn; more cannot be told apart. Those that are largest come first. */
const MOST_LINES = 8;

/** Rows of the table: the latest moments. */
const ROWS = 30;

export class Plot {
  #show;
  #base;
  #lines = [];
  #from = 0;
  #step = 1;
  #at = null;
  #hidden = new Set();
  #canvas = svg("svg", { class: "plot", role: "img", tabindex: 0 });
  #cursor = svg("g", { class: "cursor" });
  #legend = h("div", { class: "keys" });
  #read = h("p", { class: "read", role: "status" });
  #rest = h("p", { class: "help" });
  #table = h("div", { class: "scroll", hidden: true });
  #title;

  constructor({ title, show, base = 10 }) {
    [this.#title, this.#show, this.#base] = [title, show, base];
    const toggle = button("Table", () => this.#toggleTable(toggle), { class: "quiet", "aria-pressed": "false", "aria-label": `${title} as a table` });
    this.element = h("section", { class: "card", "aria-label": title }, h("div", { class: "heading" }, h("h2", null, title), toggle), this.#legend, this.#canvas, this.#read, this.#rest, this.#table);
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.#canvas.addEventListener("pointerleave", () => this.#move(null));
    this.#canvas.addEventListener("blur", () => this.#move(null));
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#render()).observe(this.#canvas);
  }

  /** Show these lines; each value belongs to a moment, a step after the one before it. */
  update(lines, from, step) {
    const worth = ({ values }) => Math.max(0, ...values.filter((one) => one !== null));
    const isMuch = lines.length > MOST_LINES;
    const chosen = isMuch ? new Set([...lines].sort((a, b) => worth(b) - worth(a)).slice(0, MOST_LINES)) : new Set(lines);
    this.#lines = lines.filter((line) => chosen.has(line));
    [this.#from, this.#step] = [from, step * 1000];
    say(this.#rest, isMuch ? `The ${MOST_LINES} largest of ${lines.length} are shown.` : "");
    this.#renderLegend();
    this.#render();
  }

  get #length() {
    return this.#lines[0]?.values.length ?? 0;
  }

  get #width() {
    return this.#canvas.clientWidth || WIDTH;
  }

  #time(index) {
    return this.#from + index * this.#step;
  }

  #x(index) {
    return LEFT + (index / Math.max(1, this.#length - 1)) * (this.#width - LEFT - RIGHT);
  }

  #render() {
    const shown = this.#lines.filter(({ name }) => !this.#hidden.has(name));
    const most = Math.max(0, ...shown.flatMap(({ values }) => values).filter((one) => one !== null));
    const steps = levels(most, 4, this.#base);
    const top = steps.at(-1);
    const y = (value) => HEAD + (1 - value / top) * (HEIGHT - HEAD - FOOT);
    this.y = y;
    this.#canvas.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    this.#canvas.style.height = `${HEIGHT}px`;
    this.#canvas.setAttribute("aria-label", this.#words(shown));
    const rows = steps.map((level) => svg("g", { class: "grid" }, svg("line", { x1: LEFT, x2: this.#width - RIGHT, y1: y(level), y2: y(level) }), svg("text", { class: "left", x: LEFT - 8, y: y(level) + 4 }, this.#show(level))));
    const [first, last] = [this.#time(0), this.#time(Math.max(1, this.#length - 1))];
    const place = (at) => LEFT + ((at - first) / (last - first)) * (this.#width - LEFT - RIGHT);
    const times = ticks(first, last, Math.max(2, Math.floor(this.#width / 110))).map(({ at, text }) => svg("text", { x: place(at), y: HEIGHT - 6 }, text));
    const lines = this.#lines.map((line, index) => (this.#hidden.has(line.name) ? null : svg("path", { class: `series s${index}`, d: this.#path(line.values, y) })));
    fill(this.#canvas, svg("title", null, this.#title), rows, svg("g", { class: "grid" }, times), lines, this.#cursor);
    if (!this.#table.hidden) this.#renderTable();
    this.#move(this.#at);
  }

  #path(values, y) {
    let isDown = false;
    return values
      .map((value, index) => {
        const step = value === null ? "" : `${isDown ? "L" : "M"}${this.#x(index).toFixed(1)} ${y(value).toFixed(1)}`;
        // A single point between two gaps is a dot: a line of no length with round ends.
        const isAlone = value !== null && !isDown && (values[index + 1] ?? null) === null;
        isDown = value !== null;
        return isAlone ? `${step}h0` : step;
      })
      .join("");
  }

  #words(lines) {
    const said = lines.map(({ name, values }) => `${name} ${this.#show(values.findLast((one) => one !== null) ?? null)}`);
    return `${this.#title}, now: ${said.join(", ")}. Left and right read other moments.`;
  }

  #renderLegend() {
    const mark = JSON.stringify([this.#lines.map(({ name }) => name), [...this.#hidden]]);
    if (this.#legend.dataset.mark === mark) return;
    this.#legend.dataset.mark = mark;
    const focused = [...this.#legend.children].indexOf(document.activeElement);
    const toggle = (name) => () => {
      if (!this.#hidden.delete(name)) this.#hidden.add(name);
      this.#renderLegend();
      this.#render();
    };
    const sample = (index) => svg("svg", { class: "sample", viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("path", { class: `series s${index}`, d: "M1 5H25" }));
    fill(this.#legend, this.#lines.map(({ name }, index) => h("button", { type: "button", class: "key", "aria-pressed": String(!this.#hidden.has(name)), onclick: toggle(name) }, sample(index), name)));
    if (focused >= 0) this.#legend.children[focused]?.focus();
  }

  #point(x) {
    const part = (x - LEFT) / (this.#width - LEFT - RIGHT);
    this.#move(part < -0.02 || part > 1.02 ? null : Math.round(Math.min(1, Math.max(0, part)) * (this.#length - 1)));
  }

  #key(event) {
    const last = this.#length - 1;
    const to = { ArrowLeft: (this.#at ?? last + 1) - 1, ArrowRight: (this.#at ?? last - 1) + 1, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#move(to === null ? null : Math.min(last, Math.max(0, to)));
  }

  #move(index) {
    this.#at = index;
    if (index === null || index >= this.#length) {
      fill(this.#cursor);
      return say(this.#read, "");
    }
    const shown = this.#lines.filter(({ name }) => !this.#hidden.has(name));
    const dots = shown.filter(({ values }) => values[index] !== null).map((line) => svg("circle", { class: `dot s${this.#lines.indexOf(line)}`, cx: this.#x(index), cy: this.y(line.values[index]), r: 3.5 }));
    fill(this.#cursor, svg("line", { x1: this.#x(index), x2: this.#x(index), y1: HEAD, y2: HEIGHT - FOOT }), dots);
    return say(this.#read, `${clock(this.#time(index))}: ${shown.map(({ name, values }) => `${name} ${this.#show(values[index])}`).join(", ")}`);
  }

  #toggleTable(toggle) {
    this.#table.hidden = !this.#table.hidden;
    toggle.setAttribute("aria-pressed", String(!this.#table.hidden));
    if (!this.#table.hidden) this.#renderTable();
  }

  #renderTable() {
    const latest = [...Array(this.#length).keys()].slice(-ROWS).reverse();
    const head = h("tr", null, h("th", { scope: "col" }, "Time"), this.#lines.map(({ name }) => h("th", { scope: "col", class: "number" }, name)));
    const rows = latest.map((index) => h("tr", null, h("th", { scope: "row" }, clock(this.#time(index))), this.#lines.map(({ values }) => h("td", { class: "number" }, this.#show(values[index])))));
    fill(this.#table, h("table", null, h("caption", { class: "unseen" }, this.#title), h("thead", null, head), h("tbody", null, rows)));
  }
}
