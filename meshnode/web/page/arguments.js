// The fields of a type of work: its arguments, and what else a submission may say.

import { button, field, h, select } from "./dom.js";
import { Each } from "./each.js";

/** Return the fields for a type, as `GET /api/v1/types/NAME` describes it. */
export function argumentFields(kind) {
  return new Fields(kind);
}

/** Return a submission: JSON, or a form where files go along. */
export function argumentsOf(job, fields) {
  const whole = { ...job, ...fields.job() };
  const { payload, deps } = fields.files();
  if (!payload && !deps.length) return whole;
  const form = new FormData();
  form.append("job", new Blob([JSON.stringify(whole)], { type: "application/json" }));
  for (const dep of deps) form.append("dep", dep, dep.name);
  // The payload is streamed to where it goes, and so comes last.
  if (payload) form.append("payload", payload);
  return form;
}

/** Return a batch, as JSON. Throws Error where files go along: a batch has them by meshctl only. */
export function batchRequest(job, fields) {
  const { payload, deps } = fields.files();
  if (payload || deps.length) throw new Error("Files go along with a batch by meshctl only (--dep): leave them out, or run it once.");
  return fields.each.batch({ ...job, ...fields.job() });
}

class Fields {
  #kind;
  #inputs = new Map();
  /** Those that take numbers only. */
  #numbers = new Set();
  /** How often it runs. */
  each = new Each((isBatch) => this.#letPlaces(isBatch));
  #env = h("div", { class: "pairs" });
  #labels = h("div", { class: "pairs" });
  #more = new Map();
  #payload = h("textarea", { rows: 3, spellcheck: "false" });
  #file = h("input", { type: "file" });
  #deps = h("input", { type: "file", multiple: true });
  #output = h("input", { type: "text", spellcheck: "false", autocomplete: "off" });

  constructor(kind) {
    this.#kind = kind;
    const own = (kind.Arguments ?? []).map((one) => this.#argument(one));
    this.element = h(
      "div",
      null,
      own.length ? h("fieldset", null, h("legend", null, "Arguments"), own) : null,
      kind.RuntimeParams ? this.#text("params", "Parameters", "More words for the command.") : null,
      h("fieldset", null, h("legend", null, "Input"), field("Standard input", this.#payload), field("or a file", this.#file)),
      this.each.element,
      this.#others(kind),
    );
  }

  /** Let {index} stand where a number is asked for, or not: the node then judges what comes of it. */
  #letPlaces(isBatch) {
    for (const input of this.#numbers) input.type = isBatch ? "text" : "number";
  }

  /** Return what of the submission is JSON. */
  job() {
    const given = [...this.#inputs].filter(([, input]) => input.value !== "").map(([name, input]) => [name, input.value]);
    const job = {};
    if (given.length) job.arguments = Object.fromEntries(given);
    if (this.#payload.value && !this.#file.files.length) job.payload = this.#payload.value;
    for (const [name, input] of this.#more) {
      const value = input.type === "checkbox" ? input.checked : input.value.trim();
      if (value) job[name] = name === "priority" || name === "timeout" ? Number(value) : value;
    }
    const patterns = this.#output.value.split(/\s+/).filter(Boolean);
    if (patterns.length) job.output = patterns;
    for (const [name, pairs] of [["env", this.#env], ["labels", this.#labels]]) {
      const found = pairsIn(pairs);
      if (found.length) job[name] = Object.fromEntries(found);
    }
    return job;
  }

  /** Return the files that go along. */
  files() {
    return { payload: this.#file.files[0] ?? null, deps: [...this.#deps.files] };
  }

  /** Return the first input whose value cannot be right, with the reason shown; null if there is none. */
  firstInvalid() {
    let first = null;
    for (const input of this.element.querySelectorAll("input, select, textarea")) {
      const isWrong = !input.validity.valid;
      input.setAttribute("aria-invalid", String(isWrong));
      showError(input, isWrong ? input.validationMessage : "");
      if (isWrong) first ??= input;
    }
    return first;
  }

  /** Return the input of the argument that a message names, marked as wrong. */
  named(message) {
    const name = /argument ([\w-]+)/.exec(message)?.[1];
    const input = this.#inputs.get(name);
    input?.setAttribute("aria-invalid", "true");
    return input;
  }

  #argument(argument) {
    const input = inputOf(argument);
    this.#inputs.set(argument.Name, input);
    if (input.type === "number") this.#numbers.add(input);
    if (argument.Required) input.required = true;
    const label = [argument.Name, argument.Required ? h("span", { class: "required" }, " (required)") : null];
    return field(label, input, helpOf(argument));
  }

  #text(name, title, help, attributes = {}) {
    const input = h("input", { type: "text", spellcheck: "false", autocomplete: "off", ...attributes });
    this.#more.set(name, input);
    return field(title, input, help);
  }

  #others(kind) {
    const sign = h("input", { type: "checkbox", checked: Boolean(kind.VerifySignature) });
    this.#more.set("signwork", sign);
    const env = kind.RuntimeEnv?.length ? pairs(this.#env, "Variable", `May be: ${kind.RuntimeEnv.join(", ")}`) : null;
    return h(
      "details",
      { open: Boolean(kind.VerifySignature) },
      h("summary", null, "More"),
      h("div", { class: "row" }, this.#text("timeout", "Time limit in seconds", "", { type: "number", min: 0, step: "any" }), this.#text("priority", "Priority", "", { type: "number", step: 1 }), this.#text("ttl", "Give up after", "Until it has started, such as 10m.")),
      kind.RuntimeCwd && (kind.RuntimeCwd === true || kind.RuntimeCwd.length) ? this.#text("cwd", "Directory", kind.RuntimeCwd === true ? "" : `In: ${[kind.RuntimeCwd].flat().join(", ")}`) : null,
      kind.Files === false ? null : field("Files that go along", this.#deps, "They lie below DEPS/ in the directory in which it starts."),
      kind.Files === false ? null : field("Files to bring back", this.#output, "Patterns with blanks between, such as *.csv reports/*"),
      env,
      pairs(this.#labels, "Label", "To find it by."),
      h("label", { class: "check" }, sign, "Sign it with this node's key"),
    );
  }
}

function inputOf({ Name, Type, Choices, Min, Max, Default }) {
  const shown = Default === null || Default === undefined ? "" : `default ${Default}`;
  if (Type === "bool") return select([["", shown || "not given"], ["true", "true"], ["false", "false"]], "");
  if (Type === "choice") return select([["", shown || "not given"], ...Choices.map((one) => [one, one])], "");
  const isNumber = Type === "int" || Type === "float";
  // Whoever looks over a shoulder is not to see what is shown nowhere else.
  const isSecret = Name.toLowerCase().startsWith("secret_");
  return h("input", {
    type: isSecret ? "password" : isNumber ? "number" : "text",
    min: isNumber ? Min : null,
    max: isNumber ? Max : null,
    step: isNumber ? (Type === "int" ? 1 : "any") : null,
    placeholder: shown || null,
    autocomplete: isSecret ? "new-password" : "off",
    spellcheck: "false",
  });
}

function helpOf({ Help, Type, Min, Max, Pattern }) {
  const parts = [Help?.replace(/\.$/, ""), NAMES[Type]];
  if (isGiven(Min)) parts.push(`at least ${Min}`);
  if (isGiven(Max)) parts.push(`at most ${Max}`);
  if (isGiven(Pattern)) parts.push(`matches ${Pattern}`);
  return parts.filter(Boolean).join(", ");
}

/** What a value is, where its field does not show it. */
const NAMES = { int: "a whole number", float: "a number", path: "a path" };

function isGiven(value) {
  return value !== null && value !== undefined && value !== "";
}

function pairs(list, title, help) {
  const add = () => {
    const [name, value] = ["name", "value"].map((one) => h("input", { type: "text", "aria-label": `${title}: ${one}`, placeholder: one, spellcheck: "false" }));
    const row = h("div", { class: "pair" }, name, value, button("×", () => row.remove(), { "aria-label": `Without this ${title.toLowerCase()}`, class: "quiet" }));
    list.append(row);
    name.focus();
  };
  return h("div", { class: "field" }, h("span", { class: "title" }, `${title}s`), h("span", { class: "help" }, help), list, button(`Add a ${title.toLowerCase()}`, add, { class: "quiet" }));
}

function pairsIn(list) {
  return [...list.children].map((row) => [...row.querySelectorAll("input")].map(({ value }) => value)).filter(([name]) => name.trim() !== "");
}

function showError(input, text) {
  const holder = input.closest(".field");
  if (!holder) return;
  holder.querySelector(".error")?.remove();
  if (text) holder.append(h("span", { class: "error" }, text));
}
