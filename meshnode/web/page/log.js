// A unit's output, line by line and live: followed, searched, with or without errors and times.

import { Problem } from "./api.js";
import { button, check, fill, h, note, say } from "./dom.js";
import { clock, count, printable } from "./format.js";
import { unavailable } from "./mesh.js";
import { isFinal } from "./units.js";

/** Lines that the page keeps and shows; all of them are in the file. */
const MOST_LINES = 5000;

/** Signs of one line that are shown. */
const MOST_SIGNS = 10000;

/** Lines that are asked for at first of a unit with many. */
const TAIL = 2000;

/** Seconds after which a browser has begun to save a file. */
const SAVED = 60;

/** Pixels from the end within which somebody still looks at the end. */
const AT_END = 24;

export class Log {
  #context;
  #id;
  #lines = [];
  #waiting = [];
  #dropped = 0;
  #unit = null;
  #isEnded = false;
  #shows = { stderr: true, times: false, follow: true, wrap: true, only: false };
  #search = { text: "", at: -1 };
  #begun = false;
  #list = h("div", { class: "lines", role: "log", "aria-live": "off", "aria-label": "Output", tabindex: 0 });
  #state = h("p", { class: "help", role: "status" });
  #found = h("span", { class: "help", role: "status" });
  #problem = h("div");

