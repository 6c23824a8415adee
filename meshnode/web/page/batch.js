// The page of one batch: how far it is, its members, those that failed first, and what may be done.

import { Asker } from "./asker.js";
import { batchOf, countsText, isOver, MEMBER_STATES, Members, MOST_MEMBERS, progressOf, rankOf } from "./batches.js";
import { endedText, progressBar, timeOf } from "./batchlist.js";
import { button, Facts, fill, h, note, once, say } from "./dom.js";
import { clock, count, duration, moment } from "./format.js";
import { counted, toggle, unitBadge } from "./marks.js";
import { unavailable } from "./mesh.js";
import { whenSeen } from "./seen.js";
import { Table } from "./table.js";
import { isAllowed } from "./unit.js";
import { isFinal, runTime, stateOf } from "./units.js";

/** Seconds between two questions, however many members end. */
const PAUSE = 1;

/** Seconds until the next question if no member tells of anything: a batch may wait, or end, by itself. */
const LATER = 5;
const MUCH_LATER = 60;

/** What can be done with a batch: the word of the API, the button, and what is asked before. */
const DEEDS = [
  { word: "cancel", text: "Cancel", isFor: (batch) => !isOver(batch), ask: "Cancel this batch?", why: "Members that run are ended, the others are not started. What was printed is kept." },
  { word: "retry", text: "Retry", isFor: (batch) => isOver(batch) && batch.Succeeded < batch.Members, ask: "Run members again?", why: "All that have not succeeded run once more." },
  { word: "release", text: "Release", isFor: () => true, ask: "Release this batch?", why: "It is ended, if it still runs, and all of its units, with what they have printed, are removed for ever." },
];

/** Return the view of a batch. */
export function batchView(context, id) {
  const view = new BatchView(context, id);
  view.begin();
  return { title: `Batch ${id}`, element: view.element };
}

