// The view of the mesh: a table of its nodes, the graph, and the configured peers that are down.

import { button, check, fill, h, note, once, say, select } from "./dom.js";
import { ago, brief, clock, count } from "./format.js";
import { Graph } from "./graph.js";
import { nodeBadge } from "./marks.js";
import { degrees, loadOf, loadText, NODE_STATES, sinceValue } from "./nodes.js";
import { Table } from "./table.js";
import { bestGrouping, groupings, groups } from "./topology.js";

/** Nodes beyond which the picture shows groups of them, and other nodes are asked on demand only. */
const MANY = 60;

/** Return the view. */
export function meshView({ live, signal, go }) {
  const view = new MeshView(live, go);
  const refresh = () => view.refresh();
  live.addEventListener("mesh", refresh, { signal });
  live.addEventListener("state", refresh, { signal });
  signal.addEventListener("abort", () => (live.wantsDetail = false));
  refresh();
  live.askMesh();
  return { title: "Mesh", element: view.element };
}

class MeshView {
  #live;
  #filter = { text: "", state: "" };
  #grouping = null;
  #asks = null;
  #summary = h("p", { class: "summary" });
  #problem = h("div");
  #groups = h("div", { class: "groups" });
  #peers;
  #table;
  #graph;
  #content = h("div", { hidden: true });
  #asking = check("Ask other nodes for more", false, (isOn) => this.#ask(isOn));

