// The page of one node: what it says of itself, the way there, its links, and what it runs.

import { Problem } from "./api.js";
import { button, Facts, h, note, once, say } from "./dom.js";
import { ago, brief, bytes, clock, count } from "./format.js";
import { nodeBadge } from "./marks.js";
import { unavailable } from "./mesh.js";
import { costText, healthOf, loadText } from "./nodes.js";
import { Table } from "./table.js";
import { pathTo } from "./topology.js";
import { unitColumns } from "./work.js";
import { createdAt, nodeOf } from "./units.js";

/** Units of a node that its page shows. */
const RECENT = 20;

/** Return the view of a node. */
export function nodeView({ live, api, signal }, id) {
  const head = h("div", { class: "heading" }, h("h1", { tabindex: -1 }, id));
  const state = h("span");
  const [about, told] = [h("div"), new Facts()];
  const types = h("div", { class: "chips" });
  const asked = h("pre", { class: "asked", "aria-live": "polite", hidden: true });
  const links = new Table({ caption: `Links of ${id}`, columns: linkColumns(id), key: ({ a, b }) => `${a} ${b}`, empty: "No link of it is known." });
  const units = new Table({ caption: `Units on ${id}`, columns: unitColumns(live), key: ({ ID }) => ID, empty: "None that this node knows of." });
  let questions = 0;
  const ask = (command) => async () => {
    const question = (questions += 1);
    asked.hidden = false;
    say(asked, `${command} ${id} …`);
    const text = await answer(api, command, id, signal);
    // Who asked another one meanwhile waits for that.
    if (question === questions) say(asked, text);
  };
  head.append(state, h("div", { class: "actions" }, button("Ping", ask("ping")), button("Traceroute", ask("traceroute"))));

  const refresh = () => {
    const { mesh, meshProblem } = live;
    const node = mesh?.nodes.find((one) => one.id === id);
    if (!node) {
      const text = meshProblem ? unavailable(meshProblem, "The mesh") : mesh ? `No node ${id} is known here.` : "Asking the node …";
      return once(about, text, () => note(text));
    }
    once(state, node.state, () => nodeBadge(node.state));
    once(about, "known", () => told.element);
    told.update(described(node, mesh, live.now));
    once(types, JSON.stringify(node.types), () => typeLinks(node));
    links.update(mesh.links.filter(({ a, b }) => a === id || b === id));
    return undefined;
  };
  const refreshUnits = () => {
    const own = [...live.units.values()].filter((unit) => nodeOf(unit, live.here) === id);
    units.update(own.sort((a, b) => createdAt(b) - createdAt(a)).slice(0, RECENT));
  };
  // Those of this node may be older than what the page knows of all.
  const find = () => live.find({ node: id, limit: RECENT }, signal).catch(unknown);
  live.addEventListener("mesh", refresh, { signal });
  live.addEventListener("units", refreshUnits, { signal });
  live.addEventListener("whole", find, { signal });
  if (live.state !== "connecting") find();
  live.wantsDetail = id;
  signal.addEventListener("abort", () => (live.wantsDetail = false));
  refresh();
  refreshUnits();
  const section = (title, ...children) => h("section", null, h("h2", null, title), children);
  const back = h("p", { class: "back" }, h("a", { href: "#/mesh" }, "← Mesh"));
  return {
    title: id,
    element: h("div", { class: "view" }, back, head, asked, about, section("Types of work", types), section("Links", links.element), section("Recent units", units.element)),
  };
}

/** Units that cannot be had are no part of what a node is: the view of work says why. */
function unknown(error) {
  if (!(error instanceof Problem) && error.name !== "AbortError") throw error;
}

function described(node, mesh, now) {
  const path = pathTo(mesh, node.id);
  const load = node.load ?? {};
  return [
    ["Path", path.length > 1 ? path.join(" → ") : null],
    ["Hops, cost", node.hops ? `${node.hops}, ${node.cost}` : null],
    ["Round trip", typeof node.rtt === "number" ? brief(node.rtt) : null],
    ["Since", node.since ? `${clock(node.since)} (${ago(node.since, now)})` : null],
    ["Version", node.version],
    ["Kind", node.kind],
    ["Load", node.load ? loadText(node) : null],
    ["Processors", load.processors],
    ["Room for", typeof load.free === "number" ? count(load.free, "more unit") : null],
    ["Memory left", typeof load.memory === "number" ? bytes(load.memory) : null],
    ["Labels", Object.entries(node.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(", ")],
    ["Asked", node.asked ? ago(node.asked, now) : null],
    ["Error", node.error],
  ];
}

function typeLinks({ id, types }) {
  if (!types?.length) return note("It advertises none.");
  return types.map((type) => h("a", { class: "chip", href: `#/work/new/${encodeURIComponent(id)}/${encodeURIComponent(type)}` }, type));
}

function linkColumns(id) {
  const other = ({ a, b }) => (a === id ? b : a);
  return [
    { id: "node", title: "Node", value: other, show: (link) => [h("a", { class: "name", href: `#/mesh/${encodeURIComponent(other(link))}` }, other(link))] },
    { id: "kind", title: "Kind", value: ({ kind }) => kind, show: ({ kind }) => kind ?? "–" },
    { id: "cost", title: "Cost", kind: "number", value: ({ cost_ab: cost }) => cost, show: costText },
    { id: "health", title: "Health", value: healthOf, show: healthOf },
    { id: "rtt", title: "Round trip", kind: "number", value: ({ rtt }) => rtt, show: ({ rtt }) => brief(rtt) },
    { id: "sent", title: "Bytes", kind: "number", value: ({ bytes_sent: sent }) => sent, show: ({ bytes_sent: sent, bytes_received: got }) => (typeof sent === "number" ? `${bytes(sent)} / ${bytes(got)}` : "–") },
    { id: "since", title: "Up since", value: ({ up_since: since }) => since, show: ({ up_since: since }) => clock(since) },
  ];
}

async function answer(api, command, id, signal) {
  try {
    return answerText(await api.get([command, id], {}, signal));
  } catch (error) {
    return signal.aborted ? "" : `${command}: ${error.message}`;
  }
}

/** Return the answer to a ping as a line, that to a traceroute as a line for each node on the way. */
function answerText(answer) {
  const time = ({ Time }) => (typeof Time === "number" ? brief(Time / 1e9) : "");
  const step = (one, at) => [String(at).padStart(2), one.From, time(one), one.Error].filter(Boolean).join("  ");
  return Array.isArray(answer.items) ? answer.items.map(step).join("\n") : `Reply from ${answer.From} in ${time(answer)}`;
}
