// Server-sent events, read with fetch: unlike EventSource it can send a token, and says why it ended.

/** Reads the lines of an event stream; what it is fed may end anywhere. */
export class EventParser {
  #rest = "";
  #event = { event: "message", data: [] };
  lastId = "";

  /** Take text; return the events that are whole by now. */
  feed(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter(Boolean);
  }

  #line(line) {
    if (line === "") return this.#end();
    const [, name, value] = /^([^:]*)(?:: ?)?([\s\S]*)$/.exec(line);
    if (name === "data") this.#event.data.push(value);
    else if (name === "event") this.#event.event = value;
    else if (name === "id" && !value.includes("\0")) this.lastId = value;
    return null;
  }

  #end() {
    const { event, data } = this.#event;
    this.#event = { event: "message", data: [] };
    return data.length ? { event, data: data.join("\n"), id: this.lastId } : null;
  }
}

/**
 * Yield the events of a response until it ends, or says nothing for so many seconds: then the node
 * is gone, and nobody has told. Throws what fetch throws when it breaks off.
 */
export async function* eventsOf(response, silence) {
  const parser = new EventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let timer;
  try {
    for (;;) {
      timer = setTimeout(() => reader.cancel().catch(ignored), silence * 1000);
      const { done, value } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      yield* parser.feed(value);
    }
  } finally {
    clearTimeout(timer);
    // Otherwise a stream that nobody reads any more would keep its connection.
    reader.cancel().catch(ignored);
  }
}

/** What breaks off cannot be canceled, and need not be. */
function ignored() {}

/** The longest wait, in seconds, before a broken stream is tried again. */
const LONGEST_WAIT = 15;

/** Return the seconds to wait before a try: 1, 2, 4, 8, then the longest. */
export function waitBefore(tries) {
  return Math.min(LONGEST_WAIT, 2 ** Math.max(0, tries - 1));
}

/** Wait some seconds; a signal, or the browser's word that it is on the network again, ends it. */
export function pause(seconds, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, seconds * 1000);
    window.addEventListener("online", done);
    signal?.addEventListener("abort", done, { once: true });
  });
}
