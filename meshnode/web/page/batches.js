// What the page knows of batches: how far one is, and what became of its members. No document.

import { isFinal } from "./units.js";

/** How members stand: the field that counts them, the state of one, the word. In the order of a life. */
export const MEMBER_STATES = [
  ["Waiting", "Waiting", "waiting"],
  ["InFlight", "Running", "in flight"],
  ["Succeeded", "Succeeded", "succeeded"],
  ["Failed", "Failed", "failed"],
  ["Refused", "Refused", "refused"],
  ["Canceled", "Canceled", "canceled"],
];

/** States of members, those first that somebody should look at. */
const RANKS = ["Failed", "Refused", "Canceled", "Running", "Pending", "Succeeded"];

/** Members of each kind that the page keeps, those that went well and the others: a batch may have a million. */
export const MOST_MEMBERS = 5000;

/** Return the ID of the batch that a unit is a member of; "" if it is of none. */
export function batchOf(unit) {
  const label = unit?.Labels?.batch;
  return typeof label === "string" && label.startsWith("b-") ? label : "";
}

/** Whether nothing more becomes of a batch, unless somebody has it tried again. */
export function isOver(batch) {
  return isFinal(batch);
}

/** Return how many members have ended, and how many there are. */
export function progressOf(batch) {
  const members = batch.Members ?? 0;
  return { ended: members - (batch.Waiting ?? 0) - (batch.InFlight ?? 0), members };
}

/** Return how many members stand in which way, in words; what is worst comes first. */
export function countsText(batch) {
  const told = ["Failed", "Refused", "Canceled", "Succeeded", "InFlight", "Waiting"].filter((one) => batch[one]);
  const words = new Map(MEMBER_STATES.map(([count, , word]) => [count, word]));
  return told.map((one) => `${batch[one]} ${words.get(one)}`).join(", ") || "no members";
}

/** Return a number by which members are ordered: those that failed come first. */
export function rankOf({ StateName: state }) {
  const rank = RANKS.indexOf(state);
  return rank < 0 ? RANKS.length : rank;
}

/** What the journal of a batch says of its members; it is read on from where it was. */
export class Members {
  /** The byte of the journal from which on it is not yet read. */
  position = 0;
  /** How the batch stood at the end of what was read; null before. */
  batch = null;
  #fine = new Map();
  #others = new Map();

  /** Take a line of the journal, or the status behind its last one; `end` is the byte behind it. */
  take(line, end) {
    const told = parsed(line);
    if (told && typeof told.Batch === "string") {
      this.batch = told;
      return;
    }
    this.position = end;
    // All that have not succeeded run again.
    if (told?.Event === "retry") this.#others.clear();
    if (!told || typeof told.Index !== "number") return;
    const [kept, other] = told.StateName === "Succeeded" ? [this.#fine, this.#others] : [this.#others, this.#fine];
    other.delete(told.Index);
    kept.delete(told.Index);
    kept.set(told.Index, told);
    if (kept.size > MOST_MEMBERS) kept.delete(kept.keys().next().value);
  }

  /** Return those that have ended, as far as they are kept: of each kind those that ended last. */
  ended() {
    return [...this.#others.values(), ...this.#fine.values()];
  }
}

function parsed(line) {
  try {
    const value = JSON.parse(line);
    return value !== null && typeof value === "object" ? value : null;
  } catch {
    return null; // a line that was cut when the machine lost its power
  }
}