  constructor(context, id) {
    this.#context = context;
    this.#id = id;
    const input = h("input", { type: "search", placeholder: "Search", "aria-label": "Search in the output", oninput: () => this.#find(input.value) });
    input.addEventListener("keydown", (event) => event.key === "Enter" && this.#next(event.shiftKey ? -1 : 1));
    this.#follow = check("Follow", true, (isOn) => this.#show({ follow: isOn }));
    const bar = h(
      "div",
      { class: "bar" },
      input,
      button("↑", () => this.#next(-1), { "aria-label": "Previous match", class: "quiet" }),
      button("↓", () => this.#next(1), { "aria-label": "Next match", class: "quiet" }),
      this.#found,
      check("Only matches", false, (isOn) => this.#show({ only: isOn })),
      this.#follow,
      check("Errors", true, (isOn) => this.#show({ stderr: isOn })),
      check("Times", false, (isOn) => this.#show({ times: isOn })),
      check("Wrap", true, (isOn) => this.#show({ wrap: isOn })),
    );
    this.#downloads = h("div", { class: "actions" });
    this.#list.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.element = h("section", { class: "log", "aria-labelledby": "log-title" }, h("div", { class: "heading" }, h("h2", { id: "log-title" }, "Output"), this.#state, this.#downloads), bar, this.#problem, this.#list);
    this.#show({});
  }

  #follow;
  #downloads;

  /** Take over what is known of the unit: which files it has, whether it goes on. */
  update(unit) {
    this.#unit = unit;
    const names = ["stdout", ...(unit.StderrSize ? ["stderr"] : []), ...(unit.FilesSize && isFinal(unit) ? ["files"] : [])];
    if (this.#downloads.dataset.mark !== names.join()) {
      this.#downloads.dataset.mark = names.join();
      fill(this.#downloads, names.map((name) => this.#download(name)));
    }
    this.#renderState();
  }

  /** Read the output for as long as the page is open. */
  async begin(unit) {
    if (this.#begun) return;
    this.#begun = true;
    this.update(unit);
    const { api, signal } = this.#context;
    const ended = new AbortController();
    const both = AbortSignal.any([signal, ended.signal]);
    const query = { follow: "true", tail: TAIL };
    const onstate = (state) => this.#renderState(state);
    try {
      for await (const { event, data } of api.follow(["units", this.#id, "log"], { query, signal: both, onstate })) {
        if (event === "line") this.#take(JSON.parse(data));
        if (event === "error") throw new Problem(500, "The output broke off", data);
        if (event !== "end") continue;
        this.#isEnded = true;
        // The node closes the stream now; it is not to be asked again.
        ended.abort();
        break;
      }
    } catch (error) {
      if (!signal.aborted) fill(this.#problem, note(unavailable(error, "The output"), error.isUnavailable ? "" : "bad"));
    }
    this.#renderState();
  }

  #download(name) {
    const { api } = this.#context;
    const query = { stream: name, follow: "false", download: "true" };
    const file = `${this.#id}.${{ stdout: "out", stderr: "err", files: "tar" }[name]}`;
    const text = `Download ${name}`;
    if (!api.token) return h("a", { class: "button", href: api.url(["units", this.#id, "results"], query).href, download: file }, text);
    return button(text, () => this.#save(text, file, query));
  }

  /** Have the browser save a file: by itself it would send no token. */
  async #save(text, file, query) {
    try {
      const address = URL.createObjectURL(await this.#context.api.file(["units", this.#id, "results"], query));
      h("a", { href: address, download: file }).click();
      setTimeout(() => URL.revokeObjectURL(address), SAVED * 1000);
    } catch (error) {
      fill(this.#problem, note(`${text}: ${error.message}`, "bad"));
    }
  }

  #take({ time, stream, text }) {
    if (!this.#waiting.length) requestAnimationFrame(() => this.#flush());
    this.#waiting.push({ time, isError: stream === "stderr", text: shortened(printable(String(text ?? ""))), element: null });
    // A page in the background draws nothing, and its lines would pile up.
    if (this.#waiting.length > 2 * MOST_LINES) this.#drop(this.#waiting, MOST_LINES);
  }

  #flush() {
    const added = this.#waiting.splice(0);
    this.#drop(added, added.length - MOST_LINES);
    for (const line of added) line.element = this.#line(line);
    this.#lines.push(...added);
    this.#list.append(...added.map(({ element }) => element));
    for (const { element } of this.#drop(this.#lines, this.#lines.length - MOST_LINES)) element.remove();
    if (this.#shows.follow) this.#list.scrollTop = this.#list.scrollHeight;
    this.#renderState();
    if (this.#search.text) this.#renderFound();
  }

  #drop(lines, number) {
    this.#dropped += Math.max(0, number);
    return lines.splice(0, Math.max(0, number));
  }

  #line(line) {
    const words = this.#search.text;
    const at = line.text.toLowerCase().indexOf(words);
    line.isMatch = words !== "" && at >= 0;
    const text = line.isMatch ? [line.text.slice(0, at), h("mark", null, line.text.slice(at, at + words.length)), line.text.slice(at + words.length)] : [line.text];
    const stream = line.isError ? h("span", { class: "stream" }, "err") : null;
    const time = h("time", { datetime: line.time ?? null }, line.time ? precise(line.time) : "");
    return h("div", { class: `line${line.isError ? " stderr" : ""}${line.isMatch ? " match" : ""}` }, time, stream, h("span", { class: "text" }, text));
  }

  #find(text) {
    this.#search = { text: text.toLowerCase(), at: -1 };
    for (const line of this.#lines) {
      const made = this.#line(line);
      line.element.replaceWith(made);
      line.element = made;
    }
    this.#renderFound();
  }

  #next(step) {
    const found = this.#lines.filter(({ isMatch }) => isMatch);
    if (!found.length) return;
    this.#search.at = (this.#search.at + step + found.length) % found.length;
    this.#show({ follow: false });
    for (const { element } of found) element.classList.remove("current");
    const { element } = found[this.#search.at];
    element.classList.add("current");
    element.scrollIntoView({ block: "center" });
    this.#renderFound();
  }

  #show(change) {
    Object.assign(this.#shows, change);
    this.#follow.querySelector("input").checked = this.#shows.follow;
    for (const [name, isOn] of Object.entries(this.#shows)) this.#list.classList.toggle(name, isOn);
    if (change.follow) this.#list.scrollTop = this.#list.scrollHeight;
  }

  #scrolled() {
    const isAtEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < AT_END;
    if (this.#shows.follow !== isAtEnd) this.#show({ follow: isAtEnd });
  }

  #renderFound() {
    const number = this.#lines.filter(({ isMatch }) => isMatch).length;
    const place = this.#search.at >= 0 ? `${this.#search.at + 1} of ` : "";
    say(this.#found, this.#search.text ? `${place}${count(number, "line")}` : "");
  }

  #renderState(state = "live") {
    const parts = [count(this.#lines.length, "line")];
    if (this.#dropped) parts.push(`${this.#dropped} earlier ones are in the file only`);
    if (this.#isEnded) parts.push("ended");
    else if (state === "lost") parts.push("connection lost, trying again");
    else if (this.#unit && !isFinal(this.#unit)) parts.push("live");
    say(this.#state, parts.join(", "));
  }
}

function shortened(text) {
  return text.length > MOST_SIGNS ? `${text.slice(0, MOST_SIGNS)}… (${text.length - MOST_SIGNS} more)` : text;
}

function precise(time) {
  const fraction = /\.(\d{1,3})/.exec(time)?.[1];
  return `${clock(time)}${fraction ? `.${fraction.padEnd(3, "0")}` : ""}`;
}