class BatchView {
  #context;
  #id;
  #asker = new Asker(() => this.#ask(), PAUSE);
  #members = new Members();
  #may = null;
  #isReleased = false;
  #isReleasing = false;
  /** Whether the journal is to be read from its beginning: a node that was killed may have lost its end. */
  #isAnew = true;
  /** Whether what runs is to be asked for: events were missed that would have told of it. */
  #isMissed = true;
  #filter = { state: "", text: "" };
  #state = h("span");
  #actions = h("div", { class: "actions" });
  #done = h("div", { role: "alert" });
  #problem = h("div", null, note("Asking the node …"));
  #content = h("div", { hidden: true });
  #bar = h("div");
  #counts = h("div", { class: "counts", role: "group", "aria-label": "Members by state" });
  #about = new Facts();
  #shown = h("p", { class: "summary" });
  #table = new Table({
    caption: "Members",
    columns: columns(() => this.#context.live.now),
    key: ({ Index, UnitID }) => (Index === undefined ? `unit ${UnitID}` : `member ${Index}`),
    sort: { id: "state", isDown: false },
    empty: "No member is like that.",
  });

  constructor(context, id) {
    [this.#context, this.#id] = [context, id];
    const search = h("input", { type: "search", placeholder: "Member, unit, detail …", "aria-label": "Search members", oninput: () => this.#set({ text: search.value }) });
    fill(
      this.#content,
      h("section", { "aria-label": "Progress" }, this.#bar),
      this.#counts,
      h("section", { "aria-label": "What is known" }, this.#about.element),
      h("div", { class: "bar", role: "search" }, search, this.#shown),
      h("section", { "aria-label": "Members" }, this.#table.element),
    );
    this.element = h(
      "div",
      { class: "view" },
      h("p", { class: "back" }, h("a", { href: "#/work" }, "← Work")),
      h("div", { class: "heading" }, h("h1", { tabindex: -1, class: "mono" }, id), this.#state, this.#actions),
      this.#done,
      this.#problem,
      this.#content,
    );
  }

  begin() {
    const { live, signal } = this.#context;
    live.addEventListener("units", () => this.#render(), { signal });
    live.addEventListener("unit", ({ detail }) => this.#heard(detail), { signal });
    live.addEventListener("whole", () => this.#missed(), { signal });
    live.addEventListener("state", () => live.state === "lost" && (this.#isAnew = true), { signal });
    signal.addEventListener("abort", () => this.#asker.stop());
    // What was asked before events come might miss some; "whole" tells that they do.
    if (live.state !== "connecting") this.#asker.wish();
    this.#askMay();
  }

  /** Of a unit that is released no event says whose it was. */
  #heard({ change, unit }) {
    if (change === "released" || batchOf(unit) === this.#id) this.#wish();
  }

  #missed() {
    this.#isMissed = true;
    this.#wish();
  }

  /** What is gone, or is just going, is not asked for. */
  #wish(wait = 0) {
    if (!this.#isReleased && !this.#isReleasing) this.#asker.wish(wait);
  }

  async #ask() {
    const { signal } = this.#context;
    await whenSeen(signal);
    if (signal.aborted) return;
    try {
      const before = this.#members.batch;
      const isNew = await this.#read();
      if (signal.aborted) return;
      fill(this.#problem);
      if (before && !isOver(before) && isOver(this.#members.batch)) this.#announce();
      // What has just ended may have been written between its last member and how it stands.
      this.#wish(isNew ? 0 : isOver(this.#members.batch) ? MUCH_LATER : LATER);
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
      return;
    }
    this.#render();
  }

  /** Read on in the journal. Return whether there was anything new. */
  async #read() {
    const { api, live, signal } = this.#context;
    const [isAnew, isMissed] = [this.#isAnew, this.#isMissed];
    this.#isAnew = this.#isMissed = false;
    const members = isAnew ? new Members() : this.#members;
    const before = JSON.stringify([members.position, members.batch]);
    try {
      // What runs is in no journal, and may be older than the units that the page knows.
      if (isAnew || isMissed) await live.find({ batch: this.#id, state: "pending,running" }, signal);
      for await (const { line, end } of api.lines(["batches", this.#id, "members"], { from: members.position }, signal)) {
        members.take(line, end);
      }
    } catch (error) {
      this.#isAnew ||= isAnew;
      this.#isMissed ||= isMissed;
      throw error;
    }
    this.#members = members;
    return JSON.stringify([members.position, members.batch]) !== before;
  }

  async #askMay() {
    const { api, signal } = this.#context;
    try {
      this.#may = await api.get(["batches", this.#id, "may"], {}, signal);
    } catch {
      // The node will say so when it is asked to do it.
      this.#may = null;
    }
    if (!signal.aborted) this.#render();
  }

  #fail(error) {
    const isKnown = this.#members.batch !== null;
    if (error.status === 404 && isKnown) {
      this.#isReleased = true;
      return this.#render();
    }
    fill(this.#problem, note(error.status === 404 ? `There is no batch ${this.#id} here, or it is not for you to see.` : unavailable(error, "This batch"), "bad"));
    if (!error.isUnavailable) this.#wish(LATER);
    return undefined;
  }

  #announce() {
    const { batch } = this.#members;
    this.#context.say(`Batch ${this.#id}: ${stateOf(batch)}, ${countsText(batch)}`);
  }

  #set(change) {
    Object.assign(this.#filter, change);
    this.#render();
  }

  #render() {
    const { batch } = this.#members;
    if (!batch) return;
    this.#content.hidden = false;
    once(this.#state, `${stateOf(batch)} ${this.#isReleased}`, () => (this.#isReleased ? h("span", { class: "badge" }, "released") : unitBadge(batch)));
    const deeds = DEEDS.filter(({ word, isFor }) => !this.#isReleased && isFor(batch) && isAllowed(this.#may, word));
    once(this.#actions, JSON.stringify(deeds), () => deeds.map((deed) => button(deed.text, () => this.#do(deed), { class: deed.word === "release" ? "danger" : "" })));
    once(this.#bar, JSON.stringify(batch), () => [progressBar(batch), h("p", { class: "help" }, `${endedText(batch)}${batch.Detail ? `; ${batch.Detail}` : ""}`)]);
    once(this.#counts, JSON.stringify([batch, this.#filter.state]), () => this.#states(batch));
    this.#about.update(factsOf(batch, this.#context.live.now));
    this.#renderMembers(batch);
  }

  #states(batch) {
    return MEMBER_STATES.map(([name, state, word]) => {
      const content = counted(batch[name], state, word);
      // Of those that wait there is nothing to be shown.
      if (name === "Waiting") return h("div", { class: "count" }, content);
      const isOn = this.#filter.state === state;
      return toggle(isOn, () => this.#set({ state: isOn ? "" : state }), "count", state, content);
    });
  }

  #renderMembers(batch) {
    const ended = this.#members.ended();
    const known = [...ended, ...this.#inFlight(ended)];
    const found = known.filter((member) => this.#isWanted(member));
    this.#table.update(found);
    const left = progressOf(batch).ended - ended.length;
    const isPart = found.length < known.length;
    say(this.#shown, [`${isPart ? `${found.length} of ` : ""}${count(known.length, "member")}`, left > MOST_MEMBERS ? `${left} others that ended earlier are not shown` : ""].filter(Boolean).join("; "));
  }

  /** Return the units that have not ended, as members: which number they have, only the journal says. */
  #inFlight(ended) {
    const units = [...this.#context.live.units.values()].filter((unit) => batchOf(unit) === this.#id && !isFinal(unit));
    const known = new Set(ended.map(({ UnitID }) => UnitID));
    return units.filter(({ ID }) => !known.has(ID)).map((unit) => ({ ...unit, UnitID: unit.ID, StateName: stateOf(unit) }));
  }

  #isWanted({ Index, UnitID, StateName, Detail }) {
    const { state, text } = this.#filter;
    const isState = !state || StateName === state || (state === "Running" && StateName === "Pending");
    return isState && `${Index ?? ""}\n${UnitID ?? ""}\n${Detail ?? ""}`.toLowerCase().includes(text.toLowerCase());
  }

  async #do({ word, text, ask, why }) {
    const { api, confirm, say: announce } = this.#context;
    const { batch } = this.#members;
    if (!(await confirm({ title: ask, text: `${this.#id}, ${count(batch.Members, "member")}. ${why}`, yes: text, isDangerous: word !== "retry" }))) return undefined;
    fill(this.#done);
    this.#isReleasing = word === "release";
    try {
      const { result, retried } = await api.post(["batches", this.#id, word]);
      this.#isReleased = result === "released";
      announce(`${text}: ${result ?? (retried === undefined ? "done" : count(retried, "member"))}`);
    } catch (error) {
      fill(this.#done, note(`${text}: ${error.message}`, "bad"));
    } finally {
      this.#isReleasing = false;
    }
    if (!this.#isReleased) return this.#asker.now();
    this.#asker.stop();
    return this.#render();
  }
}

function factsOf(batch, now) {
  return [
    ["Type", batch.Work],
    ["Node", batch.Node],
    ["Members", batch.Members],
    ["At a time", batch.MaxInFlight],
    ["Submitted by", batch.SubmittedBy],
    ["Created", clock(batch.Created)],
    ["Ended", batch.Finished ? clock(batch.Finished) : null],
    ["Time", duration(timeOf(batch, now))],
  ];
}

function columns(now) {
  return [
    { id: "member", title: "Member", value: ({ Index }) => Index, show: ({ Index }) => String(Index ?? "–") },
    { id: "state", title: "State", value: rankOf, show: (member) => [unitBadge(member)] },
    { id: "unit", title: "Unit", value: ({ UnitID }) => UnitID, show: ({ UnitID: unit }) => (unit ? [h("a", { class: "name mono", href: `#/work/${encodeURIComponent(unit)}` }, unit)] : "–") },
    { id: "exit", title: "Exit code", kind: "number", value: ({ ExitCode }) => ExitCode, show: ({ ExitCode }) => String(ExitCode ?? "–") },
    { id: "time", title: "Run time", kind: "number", value: (member) => runTime(member, now()), show: (member) => duration(runTime(member, now())) },
    { id: "ended", title: "Ended", value: ({ Finished }) => moment(Finished), show: ({ Finished }) => clock(Finished) },
    { id: "detail", title: "Detail", kind: "detail", value: ({ Detail }) => Detail, show: ({ Detail }) => Detail ?? "" },
  ];
}
