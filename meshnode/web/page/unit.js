// The page of one unit: its state and what became of it, its log, and what may be done with it.

import { batchOf } from "./batches.js";
import { button, Facts, fill, h, note, once, say } from "./dom.js";
import { ago, bytes, clock, duration, moment } from "./format.js";
import { Log } from "./log.js";
import { unitBadge } from "./marks.js";
import { unavailable } from "./mesh.js";
import { isFinal, nodeOf, runTime, signOf, stateOf, submitterOf, typeOf } from "./units.js";

/** Milliseconds after which times that grow are shown anew. */
const TICK = 1000;

/** What can be done with a unit: the word of the API, the button, and what is asked before. */
const DEEDS = [
  { word: "cancel", text: "Cancel", isFor: (unit) => !isFinal(unit), ask: "Cancel this unit?", why: "Its command is ended. What it has printed is kept." },
  { word: "release", text: "Release", isFor: () => true, ask: "Release this unit?", why: "It is ended, if it still runs, and its output and record are removed for ever." },
];

/** Return the view of a unit. */
export function unitView(context, id) {
  const view = new UnitView(context, id);
  view.begin();
  return { title: `Unit ${id}`, element: view.element };
}

class UnitView {
  #context;
  #id;
  #unit = null;
  #may = null;
  #isReleased = false;
  #state = h("span");
  #actions = h("div", { class: "actions" });
  #done = h("div", { role: "alert" });
  #about = new Facts();
  #problem = h("div", null, note("Asking the node …"));
  /** Whether the node has told all of it, and not only what lists and events have. */
  #isWhole = false;
  #json = h("pre", { class: "asked" });
  #all = h("details", { class: "all", hidden: true }, h("summary", null, "All that the node says of it"), this.#json);
  #history = h("ol", { class: "steps" });
  #log;

