// What the page knows of the node at the moment, kept up to date by the node's events.
//
// It listens, asks for a whole, and lays each event over it: in this order, so that nothing changes
// unheard between. What it hears while an answer is on its way is laid over that, too: the answer may
// be older. After a connection was lost, or the node says that it left events out, it asks for
// a whole again. Views hear "units", "mesh" and "state", "unit" with each event of one, and "whole" when
// they may have missed something: what they know beyond that, they ask for again.

import { Problem } from "./api.js";
import { Asker } from "./asker.js";
import { whenSeen } from "./seen.js";
import { pause } from "./sse.js";
import { createdAt, merged, stateOf } from "./units.js";

/** Units that are asked for at first, and again with each "more"; and the most that a node gives at once. */
const PAGE = 200;
const LONGEST_PAGE = 1000;

/** Units that the page keeps; beyond, a part of the oldest ones is dropped. */
const MOST_UNITS = 5000;
const DROPPED = 500;

/** Changes of one unit that are kept for its page. */
const MOST_CHANGES = 50;

/** Seconds between two questions for the mesh, however often links change. */
const MESH_PAUSE = 2;

/** Seconds between two questions for what other nodes say of themselves, while somebody looks. */
const DETAIL_PAUSE = 15;

/** Seconds between two questions where the node tells no events. */
const SLOW_PAUSE = 10;

/** Milliseconds in which changes gather before views hear of them. */
const GATHER = 120;

/** How much longer than views need to show changes the next ones gather: a browser has more to do. */
const SHARE = 5;

export class Live extends EventTarget {
  units = new Map();
  /** What became of units while the page was open: ID to a list of time, state and detail. */
  changes = new Map();
  mesh = null;
  /** Why there are no units, or no mesh: a Problem, or null. */
  unitsProblem = null;
  meshProblem = null;
  /** Where the list of units goes on; null at its end. */
  next = null;
  /** "connecting", "live", "slow" (no events from this node), "unknown" (who asks is) or "lost". */
  state = "connecting";
  here = "";
  #api;
  #stop = new AbortController();
  #told = new Set();
  /** What was told of units since a question was sent: a list for each that is not yet answered. */
  #meanwhile = new Set();
  #asker = new Asker(() => this.#askMesh(), MESH_PAUSE);
  #wantsDetail = false;
  /** Milliseconds that views needed to show the last changes. */
  #took = 0;

  constructor(api) {
    super();
    this.#api = api;
  }

  /** The node's time, in milliseconds since 1970. */
  get now() {
    return this.#api.now;
  }

  /** Begin anew, as somebody else perhaps: who has another token is not to see what the one before saw. */
  async start() {
    this.#stop.abort();
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#asker.stop();
    this.units.clear();
    this.changes.clear();
    [this.mesh, this.next, this.unitsProblem, this.meshProblem] = [null, null, null, null];
    for (const what of ["units", "mesh"]) this.#tell(what);
    await this.#listen(signal);
  }

  /** Have other nodes asked as well, all of them or one by its ID; or, if false, no longer. */
  set wantsDetail(wanted) {
    if (wanted === this.#wantsDetail) return;
    this.#wantsDetail = wanted;
    // The answer that is on its way, or was just there, has nothing of that.
    if (wanted) this.#asker.now();
  }

  get wantsDetail() {
    return this.#wantsDetail;
  }

  /** Ask for the mesh, soon: several wishes become one question. */
  askMesh() {
    this.#asker.wish();
  }

  /** Ask for the units before the oldest that is known. */
  async more() {
    if (this.next) await this.#list({ cursor: this.next });
  }

  /** Ask for units of a state, a type and a node that may be among the older ones. */
  async search({ state, type, node }) {
    if (!this.next || !(state || type || node)) return;
    try {
      await this.find({ state: state.toLowerCase(), type, node }, this.#stop.signal);
    } catch (error) {
      if (!(error instanceof Problem)) this.#unlessStopped(error);
    }
  }

  /** Ask for units that are like that, the newest of them. Throws Problem. */
  async find(query, signal) {
    await this.#ask("units", { limit: PAGE, ...query }, signal, ({ items }) => this.#takeAll(items));
    this.#tell("units");
  }

  /** Return all that the node says of a unit: lists and events have less. Throws Problem. */
  async learn(id, signal) {
    let learned;
    await this.#ask(["units", id], {}, signal, (unit) => {
      learned = { ...this.units.get(id), ...unit };
      this.#take(id, learned);
    });
    this.#tell("units");
    return this.units.get(id) ?? learned;
  }

