// A table that is kept up to date in place: rows stay where the keyboard's focus is, and only cells
// whose value has changed are touched.

import { button, fill, h, say } from "./dom.js";

/** Rows that are shown at first; a button shows more. */
const FIRST_ROWS = 100;

/** Texts are compared thousands of times at each change. */
const COLLATOR = new Intl.Collator(undefined, { numeric: true });

export class Table {
  #columns;
  #key;
  #rows = new Map();
  #items = [];
  #sort;
  #shown;
  #step;
  #body = h("tbody");
  #more = h("p", { class: "more" });
  #heads = new Map();
  #onpoint;
  #empty;

  /**
   * A column has `id`, `title`, `value(item)` to sort by, and `show(item)`: a text or nodes. Where it
   * shows nodes, `mark(item)` says what they depend on, if that is more than the value.
   */
  constructor({ caption, columns, key, sort, empty = "Nothing here.", onpoint = null, rows = FIRST_ROWS }) {
    this.#columns = columns;
    this.#key = key;
    this.#sort = sort;
    this.#empty = empty;
    this.#onpoint = onpoint;
    [this.#shown, this.#step] = [rows, 4 * rows];
    const heads = columns.map((column) => this.#head(column));
    const table = h("table", null, h("caption", { class: "unseen" }, caption), h("thead", null, h("tr", null, heads)), this.#body);
    this.element = h("div", { class: "table" }, h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 }, table), this.#more);
    this.#markSort();
  }

  /** Show these items instead of those before. */
  update(items) {
    this.#items = items;
    this.#render();
  }

  /** Mark the row of one item, and no other. */
  mark(key) {
    for (const [one, row] of this.#rows) row.element.classList.toggle("marked", one === key);
  }

  #head(column) {
    const sorter = button(column.title, () => this.#sortBy(column.id), { class: "sort" });
    const head = h("th", { scope: "col", class: column.kind }, column.value ? sorter : column.title);
    this.#heads.set(column.id, head);
    return head;
  }

  #sortBy(id) {
    this.#sort = { id, isDown: this.#sort?.id === id ? !this.#sort.isDown : false };
    this.#markSort();
    this.#render();
  }

  #markSort() {
    for (const [id, head] of this.#heads) {
      const isSorted = this.#sort?.id === id;
      if (isSorted) head.setAttribute("aria-sort", this.#sort.isDown ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  #sorted() {
    const column = this.#columns.find(({ id }) => id === this.#sort?.id);
    if (!column) return this.#items;
    const order = this.#sort.isDown ? -1 : 1;
    const values = new Map(this.#items.map((item) => [item, column.value(item)]));
    return [...this.#items].sort((a, b) => compare(values.get(a), values.get(b), order) || compare(this.#key(a), this.#key(b), 1));
  }

  #render() {
    const items = this.#sorted().slice(0, this.#shown);
    const keys = new Set(items.map(this.#key));
    for (const [key, row] of this.#rows) {
      if (keys.has(key)) continue;
      row.element.remove();
      this.#rows.delete(key);
    }
    if (!items.length) fill(this.#body, h("tr", { class: "empty" }, h("td", { colspan: this.#columns.length }, this.#empty)));
    else this.#body.querySelector("tr.empty")?.remove();
    items.forEach((item, index) => this.#place(this.#row(item), index));
    this.#renderMore(items.length);
  }

  #place(row, index) {
    const there = this.#body.children[index];
    // Moving a row takes the focus away from what is in it.
    if (there === row.element) return;
    const focused = row.element.contains(document.activeElement) ? document.activeElement : null;
    this.#body.insertBefore(row.element, there ?? null);
    focused?.focus({ preventScroll: true });
  }

  #row(item) {
    const key = this.#key(item);
    let row = this.#rows.get(key);
    if (!row) {
      row = { element: h("tr"), cells: this.#columns.map((column, at) => h(at ? "td" : "th", { scope: at ? null : "row", class: column.kind })), marks: [] };
      row.element.append(...row.cells);
      if (this.#onpoint) this.#listen(row.element, key);
      this.#rows.set(key, row);
    }
    this.#columns.forEach((column, at) => this.#cell(column, row, at, item));
    return row;
  }

  #cell(column, row, at, item) {
    const shown = column.show(item);
    const mark = typeof shown === "string" ? shown : JSON.stringify((column.mark ?? column.value)(item));
    if (row.marks[at] === mark) return;
    row.marks[at] = mark;
    if (typeof shown === "string") say(row.cells[at], shown);
    else fill(row.cells[at], shown);
  }

  #listen(element, key) {
    for (const event of ["mouseenter", "focusin"]) element.addEventListener(event, () => this.#onpoint(key));
    for (const event of ["mouseleave", "focusout"]) element.addEventListener(event, () => this.#onpoint(null));
  }

  #renderMore(shown) {
    const hidden = this.#items.length - shown;
    if (hidden <= 0) return void this.#more.replaceChildren();
    const show = (number) => () => {
      this.#shown = number;
      this.#render();
    };
    fill(
      this.#more,
      `${shown} of ${this.#items.length} `,
      button(`Show ${Math.min(hidden, this.#step)} more`, show(this.#shown + this.#step)),
    );
    return undefined;
  }
}

/** Compare two values of a column; what is missing comes last, in either order. */
function compare(a, b, order) {
  const [noA, noB] = [isMissing(a), isMissing(b)];
  if (noA || noB) return noA - noB;
  if (typeof a === "number" && typeof b === "number") return (a - b) * order;
  return COLLATOR.compare(String(a), String(b)) * order;
}

function isMissing(value) {
  return value === null || value === undefined || value === "" || Number.isNaN(value);
}