  constructor(context, id) {
    this.#context = context;
    this.#id = id;
    this.#log = new Log(context, id);
    this.element = h(
      "div",
      { class: "view" },
      h("p", { class: "back" }, h("a", { href: "#/work" }, "← Work")),
      h("div", { class: "heading" }, h("h1", { tabindex: -1, class: "mono" }, id), this.#state, this.#actions),
      this.#done,
      h("div", { class: "columns" }, h("section", { "aria-label": "What is known" }, this.#problem, this.#about.element, this.#all), h("section", { "aria-labelledby": "steps-title" }, h("h2", { id: "steps-title" }, "What became of it"), this.#history)),
      this.#log.element,
    );
  }

  begin() {
    const { live, signal } = this.#context;
    live.addEventListener("units", () => this.#follow(), { signal });
    live.addEventListener("unit", ({ detail }) => this.#heard(detail), { signal });
    const timer = setInterval(() => this.#render(), TICK);
    signal.addEventListener("abort", () => clearInterval(timer));
    live.addEventListener("whole", () => this.#ask(), { signal });
    this.#follow();
    // What was asked before events come might miss some; "whole" tells that they do.
    if (live.state !== "connecting") this.#ask();
  }

  /** Ask for the whole status: events and lists have less. */
  async #ask() {
    const { live, signal } = this.#context;
    try {
      this.#unit = await live.learn(this.#id, signal);
      this.#isWhole = true;
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404 && this.#unit) this.#isReleased = true;
      else if (!this.#unit) fill(this.#problem, note(error.status === 404 ? `There is no unit ${this.#id} here, or it is not for you to see.` : unavailable(error, "This unit"), "bad"));
      this.#render();
      return;
    }
    this.#render();
    this.#log.begin(this.#unit);
    await this.#askMay();
  }

  async #askMay() {
    const { api, signal } = this.#context;
    try {
      this.#may = await api.get(["units", this.#id, "may"], {}, signal);
    } catch {
      // The node will say so when it is asked to do it.
      this.#may = null;
    }
    if (!signal.aborted) this.#render();
  }

  #follow() {
    const known = this.#context.live.units.get(this.#id);
    if (!known) return;
    const wasFinal = this.#unit && isFinal(this.#unit);
    this.#unit = { ...this.#unit, ...known };
    // An end comes with more than an event tells: exit code, sizes, who ended it.
    if (!wasFinal && isFinal(this.#unit) && this.#isWhole) this.#ask();
    this.#render();
  }

  #heard({ id, change, unit }) {
    if (id !== this.#id) return;
    if (change === "released") this.#isReleased = true;
    this.#context.say(change === "released" ? `Unit ${id} is released` : `Unit ${id}: ${unit?.StateName ?? change}`);
    this.#render();
  }

  #render() {
    const unit = this.#unit;
    if (!unit) return;
    fill(this.#problem);
    once(this.#state, `${stateOf(unit)} ${this.#isReleased}`, () => (this.#isReleased ? h("span", { class: "badge" }, "released") : unitBadge(unit)));
    const deeds = DEEDS.filter(({ word, isFor }) => !this.#isReleased && isFor(unit) && isAllowed(this.#may, word));
    once(this.#actions, JSON.stringify([deeds, typeOf(unit)]), () => this.#buttons(unit, deeds));
    this.#about.update(this.#facts(unit));
    say(this.#json, JSON.stringify(unit, null, 2));
    this.#all.hidden = false;
    once(this.#history, JSON.stringify(this.#steps(unit)), () => this.#steps(unit).map((one) => step(one, this.#context.live.now)));
    this.#log.update(unit);
  }

  #buttons(unit, deeds) {
    const again = h("a", { class: "button", href: `#/work/new/${encodeURIComponent(nodeOf(unit, this.#context.live.here))}/${encodeURIComponent(typeOf(unit))}` }, "Submit another");
    return [deeds.map((deed) => button(deed.text, () => this.#do(deed), { class: deed.word === "release" ? "danger" : "" })), again];
  }

  async #do({ word, text, ask, why }) {
    const { api, confirm, say } = this.#context;
    if (!(await confirm({ title: ask, text: `${this.#id}, ${typeOf(this.#unit)}. ${why}`, yes: text }))) return;
    fill(this.#done);
    try {
      const { result } = await api.post(["units", this.#id, word]);
      say(`${text}: ${result ?? "done"}`);
      if (word === "release") this.#isReleased = true;
      this.#render();
    } catch (error) {
      fill(this.#done, note(`${text}: ${error.message}`, "bad"));
    }
  }

  #facts(unit) {
    const extra = unit.ExtraData ?? {};
    const node = nodeOf(unit, this.#context.live.here);
    const [batch, ran] = [batchOf(unit), runTime(unit, this.#context.live.now)];
    const labels = Object.entries(unit.Labels ?? {}).map(([key, value]) => `${key}=${value}`);
    return [
      ["Type", typeOf(unit)],
      ["Node", h("a", { href: `#/mesh/${encodeURIComponent(node)}` }, node)],
      ["Unit there", extra.RemoteUnitID],
      ["Host", unit.Host ?? extra.Host],
      ["Why there", whyThere(unit)],
      ["Detail", unit.Detail],
      ["Exit code", unit.ExitCode],
      ["Signal", unit.Signal],
      ["Run time", ran === null ? null : duration(ran)],
      ["Process", unit.Pid || null],
      ["Parameters", unit.SubmittedParams],
      ["Input", typeof unit.StdinSize === "number" ? bytes(unit.StdinSize) : null],
      ["Output", `${bytes(unit.StdoutSize)}${unit.StderrSize ? `, errors ${bytes(unit.StderrSize)}` : ""}`],
      ["Submitted by", submitterOf(unit)],
      ["Signed by", unit.SignedBy],
      ["Ended by", unit.EndedBy ? submitterOf({ SubmittedBy: unit.EndedBy.By ?? unit.EndedBy.Identity ?? unit.EndedBy }) : null],
      ["Priority", unit.Priority],
      ["Labels", labels.join(", ")],
      ["Limits", pairsText(unit.Limits)],
      ["Used", pairsText(unit.Usage)],
      ["Batch", batch ? h("a", { href: `#/work/batch/${encodeURIComponent(batch)}` }, batch) : null],
      ["Files", unit.FilesSize ? bytes(unit.FilesSize) : null],
      ["Isolation", unit.Isolation && typeof unit.Isolation === "object" ? pairsText(unit.Isolation) : unit.Isolation],
    ];
  }

  /** Return what became of it: what its record says, and what this page has heard between. */
  #steps(unit) {
    const told = [
      { time: unit.Created, state: "Pending", detail: "Created" },
      { time: unit.Started, state: "Running", detail: "Started" },
      ...(this.#context.live.changes.get(this.#id) ?? []).filter(({ state }) => !["Succeeded", "Failed", "Canceled"].includes(state)),
      { time: unit.Finished, state: stateOf(unit), detail: unit.Detail },
    ];
    const known = told.filter(({ time }) => !Number.isNaN(moment(time)));
    const sorted = known.sort((a, b) => moment(a.time) - moment(b.time));
    return sorted.filter(({ state, detail }, at) => !sorted.slice(0, at).some((one) => one.state === state && one.detail === detail));
  }
}

function step({ time, state, detail }, now) {
  return h(
    "li",
    { "data-state": state },
    h("span", { class: "sign", "aria-hidden": "true" }, signOf(state)),
    h("span", { class: "what" }, detail === "Created" || detail === "Started" ? detail : detail && detail !== state ? `${state}: ${detail}` : state),
    h("time", { datetime: time, title: ago(time, now) }, clock(time)),
  );
}

/** Whether a client may do something, as the node said; what it did not say, it decides when asked. */
export function isAllowed(may, word) {
  const said = may?.[word];
  return said === undefined || said === null || said === true || said?.Allowed === true || said?.allowed === true;
}

function whyThere(unit) {
  const { Placement, Chosen } = { ...unit, ...unit.ExtraData };
  return [Placement && !Chosen ? `placed: ${Placement}` : null, Chosen].filter((one) => typeof one === "string").join(", ") || null;
}

function pairsText(value) {
  if (!value || typeof value !== "object") return null;
  const shown = Object.entries(value).filter(([, one]) => one !== null && one !== "");
  return shown.map(([key, one]) => `${key} ${typeof one === "object" ? JSON.stringify(one) : one}`).join(", ") || null;
}

