// The batches of this node: a table of them in the view of work, and the bar that says how far one is.

import { Asker } from "./asker.js";
import { batchOf, countsText, isOver, MEMBER_STATES, progressOf } from "./batches.js";
import { fill, h, note, svg } from "./dom.js";
import { clock, duration } from "./format.js";
import { unitBadge } from "./marks.js";
import { unavailable } from "./mesh.js";
import { whenSeen } from "./seen.js";
import { Table } from "./table.js";
import { createdAt, runTime } from "./units.js";

/** Seconds between two questions, however many members end. */
const PAUSE = 2;

/** Seconds until the next question if no member tells of anything: a batch may wait, or end, by itself. */
const LATER = 5;
const MUCH_LATER = 30;

/** Batches that are shown at first: units are what most people look for. */
const ROWS = 5;

export class BatchList {
  #context;
  #asker = new Asker(() => this.#ask(), PAUSE);
  #problem = h("div");
  #table = new Table({ caption: "Batches", columns: columns(() => this.#context.live.now), key: ({ Batch }) => Batch, sort: { id: "created", isDown: true }, rows: ROWS });

  constructor(context) {
    this.#context = context;
    const { live, signal } = context;
    this.element = h("section", { hidden: true, "aria-labelledby": "batches-title" }, h("h2", { id: "batches-title" }, "Batches"), this.#problem, this.#table.element);
    live.addEventListener("unit", ({ detail }) => this.#heard(detail), { signal });
    live.addEventListener("whole", () => this.#asker.wish(), { signal });
    signal.addEventListener("abort", () => this.#asker.stop());
    if (live.state !== "connecting") this.#asker.wish();
  }

  /** Of a unit that is released no event says whose it was. */
  #heard({ change, unit }) {
    if (change === "released" || batchOf(unit)) this.#asker.wish();
  }

  async #ask() {
    const { api, signal } = this.#context;
    await whenSeen(signal);
    if (signal.aborted) return;
    try {
      const { items } = await api.get("batches", {}, signal);
      fill(this.#problem);
      this.#table.update(items);
      this.element.hidden = !items.length;
      this.#asker.wish(items.every(isOver) ? MUCH_LATER : LATER);
    } catch (error) {
      if (signal.aborted) return;
      // Who may list no units may list no batches either, and was told so.
      if (error.isUnavailable) return void (this.element.hidden = true);
      fill(this.#problem, note(unavailable(error, "The list of batches"), "bad"));
      this.#asker.wish(MUCH_LATER);
    }
  }
}

/** Return how far a batch is as a bar, which a screen reader reads out. */
export function progressBar(batch) {
  const { ended, members } = progressOf(batch);
  const share = (count) => (100 * (batch[count] ?? 0)) / Math.max(1, members);
  let x = 0;
  const parts = BAR.map(([count, state]) => {
    const part = svg("rect", { "data-state": state, x, y: 0, width: share(count), height: 1 });
    x += share(count);
    return part;
  });
  return h(
    "div",
    {
      class: "progress",
      role: "progressbar",
      "aria-label": `Progress of batch ${batch.Batch}`,
      "aria-valuemin": 0,
      "aria-valuemax": members,
      "aria-valuenow": ended,
      "aria-valuetext": `${endedText(batch)}: ${countsText(batch)}`,
    },
    svg("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, parts),
  );
}

/** Return how many members of a batch have ended, in words. */
export function endedText(batch) {
  const { ended, members } = progressOf(batch);
  return `${ended} of ${members} ended`;
}

/** What stands in the bar, from its left: what has ended, then what runs. The rest of it waits. */
const BAR = ["Succeeded", "Failed", "Refused", "Canceled", "InFlight"].map((count) => MEMBER_STATES.find(([one]) => one === count));

function columns(now) {
  const share = (batch) => progressOf(batch).ended / Math.max(1, batch.Members);
  const counts = (batch) => MEMBER_STATES.map(([count]) => batch[count]);
  return [
    { id: "batch", title: "Batch", value: ({ Batch }) => Batch, show: ({ Batch }) => [h("a", { class: "name mono", href: `#/work/batch/${encodeURIComponent(Batch)}` }, Batch)] },
    { id: "state", title: "State", value: ({ StateName }) => StateName, show: (batch) => [unitBadge(batch)] },
    { id: "type", title: "Type", value: ({ Work }) => Work, show: ({ Work }) => Work || "–" },
    { id: "progress", title: "Progress", value: share, mark: counts, show: (batch) => [progressBar(batch), h("span", { class: "detail" }, endedText(batch))] },
    { id: "members", title: "Members", kind: "detail", value: ({ Failed, Refused }) => (Failed ?? 0) + (Refused ?? 0), show: countsText },
    { id: "created", title: "Created", value: createdAt, show: ({ Created }) => clock(Created) },
    { id: "time", title: "Time", kind: "number", value: (batch) => timeOf(batch, now()), show: (batch) => duration(timeOf(batch, now())) },
    { id: "detail", title: "Detail", kind: "detail", value: ({ Detail }) => Detail, show: ({ Detail }) => Detail ?? "" },
  ];
}

/** Return the seconds since a batch was submitted, until it has ended. */
export function timeOf({ Created, Finished, StateName }, now) {
  return runTime({ Started: Created, Finished, StateName }, now);
}
