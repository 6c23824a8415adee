// The view of work: how many units there are of which kind, a timeline, and a live table of them.

import { BatchList } from "./batchlist.js";
import { button, fill, h, note, once, say, select } from "./dom.js";
import { bytes, clock, count, duration } from "./format.js";
import { counted, toggle, unitBadge } from "./marks.js";
import { unavailable } from "./mesh.js";
import { Table } from "./table.js";
import { Timeline } from "./timeline.js";
import { createdAt, filtered, nodeOf, runTime, STATE_NAMES, stateOf, submitterOf, tally, typeOf } from "./units.js";

/** Work types that are counted by name; the others are found in the choice of types. */
const COUNTED_TYPES = 8;

/** Milliseconds after which times that grow are shown anew. */
const TICK = 2000;

/** Milliseconds in which ends gather before they are said: nobody could hear a hundred. */
const SAY = 1000;

/** Return the view. */
export function workView(context) {
  const { live, signal } = context;
  const view = new WorkView(context);
  const refresh = () => view.refresh();
  live.addEventListener("units", refresh, { signal });
  live.addEventListener("unit", ({ detail }) => view.heard(detail), { signal });
  const timer = setInterval(() => document.hidden || view.refresh(), TICK);
  signal.addEventListener("abort", () => clearInterval(timer));
  refresh();
  return { title: "Work", element: view.element };
}

class WorkView {
  #live;
  #announce;
  #filter = { text: "", state: "", type: "", node: "" };
  #problem = h("div");
  #content = h("div", { hidden: true });
  #states = h("div", { class: "counts", role: "group", "aria-label": "Units by state" });
  #types = h("div", { class: "chips", role: "group", "aria-label": "Units by type" });
  #type = this.#choice("type", "Type of work");
  #node = this.#choice("node", "Node");
  #shown = h("p", { class: "summary" });
  #more = button("Older units", () => this.#loadMore());
  #timeline = new Timeline();
  /** Units that have ended, and were not yet said to have. */
  #ended = [];
  #table;

