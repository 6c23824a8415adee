// Asks for something that changes: one question at a time, a while apart, and none that was wished
// for is left out. What was wished for during a question is asked anew: the answer may be older.

export class Asker {
  #ask;
  #pause;
  #timer = null;
  #due = Infinity;
  #last = 0;
  #isAsking = false;
  #isUrgent = false;

  /** `ask` asks once; `pause` is how many seconds are between two questions at least. */
  constructor(ask, pause) {
    [this.#ask, this.#pause] = [ask, pause * 1000];
  }

  /** Ask in so many seconds at the latest. */
  wish(wait = 0) {
    this.#by(Math.max(performance.now() + wait * 1000, this.#last + this.#pause));
  }

  /** Ask at once, or as soon as the question that is on its way is answered. */
  now() {
    this.#isUrgent = true;
    this.#by(performance.now());
  }

  /** Forget what was wished for. */
  stop() {
    this.#due = Infinity;
    this.#set();
  }

  #by(due) {
    if (due >= this.#due) return;
    this.#due = due;
    if (!this.#isAsking) this.#set();
  }

  #set() {
    clearTimeout(this.#timer);
    if (this.#due < Infinity) this.#timer = setTimeout(() => this.#run(), Math.max(0, this.#due - performance.now()));
  }

  async #run() {
    [this.#due, this.#isAsking, this.#isUrgent] = [Infinity, true, false];
    try {
      await this.#ask();
    } finally {
      [this.#isAsking, this.#last] = [false, performance.now()];
      if (!this.#isUrgent) this.#due = Math.max(this.#due, this.#last + this.#pause);
      this.#set();
    }
  }
}
