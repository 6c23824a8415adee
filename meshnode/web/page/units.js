// What the page knows of units of work beyond the names of the control protocol's fields.

import { moment } from "./format.js";

/** The states, in the order of a unit's life; each with a sign, since not everybody sees colours. */
const STATES = [
  ["Pending", "◌"],
  ["Running", "▶"],
  ["Succeeded", "✓"],
  ["Failed", "✕"],
  ["Canceled", "⊘"],
];

/** The names of the states. */
export const STATE_NAMES = STATES.map(([name]) => name);

/** A member of a batch that could not be submitted has no unit, and a state of its own; some wait. */
const SIGNS = new Map([...STATES, ["Refused", "⊖"], ["Waiting", "◌"]]);

/** Return the sign of a state. */
export function signOf(state) {
  return SIGNS.get(state) ?? "?";
}

/** Return the name of a unit's state. */
export function stateOf(unit) {
  return unit.StateName ?? STATE_NAMES[unit.State] ?? "Unknown";
}

/** Whether nothing more happens to a unit. */
export function isFinal(unit) {
  return ["Succeeded", "Failed", "Canceled"].includes(stateOf(unit));
}

/** Return what type of work a unit is, also of one that another node does. */
export function typeOf(unit) {
  return unit.ExtraData?.RemoteWorkType || unit.WorkType || "";
}

/** Return the node that does a unit's work. */
export function nodeOf(unit, here) {
  return unit.ExtraData?.RemoteNode || unit.Node || here;
}

/** Return who submitted a unit, in a few words. */
export function submitterOf(unit) {
  const who = unit.SubmittedBy;
  if (!who || typeof who !== "object") return "";
  return who.User || who.Names?.join(", ") || who.Name || who.Node || who.Address || who.Kind || "";
}

/** Return the seconds that a unit ran so far, or waited: null if it has not begun. */
export function runTime(unit, now) {
  const [from, to] = [moment(unit.Started), moment(unit.Finished)];
  if (Number.isNaN(from)) return null;
  if (Number.isNaN(to) && isFinal(unit)) return null;
  return ((Number.isNaN(to) ? now : to) - from) / 1000;
}

/** Return the moment by which units are ordered, newest first. */
export function createdAt(unit) {
  if (!created.has(unit)) created.set(unit, moment(unit.Created) || 0);
  return created.get(unit);
}

/** When units were created, as numbers: thousands are ordered at each change. */
const created = new WeakMap();

/** Return how many units have each value, the most frequent first: pairs of value and number. */
export function tally(units, value) {
  const counts = new Map();
  for (const unit of units) counts.set(value(unit), (counts.get(value(unit)) ?? 0) + 1);
  return [...counts].sort(([a, m], [b, n]) => n - m || String(a).localeCompare(String(b)));
}

/** Return the units that a filter lets through: state, type, node, and words found in the rest. */
export function filtered(units, filter, here) {
  const words = (filter.text ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  return units.filter(
    (unit) =>
      (!filter.state || stateOf(unit) === filter.state) &&
      (!filter.type || typeOf(unit) === filter.type) &&
      (!filter.node || nodeOf(unit, here) === filter.node) &&
      words.every((word) => wordsOf(unit, here).includes(word)),
  );
}

function wordsOf(unit, here) {
  const labels = Object.entries(unit.Labels ?? {}).map(([key, value]) => `${key}=${value}`);
  return [unit.ID, typeOf(unit), nodeOf(unit, here), stateOf(unit), unit.Detail, submitterOf(unit), unit.SubmittedParams, ...labels]
    .join("\n")
    .toLowerCase();
}

/**
 * Return a unit as an event tells of it, laid over what was known: an event has a few fields only.
 * Where the unit is known to have ended, an event of before says nothing new.
 */
export function merged(known, event) {
  if (known && isFinal(known) && !isFinal(event.unit ?? {})) return known;
  const unit = { ...known, ...event.unit, ID: event.id };
  const state = stateOf(unit);
  unit.Created ??= event.time;
  if (state === "Running") unit.Started ??= event.time;
  if (isFinal(unit)) unit.Finished ??= event.time;
  return unit;
}