  async #whole() {
    this.#tell("whole");
    this.askMesh();
    await this.#list({});
  }

  async #list(query) {
    try {
      // Older ones that somebody has asked for are not to go because the newest are asked for again.
      const limit = query.cursor ? PAGE : Math.min(LONGEST_PAGE, Math.max(PAGE, this.units.size));
      await this.#ask("units", { limit, ...query }, this.#stop.signal, ({ items, next }) => {
        // A first page is the whole truth of what is newer than its end: what is gone is gone.
        if (!query.cursor) this.units.clear();
        this.#takeAll(items);
        this.next = next ?? null;
      });
      this.unitsProblem = null;
    } catch (error) {
      if (!(error instanceof Problem)) return this.#unlessStopped(error);
      this.unitsProblem = error;
    }
    this.#tell("units");
    return undefined;
  }

  /** Ask for units, have the answer taken over, and lay over it what was told meanwhile. */
  async #ask(parts, query, signal, take) {
    const meanwhile = [];
    this.#meanwhile.add(meanwhile);
    try {
      take(await this.#api.get(parts, query, signal));
      for (const told of meanwhile) this.#lay(told);
    } finally {
      this.#meanwhile.delete(meanwhile);
    }
  }

  async #askMesh() {
    const { signal } = this.#stop;
    const wanted = this.#wantsDetail;
    const query = wanted ? { detail: "true", node: wanted === true ? null : wanted } : {};
    try {
      this.mesh = await this.#api.get("mesh", query, signal);
      this.here = this.mesh.node ?? this.here;
      this.meshProblem = null;
    } catch (error) {
      if (!(error instanceof Problem)) return this.#unlessStopped(error);
      this.meshProblem = error;
    }
    this.#tell("mesh");
    if (this.#wantsDetail && !signal.aborted) this.#asker.wish(document.hidden ? 4 * DETAIL_PAUSE : DETAIL_PAUSE);
    return undefined;
  }

  async #listen(signal) {
    const onstate = (state, isResumed) => {
      this.#become(state);
      if (state !== "live") return;
      // What was missed is told again, if the node still knows it: it says so, if not.
      if (isResumed) this.askMesh();
      else this.#whole();
    };
    try {
      for await (const event of this.#api.follow("events", { signal, onstate })) this.#hear(event);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.#become(error.status === 401 ? "unknown" : "slow");
      this.#whole();
      await pause(SLOW_PAUSE, signal);
      // Who is not known may be later: tokens and certificates are read anew when their files change.
      if (error.status === 401 && !signal.aborted) return this.#listen(signal);
      await this.#askAgain(signal);
    }
    return undefined;
  }

  /** Ask for what changes again and again, since this node tells no events. */
  async #askAgain(signal) {
    for (; !signal.aborted; await pause(SLOW_PAUSE, signal)) {
      await whenSeen(signal);
      this.#tell("whole");
      this.askMesh();
      await this.#list({});
      this.#become(this.unitsProblem?.isLost ? "lost" : this.unitsProblem?.status === 401 ? "unknown" : "slow");
    }
  }

  #hear({ event, data }) {
    const told = parsed(data);
    const topic = told?.topic ?? event;
    if (topic === "lost") this.#whole();
    else if (topic === "unit" && told?.id) this.#unit(told);
    else if (["link", "route", "service", "mesh"].includes(topic)) this.askMesh();
  }

  #unit(told) {
    for (const list of this.#meanwhile) list.push(told);
    this.#lay(told);
    this.dispatchEvent(new CustomEvent("unit", { detail: told }));
    this.#tell("units");
  }

  #lay(told) {
    if (told.change === "released") {
      this.units.delete(told.id);
      this.changes.delete(told.id);
      return;
    }
    const unit = merged(this.units.get(told.id), told);
    this.#take(told.id, unit);
    this.#note(told.id, { time: told.time, state: stateOf(unit), detail: unit.Detail ?? "" });
  }

  #note(id, change) {
    const known = this.changes.get(id) ?? [];
    const last = known.at(-1);
    if (last && last.state === change.state && last.detail === change.detail) return;
    this.changes.set(id, [...known, change].slice(-MOST_CHANGES));
    // Those of units that are no longer kept would stay for ever.
    if (this.changes.size > MOST_UNITS + DROPPED) this.changes.delete(this.changes.keys().next().value);
  }

  #takeAll(units) {
    for (const unit of units) this.#take(unit.ID, unit);
  }

  #take(id, unit) {
    this.units.set(id, { ...unit, ID: id });
    if (this.units.size > MOST_UNITS + DROPPED) this.#dropOldest();
  }

  #dropOldest() {
    const newest = [...this.units.values()].sort((a, b) => createdAt(b) - createdAt(a));
    for (const { ID } of newest.slice(MOST_UNITS)) {
      this.units.delete(ID);
      this.changes.delete(ID);
    }
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.#tell("state");
  }

  #tell(what) {
    if (!this.#told.size) setTimeout(() => this.#flush(), Math.max(GATHER, SHARE * this.#took));
    this.#told.add(what);
  }

  #flush() {
    const told = [...this.#told];
    this.#told.clear();
    const begun = performance.now();
    for (const what of told) this.dispatchEvent(new Event(what));
    this.#took = performance.now() - begun;
  }

  #unlessStopped(error) {
    if (error.name !== "AbortError") throw error;
  }
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : null;
  } catch {
    return null; // no event of ours; a later node may send others
  }
}
