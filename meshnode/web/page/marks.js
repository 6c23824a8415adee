// What stands for a state: a sign and a word, since not everybody sees colours; and what filters by one.

import { h } from "./dom.js";
import { nodeSign } from "./nodes.js";
import { signOf, stateOf } from "./units.js";

/** Return the state of a unit, a batch or a member of one, with its sign. */
export function unitBadge(unit) {
  return badge(stateOf(unit), signOf(stateOf(unit)));
}

/** Return a node's state with its sign. */
export function nodeBadge(state) {
  return badge(state, nodeSign(state));
}

/** Return a button that is on or off. */
export function toggle(isOn, onclick, kind, state, content) {
  return h("button", { type: "button", class: kind, "data-state": state || null, "aria-pressed": String(isOn), onclick }, content);
}

/** Return how many there are in a state, for a large sign. */
export function counted(number, state, word) {
  return [h("strong", null, String(number ?? 0)), h("span", null, h("span", { class: "sign", "aria-hidden": "true" }, signOf(state)), ` ${word}`)];
}

function badge(state, sign) {
  return h("span", { class: "badge", "data-state": state }, h("span", { "aria-hidden": "true" }, sign), ` ${state}`);
}
