// The form for new work: made from what a type of work says that it takes.

import { field, fill, h, note, select } from "./dom.js";
import { argumentsOf, argumentFields, batchRequest } from "./arguments.js";
import { unavailable } from "./mesh.js";

/** Where work may go, beside a node by its name. */
const PLACEMENTS = [
  ["least", "the least loaded node"],
  ["random", "any node, at random"],
  ["any", "any node"],
];

/** Return the view; a node and a type may be chosen already. */
export function submitView({ live, api, go, signal, say }, node = "", type = "") {
  const form = new SubmitForm({ live, api, go, signal, say });
  form.begin(node, type);
  return { title: "Submit work", element: form.element };
}

class SubmitForm {
  #context;
  #node = select([["", "this node"]], "", () => this.#chooseNode());
  #type = select([["", ""]], "", () => this.#chooseType());
  #labels = h("input", { type: "text", spellcheck: "false", autocomplete: "off" });
  #labelsField = field("Labels of the node", this.#labels, "Such as gpu=1 zone!=b");
  #described = h("div");
  #problem = h("div", { role: "alert" });
  #submit = h("button", { type: "submit", class: "primary" }, "Submit");
  #parts = null;
  #key = "";
  /** Whether the types are those that nodes advertise, for want of a list. */
  #isAdvertised = false;