  constructor(context) {
    const { live, say: announce } = context;
    [this.#live, this.#announce] = [live, announce];
    this.#table = new Table({
      caption: "Units of work",
      columns: unitColumns(live),
      key: ({ ID }) => ID,
      sort: { id: "created", isDown: true },
      empty: "No unit is like that.",
    });
    const search = h("input", { type: "search", placeholder: "ID, label, submitter, detail …", "aria-label": "Search units", oninput: () => this.#set({ text: search.value }) });
    fill(
      this.#content,
      this.#states,
      this.#types,
      new BatchList(context).element,
      h("section", { "aria-labelledby": "timeline-title" }, this.#timeline.element),
      h("div", { class: "bar", role: "search" }, search, this.#type, this.#node, button("All", () => this.#clear(search)), this.#shown),
      h("section", { "aria-label": "Units" }, this.#table.element, h("p", { class: "more" }, this.#more)),
    );
    const heading = h("div", { class: "heading" }, h("h1", { tabindex: -1 }, "Work"), h("a", { class: "button primary", href: "#/work/new" }, "Submit work"));
    this.element = h("div", { class: "view" }, heading, this.#problem, this.#content);
  }

  /** Show what is known by now. */
  refresh() {
    const { units: known, unitsProblem, here, next } = this.#live;
    const isKnown = known.size > 0 || this.#live.state !== "connecting";
    fill(this.#problem, unitsProblem ? note(unavailable(unitsProblem, "The list of units"), unitsProblem.isUnavailable ? "" : "bad") : isKnown ? null : note("Asking the node …"));
    this.#content.hidden = Boolean(unitsProblem && !known.size);
    const units = [...known.values()];
    const found = filtered(units, this.#filter, here);
    this.#renderStates(tally(filtered(units, { ...this.#filter, state: "" }, here), stateOf));
    this.#renderTypes(tally(filtered(units, { ...this.#filter, type: "" }, here), typeOf));
    this.#options(this.#type, "Any type", tally(units, typeOf), this.#filter.type);
    this.#options(this.#node, "Any node", tally(units, (unit) => nodeOf(unit, here)), this.#filter.node);
    this.#timeline.update(found, this.#live.now);
    this.#table.update(found);
    say(this.#shown, `${found.length === units.length ? "" : `${found.length} of `}${count(units.length, "unit")}${next ? ", and older ones" : ""}`);
    this.#more.hidden = !next;
  }

  /** Have a screen reader say which units have ended: the only one by its name, many as a number. */
  heard({ change, id, unit }) {
    if (change !== "ended") return;
    if (!this.#ended.length) setTimeout(() => this.#sayEnded(), SAY);
    this.#ended.push({ id, state: unit?.StateName ?? "ended" });
  }

  #sayEnded() {
    const ended = this.#ended.splice(0);
    const failed = ended.filter(({ state }) => state === "Failed").length;
    const [{ id, state }] = ended;
    this.#announce(ended.length === 1 ? `Unit ${id}: ${state}` : `${ended.length} units ended${failed ? `, ${failed} of them failed` : ""}`);
  }

  #set(change) {
    Object.assign(this.#filter, change);
    this.refresh();
    if (change.state || change.type || change.node) this.#live.search(this.#filter);
  }

  #clear(search) {
    search.value = "";
    this.#set({ text: "", state: "", type: "", node: "" });
  }

  async #loadMore() {
    this.#more.disabled = true;
    await this.#live.more();
    this.#more.disabled = false;
  }

  #choice(name, label) {
    const made = select([["", ""]], "", (value) => this.#set({ [name]: value }));
    made.setAttribute("aria-label", label);
    return made;
  }

  #options(choice, any, counts, chosen) {
    const values = counts.map(([value]) => value).sort();
    const mark = JSON.stringify(values);
    if (choice.dataset.mark !== mark) {
      choice.dataset.mark = mark;
      fill(choice, [["", any], ...values.map((one) => [one, one])].map(([value, text]) => h("option", { value }, text)));
    }
    choice.value = chosen;
  }

  #renderStates(counts) {
    const known = new Map(counts);
    const made = () => STATE_NAMES.map((state) => toggle(this.#filter.state === state, () => this.#set({ state: this.#filter.state === state ? "" : state }), "count", state, counted(known.get(state), state, state)));
    once(this.#states, JSON.stringify([counts, this.#filter.state]), made);
  }

  #renderTypes(counts) {
    const shown = counts.slice(0, COUNTED_TYPES);
    const made = () => shown.map(([type, number]) =>
      toggle(this.#filter.type === type, () => this.#set({ type: this.#filter.type === type ? "" : type }), "chip", "", [`${type || "no type"} `, h("strong", null, String(number))]),
    );
    const others = counts.length - shown.length;
    once(this.#types, JSON.stringify([counts, this.#filter.type]), () => [made(), others > 0 ? h("span", { class: "help" }, `and ${count(others, "other type")}`) : null]);
  }
}

/** Return the columns of tables of units. */
export function unitColumns(live) {
  const node = (unit) => nodeOf(unit, live.here);
  return [
    { id: "id", title: "Unit", value: ({ ID }) => ID, show: ({ ID }) => [h("a", { class: "name mono", href: `#/work/${encodeURIComponent(ID)}` }, ID)] },
    { id: "state", title: "State", value: stateOf, show: (unit) => [unitBadge(unit)] },
    { id: "type", title: "Type", value: typeOf, show: typeOf },
    { id: "node", title: "Node", value: node, show: node },
    { id: "created", title: "Created", value: createdAt, show: ({ Created }) => clock(Created) },
    { id: "time", title: "Run time", kind: "number", value: (unit) => runTime(unit, live.now), show: (unit) => duration(runTime(unit, live.now)) },
    { id: "size", title: "Output", kind: "number", value: ({ StdoutSize }) => StdoutSize, show: ({ StdoutSize }) => bytes(StdoutSize) },
    { id: "who", title: "Submitter", value: submitterOf, show: submitterOf },
    { id: "detail", title: "Detail", kind: "detail", value: ({ Detail }) => Detail, show: ({ Detail }) => Detail ?? "" },
  ];
}
