// The node's API. All that the page knows comes from here; nothing is asked of any other server.

import { untilUnseen, whenSeen } from "./seen.js";
import { eventsOf, pause, waitBefore } from "./sse.js";

/** Seconds that a request may take until its answer begins, and until it is whole: lists are long, lines slow. */
const PATIENCE = 30;
const PATIENCE_WHOLE = 120;

/** Seconds in which a stream says something, if only that it is there: the node does after 15. */
const SILENCE = 50;

/** Milliseconds by which two clocks may differ and be called the same: a node tells whole seconds. */
const SAME = 5000;

/** Seconds after which a page that was left is hidden, or has come back. */
const LEFT = 0.2;

/** What the node answers instead of what it was asked for (RFC 9457), or that it does not answer. */
export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail || title);
    this.status = status;
    this.title = title;
  }

  /** Whether the node does not have this, or not for this client: no fault of anybody. */
  get isUnavailable() {
    return [403, 404, 405, 501].includes(this.status);
  }

  /** Whether the node did not answer. */
  get isLost() {
    return this.status === 0;
  }
}

/** Asks the node. */
export class Api extends EventTarget {
  #base = withoutNames(new URL("api/v1/", document.baseURI));
  /** A bearer token, for those who have no certificate. It is in memory only. */
  token = "";
  /** Milliseconds by which the node's clock is ahead of this one. */
  #ahead = 0;

  /** The node's time, in milliseconds since 1970: all that it tells is told in that. */
  get now() {
    return Date.now() + this.#ahead;
  }

  /** Return the address of a path, each part of it quoted, with a query. */
  url(parts, query = {}) {
    const words = [parts].flat();
    // A browser takes these for steps in the path, however they are written.
    if (words.some((word) => word === "." || word === "..")) throw new Problem(404, "Not Found", "There is nothing of that name.");
    const path = words.map(encodeURIComponent).join("/");
    const url = new URL(path || ".", this.#base);
    if (!path) url.pathname = url.pathname.replace(/\/$/, "");
    for (const [name, value] of Object.entries(query)) {
      if (value !== null && value !== undefined && value !== "") url.searchParams.append(name, value);
    }
    return url;
  }

  /** Return what a path has. Throws Problem. */
  async get(parts, query, signal) {
    return this.#whole(this.url(parts, query), { signal }, (response) => response.json());
  }

  /** Yield the lines of a path as they come, each with the byte behind it. Throws Problem. */
  async *lines(parts, query, signal) {
    const response = await this.#fetch(this.url(parts, query), { signal, headers: { Accept: "application/x-ndjson" } });
    const [reader, decoder] = [response.body.getReader(), new TextDecoder("utf-8", { ignoreBOM: true })];
    let [rest, end] = [new Uint8Array(), query.from ?? 0];
    try {
      for (;;) {
        const { done, value } = await whole(reader.read(), signal);
        if (done) return;
        const { lines, left } = linesIn(joined(rest, value));
        for (const line of lines) yield { line: decoder.decode(line), end: (end += line.length + 1) };
        rest = left;
      }
    } finally {
      // Otherwise what nobody reads any more would keep its connection.
      reader.cancel().catch(ignored);
    }
  }

  /** Have something done; return what the node says of it. Throws Problem. */
  async post(parts, { query, body, headers = {}, signal } = {}) {
    const isForm = body instanceof FormData;
    const sent = body === undefined || isForm ? body : JSON.stringify(body);
    const type = sent === undefined || isForm ? {} : { "Content-Type": "application/json" };
    const options = { method: "POST", body: sent, headers: { ...type, ...headers }, signal };
    return this.#whole(this.url(parts, query), options, (response) => response.json());
  }

  /** Return what a path has, as a file, however long it takes. Throws Problem. */
  async file(parts, query) {
    return whole((await this.#fetch(this.url(parts, query), {})).blob());
  }

  async #whole(url, options, read) {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), PATIENCE_WHOLE * 1000);
    try {
      return await whole(read(await this.#fetch(url, options, late)), options.signal);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Yield the events of a path for ever: what breaks off is asked for again, from where it was.
   * `onstate` hears "live" and "lost". Throws Problem where asking again would help nobody.
   *
   * Nothing is followed while nobody has seen the page for a while: a browser has few connections
   * with one server for all its tabs.
   */
  async *follow(parts, { query, signal, onstate = () => {} }) {
    let [lastId, tries] = ["", 0];
    while (!signal.aborted) {
      await whenSeen(signal);
      const unseen = untilUnseen(signal);
      try {
        const response = await this.#fetch(this.url(parts, query), {
          signal: unseen.signal,
          headers: { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) },
        });
        onstate("live", lastId !== "");
        tries = 0;
        for await (const event of eventsOf(response, SILENCE)) {
          lastId = event.id || lastId;
          yield event;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (unseen.signal.aborted) {
          // A page that is left is told so before it is hidden; then its clock stands.
          await pause(LEFT, signal);
          continue;
        }
        if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      } finally {
        unseen.abort();
      }
      if (signal.aborted) return;
      tries += 1;
      onstate("lost");
      await pause(waitBefore(tries), signal);
    }
  }

  async #fetch(url, { headers = {}, signal, ...options }, late = new AbortController()) {
    const timer = setTimeout(() => late.abort(), PATIENCE * 1000);
    const authorization = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    let response;
    try {
      response = await fetch(url, {
        ...options,
        headers: { Accept: "application/json", ...headers, ...authorization },
        signal: AbortSignal.any([late.signal, ...(signal ? [signal] : [])]),
        cache: "no-store",
        redirect: "error",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, "No answer", "The node does not answer.");
    } finally {
      clearTimeout(timer);
    }
    const ahead = Date.parse(response.headers.get("Date") ?? "") - Date.now();
    this.#ahead = Math.abs(ahead) > SAME ? ahead : 0;
    // Who is not known, or may not, may have a token.
    if ([401, 403].includes(response.status)) this.dispatchEvent(new Event("refused"));
    if (!response.ok) throw await problemOf(response);
    return response;
  }
}

/** Return an address without a user's name and password: browsers refuse to fetch one with them. */
function withoutNames(url) {
  url.username = url.password = "";
  return url;
}

/** Return what is read of a body. Throws Problem where that breaks off. */
async function whole(reading, signal) {
  try {
    return await reading;
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "No answer", "The answer of the node broke off.");
  }
}

function joined(a, b) {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

/** Return the lines that are whole in some bytes, and what is left. */
function linesIn(bytes) {
  const lines = [];
  let from = 0;
  for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, from)) {
    lines.push(bytes.subarray(from, at));
    from = at + 1;
  }
  return { lines, left: bytes.slice(from) };
}

const NEWLINE = 10;

/** What breaks off cannot be canceled, and need not be. */
function ignored() {}

async function problemOf(response) {
  const told = await response.json().catch(() => ({}));
  const title = typeof told.title === "string" ? told.title : response.statusText || `HTTP ${response.status}`;
  return new Problem(response.status, title, typeof told.detail === "string" ? told.detail : "");
}
