// Elements, made from values. Text becomes text and never markup, so that names and output that
// hold HTML are shown as they are. The page's policy forbids styles in attributes; this does, too.
// Signs that turn the direction of what follows them are shown as signs: they would turn what others say.

import { straight } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

/** Return an element of HTML with attributes and children; null, undefined and false are left out. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return an element of SVG. */
export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** Replace all children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

/** Give an element a text, if it has not that text already: a screen reader hears changes only. */
export function say(element, text) {
  const shown = straight(String(text));
  if (element.textContent !== shown) element.textContent = shown;
}

/**
 * Fill an element anew if what it depends on has changed. The focus stays in it, at the same place;
 * a button that is gone takes the focus along, and then the heading is where one can go on from.
 */
export function once(element, mark, make) {
  if (element.dataset.mark === mark) return;
  element.dataset.mark = mark;
  const focused = [...element.children].findIndex((one) => one.contains(document.activeElement));
  fill(element, make());
  if (focused < 0) return;
  const there = element.children[focused];
  const next = there?.matches(PRESSED) ? there : there?.querySelector(PRESSED);
  (next ?? element.closest(".view")?.querySelector("h1"))?.focus({ preventScroll: true });
}

/** What can have the focus. */
const PRESSED = "button, a[href], select, input";

/** Set attributes; null, undefined and false take one away. A function is a listener. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name === "style") throw new TypeError("no styles in attributes: use a class");
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value);
    else if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : SAID.has(name) ? straight(String(value)) : String(value));
  }
  return element;
}

/** Attributes that people read or hear. */
const SAID = new Set(["title", "aria-label", "aria-valuetext", "placeholder"]);

/** Return a button. */
export function button(text, onclick, attributes) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

/** Return an input with its label; the label is what a click and a screen reader find it by. */
export function field(text, input, help) {
  input.id ||= `field-${(fields += 1)}`;
  const note = help ? h("span", { class: "help", id: `${input.id}-help` }, help) : null;
  if (note) input.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: input.id }, text), input, note);
}

let fields = 0;

/** Return a checkbox with its label. */
export function check(text, isChecked, onchange) {
  const input = h("input", { type: "checkbox", checked: isChecked, onchange: () => onchange(input.checked) });
  return h("label", { class: "check" }, input, text);
}

/** Return a choice with its options: pairs of value and text. */
export function select(options, value, onchange) {
  const made = options.map(([one, text]) => h("option", { value: one, selected: one === value }, text));
  const element = h("select", { onchange: () => onchange?.(element.value) }, made);
  return element;
}

/** Return what says that a part is not to be had. */
export function note(text, kind = "") {
  return h("p", { class: `note ${kind}`.trim() }, text);
}

/** Pairs of name and value as a list. What has not changed stays, and so do a focus and a selection in it. */
export class Facts {
  element = h("dl", { class: "facts", hidden: true });
  #rows = new Map();

  /** Show these pairs; those without a value are left out. A value is a text, a number or an element. */
  update(pairs) {
    const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
    const names = new Set(shown.map(([name]) => name));
    for (const [name, { row }] of this.#rows) {
      if (names.has(name)) continue;
      row.remove();
      this.#rows.delete(name);
    }
    shown.forEach(([name, value], at) => this.#place(name, value, at));
    this.element.hidden = !shown.length;
  }

  #place(name, value, at) {
    if (!this.#rows.has(name)) {
      const there = h("dd");
      this.#rows.set(name, { row: h("div", null, h("dt", null, name), there), there });
    }
    const { row, there } = this.#rows.get(name);
    if (this.element.children[at] !== row) this.element.insertBefore(row, this.element.children[at] ?? null);
    if (!(value instanceof Element)) say(there, value);
    else if (!there.firstElementChild?.isEqualNode(value)) fill(there, value);
  }
}

function filled(element, attributes, children) {
  set(element, attributes).append(...present(children));
  return element;
}

function present(children) {
  const shown = children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false);
  return shown.map((one) => (one instanceof Node ? one : straight(String(one))));
}
