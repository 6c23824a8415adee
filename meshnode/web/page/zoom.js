// Moving and scaling a picture: by the pointer, the wheel, two fingers, or buttons.

const LEAST = 0.08;
const MOST = 4;

/** The scale that a small picture gets: larger would look like a mistake. */
const LARGEST = 1.5;

export class Zoom {
  x = 0;
  y = 0;
  k = 1;
  /** Whether somebody has chosen what to see; until then the whole picture is shown. */
  isChosen = false;
  #element;
  #onchange;
  #pointers = new Map();

  constructor(element, onchange) {
    this.#element = element;
    this.#onchange = onchange;
    element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      element.addEventListener(end, (event) => this.#pointers.delete(event.pointerId));
    }
  }

  /** Return the transformation as SVG has it. */
  get transform() {
    return `translate(${round(this.x)} ${round(this.y)}) scale(${round(this.k)})`;
  }

  /** Show a box as large as it fits, but not so large that it looks lost. */
  fit({ x, y, width, height }) {
    const { clientWidth, clientHeight } = this.#element;
    this.k = clamp(Math.min(clientWidth / width, clientHeight / height, LARGEST));
    this.x = clientWidth / 2 - (x + width / 2) * this.k;
    this.y = clientHeight / 2 - (y + height / 2) * this.k;
    this.isChosen = false;
    this.#onchange();
  }

  /** Scale by a factor around a point of the element; around its middle if none is given. */
  by(factor, x = this.#element.clientWidth / 2, y = this.#element.clientHeight / 2) {
    const k = clamp(this.k * factor);
    this.x = x - ((x - this.x) * k) / this.k;
    this.y = y - ((y - this.y) * k) / this.k;
    this.k = k;
    this.#changed();
  }

  /** Move the picture by pixels. */
  move(x, y) {
    this.x += x;
    this.y += y;
    this.#changed();
  }

  /** Move the picture so that a point of it can be seen. */
  reveal({ x, y }) {
    const { clientWidth, clientHeight } = this.#element;
    const [at, margin] = [{ x: this.x + x * this.k, y: this.y + y * this.k }, 40];
    const [toX, toY] = [between(at.x, margin, clientWidth - margin), between(at.y, margin, clientHeight - margin)];
    if (toX !== at.x || toY !== at.y) this.move(toX - at.x, toY - at.y);
  }

  #changed() {
    this.isChosen = true;
    this.#onchange();
  }

  #wheel(event) {
    // The wheel alone scrolls the page, as everywhere.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const { left, top } = this.#element.getBoundingClientRect();
    this.by(Math.exp(-event.deltaY / 300), event.clientX - left, event.clientY - top);
  }

  #down(event) {
    if (event.button !== 0 || event.target.closest("[role=button]")) return;
    this.#element.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.#pointers.set(event.pointerId, now);
    if (!other) return this.move(now.x - before.x, now.y - before.y);
    const { left, top } = this.#element.getBoundingClientRect();
    const factor = apart(now, other) / Math.max(1, apart(before, other));
    return this.by(factor, other.x - left, other.y - top);
  }
}

function apart(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}

function between(value, least, most) {
  return Math.min(Math.max(value, least), Math.max(least, most));
}

function clamp(k) {
  return Number.isFinite(k) && k > 0 ? between(k, LEAST, MOST) : 1;
}

function round(value) {
  return Math.round(value * 1000) / 1000;
}