  constructor(context) {
    this.#context = context;
    const form = h(
      "form",
      { class: "form", novalidate: true, onsubmit: (event) => this.#send(event) },
      h("div", { class: "row" }, field("Node", this.#node), this.#labelsField, field("Type of work", this.#type)),
      this.#described,
      this.#problem,
      h("div", { class: "actions" }, this.#submit, h("a", { href: "#/work", class: "button" }, "Leave it")),
    );
    this.element = h("div", { class: "view narrow" }, h("p", { class: "back" }, h("a", { href: "#/work" }, "← Work")), h("h1", { tabindex: -1 }, "Submit work"), form);
  }

  /** Ask what there is to choose from. */
  begin(node, type) {
    const { live, signal } = this.#context;
    const refresh = () => this.#nodes();
    live.addEventListener("mesh", refresh, { signal });
    this.#nodes();
    if (node && node !== live.here) this.#choose(this.#node, node);
    this.#chooseNode(type);
  }

  #choose(choice, value) {
    if (![...choice.options].some((one) => one.value === value)) choice.append(h("option", { value }, value));
    choice.value = value;
  }

  #nodes() {
    const { live } = this.#context;
    const chosen = this.#node.value;
    const others = (live.mesh?.nodes ?? []).filter(({ state }) => state === "reachable").map(({ id }) => id);
    const mark = JSON.stringify(others);
    if (this.#node.dataset.mark === mark) return;
    this.#node.dataset.mark = mark;
    const option = ([value, text]) => h("option", { value }, text);
    fill(
      this.#node,
      option(["", live.here ? `${live.here} (this node)` : "this node"]),
      h("optgroup", { label: "Let the node choose" }, PLACEMENTS.map(([mode, text]) => option([`placement ${mode}`, text]))),
      others.length ? h("optgroup", { label: "Nodes" }, others.map((id) => option([id, id]))) : null,
    );
    this.#choose(this.#node, chosen);
    // What nodes advertise came too late for who was refused the list of types; not for who has chosen one.
    if (this.#isAdvertised && !this.#type.value) this.#chooseNode();
  }

  get #placement() {
    const [word, mode] = this.#node.value.split(" ");
    return word === "placement" ? mode : null;
  }

  /** The node whose types are shown: of work for any node, those of this one and the mesh's. */
  get #asked() {
    return this.#placement ? "" : this.#node.value;
  }

  async #chooseNode(wanted = this.#type.value) {
    const { api, live, signal } = this.#context;
    fill(this.#problem);
    this.#labelsField.hidden = !this.#placement;
    let types = {};
    this.#isAdvertised = false;
    const asked = this.#node.value;
    const isOld = () => signal.aborted || this.#node.value !== asked;
    try {
      types = typesIn(await api.get("types", { node: this.#asked }, signal));
      if (isOld()) return;
    } catch (error) {
      if (isOld()) return;
      this.#isAdvertised = true;
      types = advertised(live.mesh, this.#asked || live.here);
      if (!Object.keys(types).length) fill(this.#problem, note(unavailable(error, "The list of types"), "bad"));
    }
    if (this.#placement) for (const { types: more } of live.mesh?.nodes ?? []) for (const name of more ?? []) types[name] ??= {};
    const names = Object.keys(types).sort();
    fill(this.#type, h("option", { value: "" }, names.length ? "Choose …" : "No type is offered"), names.map((name) => h("option", { value: name, title: types[name].Help || null }, name)));
    if (wanted && names.includes(wanted)) this.#type.value = wanted;
    await this.#chooseType();
  }

  async #chooseType() {
    const { api, signal } = this.#context;
    const [name, node] = [this.#type.value, this.#node.value];
    const isOld = () => signal.aborted || this.#type.value !== name || this.#node.value !== node;
    this.#parts = null;
    this.#submit.disabled = true;
    if (!name) return fill(this.#described);
    fill(this.#described, note(`Asking what ${name} takes …`));
    let [kind, warning] = [{}, null];
    try {
      kind = await api.get(["types", name], { node: this.#asked }, signal);
    } catch (error) {
      if (isOld()) return undefined;
      warning = note(`What it takes is not known here: ${error.message}`);
    }
    if (isOld()) return undefined;
    this.#parts = argumentFields(kind);
    this.#submit.disabled = false;
    // A key for this form: to send it twice by mistake, or because the answer got lost, is one unit or batch.
    this.#key = newKey();
    return fill(this.#described, warning, kind.Help ? h("p", { class: "lead" }, kind.Help) : null, this.#parts.element);
  }

  async #send(event) {
    event.preventDefault();
    if (!this.#parts) return undefined;
    const { go, live, say, signal } = this.#context;
    fill(this.#problem);
    const wrong = this.#parts.firstInvalid();
    if (wrong) return wrong.focus();
    const job = { type: this.#type.value };
    if (this.#placement) job.placement = { mode: this.#placement, labels: this.#labels.value.split(/[\s,]+/).filter(Boolean) };
    else if (this.#node.value && this.#node.value !== live.here) job.node = this.#node.value;
    this.#submit.disabled = true;
    try {
      const where = this.#parts.each.isBatch ? await this.#postBatch(job) : await this.#postUnit(job);
      say(`Submitted as ${where.join(" ")}`);
      // Who has gone elsewhere meanwhile is left there.
      if (!signal.aborted) go(["work", ...where.filter((word) => word !== "unit")]);
    } catch (error) {
      // Who is refused has made nothing. Of a fault (500 and up, also of a proxy before the node) nobody knows.
      if (error.status >= 400 && error.status < 500) this.#key = newKey();
      fill(this.#problem, note(error.message, "bad"));
      this.#parts.named(error.message)?.focus();
    } finally {
      this.#submit.disabled = false;
    }
    return undefined;
  }

  async #postUnit(job) {
    const body = argumentsOf(job, this.#parts);
    const answer = await this.#post("units", body);
    return ["unit", answer.ID ?? answer.id];
  }

  async #postBatch(job) {
    const { Batch: id } = await this.#post("batches", batchRequest(job, this.#parts));
    return ["batch", id];
  }

  #post(what, body) {
    return this.#context.api.post(what, { body, headers: { "Idempotency-Key": this.#key } });
  }
}

/** Return the types in an answer: name to what is said of each in short. */
function typesIn(answer) {
  if (answer?.Types && typeof answer.Types === "object") return { ...answer.Types };
  const items = Array.isArray(answer?.items) ? answer.items : [];
  return Object.fromEntries(items.map((one) => [one.WorkType ?? one.name ?? one.Name, one]).filter(([name]) => name));
}

function advertised(mesh, id) {
  const node = mesh?.nodes.find((one) => one.id === id);
  return Object.fromEntries((node?.types ?? []).map((name) => [name, {}]));
}

function newKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return `page-${[...random].map((one) => one.toString(16).padStart(2, "0")).join("")}`;
}