  constructor(live, go) {
    this.#live = live;
    this.#graph = new Graph({
      onpoint: (id) => this.#point(id),
      onopen: (id) => go(["mesh", id]),
      ongroup: () => this.#renderGroups(),
    });
    this.#table = new Table({
      caption: "Nodes of the mesh",
      columns: columns(() => this.#links),
      key: ({ id }) => id,
      sort: { id: "hops", isDown: false },
      empty: "No node is like that.",
      onpoint: (id) => this.#point(id),
    });
    this.#peers = new Table({ caption: "Configured peers that are down", columns: peerColumns(() => live.now), key: ({ address, kind }) => `${kind} ${address}` });
    this.element = h(
      "div",
      { class: "view" },
      h("div", { class: "heading" }, h("h1", { tabindex: -1 }, "Mesh"), this.#summary),
      this.#problem,
      this.#content,
    );
    this.#build();
  }

  #links = new Map();

  #build() {
    const search = h("input", { type: "search", placeholder: "Node, type, label …", "aria-label": "Search nodes", oninput: () => this.#search({ text: search.value }) });
    const states = select([["", "Any state"], ...NODE_STATES.map(([one, sign]) => [one, `${sign} ${one}`])], "", (state) => this.#search({ state }));
    states.setAttribute("aria-label", "State of nodes");
    this.peersPart = h("section", { hidden: true, "aria-labelledby": "peers-title" }, h("h2", { id: "peers-title" }, "Peers that are down"), this.#peers.element);
    fill(
      this.#content,
      h("div", { class: "bar", role: "search" }, search, states, this.#asking),
      h("section", { "aria-label": "Nodes", class: "nodes-part" }, this.#table.element),
      this.peersPart,
      h("section", { "aria-labelledby": "graph-title" }, h("div", { class: "heading" }, h("h2", { id: "graph-title" }, "Graph"), this.#groups), this.#graph.element, legend()),
    );
  }

  /** Show what is known by now. */
  refresh() {
    const { mesh, meshProblem } = this.#live;
    fill(this.#problem, meshProblem ? note(unavailable(meshProblem, "The mesh"), meshProblem.isUnavailable ? "" : "bad") : null);
    if (!mesh && !meshProblem) fill(this.#problem, note("Asking the node …"));
    this.#content.hidden = !mesh;
    if (!mesh) return;
    if (this.#asks === null) this.#ask(mesh.nodes.length <= MANY);
    if (this.#grouping === null) this.#grouping = mesh.nodes.length > MANY ? bestGrouping(mesh) : "";
    this.#links = degrees(mesh);
    this.#renderSummary(mesh);
    this.#peers.update(mesh.peers_down ?? []);
    this.peersPart.hidden = !mesh.peers_down?.length;
    this.#graph.update(mesh, groups(mesh, this.#grouping));
    this.#renderGroups();
    this.#search({});
  }

  #ask(isOn) {
    this.#asks = isOn;
    this.#asking.querySelector("input").checked = isOn;
    this.#live.wantsDetail = isOn;
  }

  #search(change) {
    Object.assign(this.#filter, change);
    const found = searched(this.#live.mesh.nodes, this.#filter);
    this.#table.update(found);
    const isAll = found.length === this.#live.mesh.nodes.length;
    this.#graph.match(isAll ? null : new Set(found.map(({ id }) => id)));
  }

  #point(id) {
    this.#graph.point(id);
    this.#table.mark(id);
  }

  #renderSummary(mesh) {
    const states = NODE_STATES.map(([state]) => [state, mesh.nodes.filter((node) => node.state === state).length]);
    const told = states.filter(([state, number]) => number && state !== "here").map(([state, number]) => `${number} ${state}`);
    const down = mesh.peers_down?.length ? `, ${count(mesh.peers_down.length, "configured peer")} down` : "";
    say(this.#summary, `${count(mesh.nodes.length, "node")}${told.length ? ` (${told.join(", ")})` : ""}, ${count(mesh.links.length, "link")}${down}`);
  }

  #renderGroups() {
    const { mesh } = this.#live;
    const open = [...this.#graph.open];
    once(this.#groups, JSON.stringify([this.#grouping, open, groupings(mesh)]), () => this.#chooseGroups(mesh, open));
  }

  #chooseGroups(mesh, open) {
    const by = select(groupings(mesh), this.#grouping, (grouping) => {
      this.#grouping = grouping;
      this.#graph.open.clear();
      this.refresh();
      this.#graph.arrange();
    });
    const close = (group) => {
      this.#graph.open.delete(group);
      this.refresh();
    };
    const chips = open.map((group) => button(`${group} ×`, () => close(group), { class: "chip", "aria-label": `Close group ${group}` }));
    return [h("label", { class: "check" }, "Group by ", by), chips];
  }
}

/** Return the nodes that a filter lets through. */
function searched(nodes, { text, state }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const told = ({ id, via, version, types, labels }) =>
    [id, via, version, ...(types ?? []), ...Object.entries(labels ?? {}).map(([key, value]) => `${key}=${value}`)].join("\n").toLowerCase();
  return nodes.filter((node) => (!state || node.state === state) && words.every((word) => told(node).includes(word)));
}

/** Return what is said of a part that is not there. */
export function unavailable(problem, what) {
  if (problem.isLost) return `${what} is not known: the node does not answer.`;
  if (problem.status === 401) return `${what} is shown to those whom the node knows: give a token, or use a certificate.`;
  if (problem.status === 403) return `${what} is not available to you: ${problem.message}`;
  if (problem.isUnavailable) return `${what} is not available from this node.`;
  return `${what} is not known: ${problem.message}`;
}

function columns(links) {
  return [
    { id: "node", title: "Node", value: ({ id }) => id, mark: ({ id, kind }) => [id, kind], show: nodeName },
    { id: "state", title: "State", value: ({ state }) => state, mark: ({ state, error }) => [state, error], show: ({ state, error }) => [nodeBadge(state), error ? h("span", { class: "detail" }, error) : null] },
    { id: "via", title: "Via", value: ({ via }) => via, show: ({ via, id }) => (!via ? "–" : via === id ? "direct" : via) },
    { id: "hops", title: "Hops", kind: "number", value: ({ hops, state }) => (state === "here" ? 0 : hops), show: ({ hops, cost }) => (hops ? `${hops} (cost ${cost})` : "–") },
    { id: "links", title: "Links", kind: "number", value: ({ id }) => links().get(id) ?? 0, show: ({ id }) => String(links().get(id) ?? 0) },
    { id: "rtt", title: "Round trip", kind: "number", value: ({ rtt }) => rtt, show: ({ rtt }) => brief(rtt) },
    { id: "types", title: "Work types", value: ({ types }) => (types ?? []).join(" "), show: ({ types }) => typesText(types ?? []) },
    { id: "load", title: "Load", kind: "number", value: loadOf, mark: ({ load }) => load, show: loadCell },
    { id: "version", title: "Version", value: ({ version }) => version, show: ({ version, kind }) => version ?? (kind === "receptor" ? "receptor" : "–") },
    { id: "since", title: "Since", value: ({ since }) => sinceValue(since), show: ({ since }) => clock(since) },
  ];
}

function nodeName({ id, kind }) {
  return [h("a", { href: `#/mesh/${encodeURIComponent(id)}`, class: "name" }, id), kind === "receptor" ? " " : null, kind === "receptor" ? h("span", { class: "tag" }, "receptor") : null];
}

function typesText(types) {
  return types.length > 6 ? `${types.slice(0, 6).join(", ")} and ${types.length - 6} more` : types.join(", ") || "–";
}

function loadCell(node) {
  const share = loadOf(node);
  if (share === null) return loadText(node);
  return [h("meter", { min: 0, max: 1, high: 0.9, value: Math.min(1, share).toFixed(2), "aria-label": "Load" }), ` ${loadText(node)}`];
}

function peerColumns(now) {
  return [
    { id: "address", title: "Address", value: ({ address }) => address, show: ({ address }) => address },
    { id: "kind", title: "Kind", value: ({ kind }) => kind, show: ({ kind }) => kind },
    { id: "reason", title: "Last error", value: ({ reason }) => reason, show: ({ reason }) => reason || "–" },
    { id: "tries", title: "Tries", kind: "number", value: ({ tries }) => tries, show: ({ tries }) => String(tries ?? "–") },
    { id: "since", title: "Down since", value: ({ since }) => sinceValue(since), show: ({ since }) => (since ? `${clock(since)} (${ago(since, now())})` : "–") },
    { id: "next", title: "Next try", value: ({ next }) => sinceValue(next), show: ({ next }) => clock(next) },
  ];
}

function legend() {
  const keys = [
    ["here", "◉ this node"],
    ["reachable", "● reachable"],
    ["unreachable", "✕ unreachable"],
    ["down", "■ peer that is down"],
  ];
  const lines = "Links: the number is the cost; wider is more traffic; dashed is told by one end only; dotted is slow or down. Ctrl and the wheel zoom.";
  return h("p", { class: "legend" }, keys.map(([state, text]) => h("span", { class: "badge", "data-state": state }, text)), h("span", null, lines));
}
