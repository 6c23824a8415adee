// How often work runs: once, for each number of an array, or for each line of a list; then it is a batch.

import { field, h, select } from "./dom.js";

/** Members of a batch that run at a time, at most. */
const MOST_AT_A_TIME = 10000;

export class Each {
  #choice = select([["", "once"], ["array", "for each number"], ["lines", "for each line"]], "", () => this.#chosen());
  #array = h("input", { type: "text", placeholder: "1-100", spellcheck: "false", autocomplete: "off" });
  #lines = h("textarea", { rows: 4, spellcheck: "false" });
  #most = h("input", { type: "number", min: 1, max: MOST_AT_A_TIME, step: 1, placeholder: "100" });
  #fields = {
    array: field("Numbers", this.#array, "Such as 1-100 or 1-9:2,20. {index} stands for the number in arguments, parameters and variables."),
    lines: field("Lines", this.#lines, "{line} stands for a line in arguments, parameters and variables, {index} for its number."),
  };
  #mostField = field("At a time", this.#most, "How many run at a time, at most.");
  #onchoice;

  /** `onchoice(isBatch)` hears whether it is a batch. */
  constructor(onchoice) {
    this.#onchoice = onchoice;
    this.element = h("fieldset", null, h("legend", null, "How often"), field("Run it", this.#choice), this.#fields.array, this.#fields.lines, this.#mostField);
    this.#chosen();
  }

  /** Whether it runs more than once. */
  get isBatch() {
    return this.#choice.value !== "";
  }

  /** Return a batch whose members have this in common. */
  batch(job) {
    const most = this.#most.value === "" ? {} : { max_in_flight: Number(this.#most.value) };
    const lines = this.#lines.value.split(/\r?\n/).filter(Boolean);
    return { job, ...most, ...(this.#choice.value === "array" ? { array: this.#array.value.trim() } : { lines }) };
  }

  #chosen() {
    for (const [name, input] of [["array", this.#array], ["lines", this.#lines]]) {
      const isShown = this.#choice.value === name;
      this.#fields[name].hidden = !isShown;
      input.required = isShown;
    }
    this.#mostField.hidden = !this.isBatch;
    this.#onchoice(this.isBatch);
  }
}
