// The mesh as a picture: nodes, groups of nodes and peers that are down, and the links between them.

import { button, h, say, set, svg } from "./dom.js";
import { brief, count, rate } from "./format.js";
import { bounds, layout } from "./layout.js";
import { costText, degrees, healthOf, linkText, nodeSign, nodeText, Traffic } from "./nodes.js";
import { linkKey, pathTo, picture } from "./topology.js";
import { placeLabels } from "./labels.js";
import { Zoom } from "./zoom.js";

const RADIUS = { node: 12, peer: 9, group: 18 };

export class Graph {
  /** The names of groups that are shown as their members. */
  open = new Set();
  #mesh = null;
  #groups = new Map();
  #picture = { nodes: [], edges: [] };
  #places = new Map();
  #traffic = new Traffic();
  #drawn = { nodes: new Map(), edges: new Map() };
  #edges = svg("g", { class: "edges" });
  #nodes = svg("g", { class: "nodes" });
  #view = svg("g", null, this.#edges, this.#nodes);
  #svg = svg("svg", { class: "canvas", role: "group", "aria-label": "Graph of the mesh. Arrow keys go from node to node, Enter opens." }, this.#view);
  #zoom = new Zoom(this.#svg, () => this.#moved());
  #pointed = null;
  #focused = null;
  #matches = null;
  #onpoint;
  #onopen;
  #ongroup;

  /** `onpoint(id)` hears which node is pointed at, `onopen(id)` which is opened, `ongroup()` of groups. */
  constructor({ onpoint, onopen, ongroup }) {
    [this.#onpoint, this.#onopen, this.#ongroup] = [onpoint, onopen, ongroup];
    this.caption = h("p", { class: "caption", "aria-live": "polite" });
    const zoom = [
      button("+", () => this.#zoom.by(1.4), { "aria-label": "Zoom in", title: "Zoom in (+)" }),
      button("−", () => this.#zoom.by(1 / 1.4), { "aria-label": "Zoom out", title: "Zoom out (−)" }),
      button("Fit", () => this.fit(), { title: "Show all (0)" }),
      button("Arrange", () => this.arrange(), { title: "Place all nodes anew" }),
    ];
    this.element = h("div", { class: "graph" }, this.#svg, h("div", { class: "zoom" }, zoom), this.caption);
    this.#svg.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#resized()).observe(this.#svg);
  }

  /** Show a mesh, its nodes in these groups. */
  update(mesh, groupNames) {
    this.#mesh = mesh;
    this.#traffic.take(mesh.links, (link) => linkKey(link.a, link.b));
    const before = this.#picture;
    this.#groups = groupNames;
    this.#picture = picture(mesh, groupNames, this.open);
    this.#place(before);
    this.#draw();
    if (!this.#zoom.isChosen) this.fit();
    else this.#moved();
  }

  /** Show the way to a node; null for none. */
  point(id) {
    this.#pointed = id;
    this.#mark();
  }

  /** Show which nodes a search has found: a set of IDs, or null for all. */
  match(ids) {
    this.#matches = ids;
    this.#mark();
  }

  /** Show all of it. */
  fit() {
    this.#zoom.fit(bounds(this.#places.values()));
  }

  /** Place all nodes anew. */
  arrange() {
    this.#places = new Map();
    this.#place(this.#picture);
    this.#draw();
    this.fit();
  }

  #place(before) {
    const sizes = new Map(this.#picture.nodes.map((node) => [node.key, radiusOf(node)]));
    const [seeds, known] = [new Map(), new Map(this.#places)];
    for (const node of before.nodes) {
      // A group that was opened gives its members its place.
      if (node.kind === "group") for (const one of node.members) seeds.set(`node ${one.id}`, known.get(node.key));
    }
    for (const node of this.#picture.nodes) {
      const inside = node.kind === "group" ? node.members.map(({ id }) => known.get(`node ${id}`)).filter(Boolean) : [];
      if (inside.length && !known.has(node.key)) known.set(node.key, middle(inside));
    }
    const seeded = new Map([...seeds].filter(([key, place]) => place && sizes.has(key) && !known.has(key)));
    this.#places = layout(sizes, this.#picture.edges, `node ${this.#mesh.node}`, known, seeded);
  }

  #draw() {
    const links = degrees(this.#mesh);
    keyed(this.#edges, this.#drawn.edges, this.#picture.edges, (edge) => this.#newEdge(edge), (drawn, edge) => this.#edge(drawn, edge));
    keyed(this.#nodes, this.#drawn.nodes, this.#picture.nodes, (node) => this.#newNode(node), (drawn, node) => this.#node(drawn, node, links));
    const here = this.#drawn.nodes.get(`node ${this.#mesh.node}`)?.element;
    // The node itself is in front of all others; what has the focus would lose it by being moved.
    if (here && here !== this.#nodes.lastChild && !this.#nodes.contains(document.activeElement)) this.#nodes.append(here);
    if (!this.#drawn.nodes.has(this.#focused)) this.#rove(`node ${this.#mesh.node}`);
    this.#mark();
  }

  #newEdge(edge) {
    const parts = { line: svg("line", { class: "line" }), wide: svg("line", { class: "wide" }), text: svg("text", { class: "cost" }), title: svg("title") };
    const element = svg("g", { class: "edge" }, parts.title, parts.wide, parts.line, parts.text);
    return { element, edge, ...parts };
  }

  #edge(drawn, edge) {
    drawn.edge = edge;
    const [from, to] = [this.#places.get(edge.from), this.#places.get(edge.to)];
    for (const line of [drawn.line, drawn.wide]) set(line, { x1: from.x, y1: from.y, x2: to.x, y2: to.y });
    const perSecond = edge.links.reduce((sum, link) => sum + this.#traffic.of(linkKey(link.a, link.b)), 0);
    const health = edge.peer ? "down" : worst(edge.links.map(healthOf));
    set(drawn.element, { "data-health": health });
    set(drawn.line, { "stroke-width": 1.5 + Math.min(5, Math.log10(1 + perSecond / 1024)) });
    say(drawn.title, edge.peer ? peerText(edge.peer) : edge.links.slice(0, 12).map((link) => linkText(link, this.#traffic.of(linkKey(link.a, link.b)))).join("\n"));
    say(drawn.text, edgeText(edge, perSecond));
    set(drawn.text, { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 });
  }

  #newNode(node) {
    const parts = { title: svg("title"), label: svg("text", { class: "label" }), sign: svg("text", { class: "sign" }) };
    const element = svg("g", { class: "vertex", role: "button", tabindex: -1 }, parts.title, shapeOf(node), parts.sign, parts.label);
    const drawn = { element, node, ...parts };
    const point = (isOn) => () => {
      this.#focused = isOn ? node.key : this.#focused;
      this.#onpoint(isOn && drawn.node.kind === "node" ? drawn.node.node.id : null);
      if (isOn) this.#say(drawn.node);
    };
    for (const [event, isOn] of [["mouseenter", true], ["mouseleave", false], ["focus", true], ["blur", false]]) element.addEventListener(event, point(isOn));
    element.addEventListener("click", () => this.#act(drawn.node));
    return drawn;
  }

  #node(drawn, node, links) {
    drawn.node = node;
    const { x, y } = this.#places.get(node.key);
    set(drawn.element, { transform: `translate(${x} ${y})`, "data-kind": node.kind, "data-state": stateOf(node), "aria-label": textOf(node, links) });
    say(drawn.label, short(node.label));
    set(drawn.label, { y: radiusOf(node) + 5 });
    say(drawn.sign, node.kind === "group" ? String(node.members.length) : node.kind === "peer" ? "✕" : signIn(node.node));
    say(drawn.title, textOf(node, links));
  }

  #mark() {
    const path = this.#pointed === null || !this.#mesh ? [] : pathTo(this.#mesh, this.#pointed).map((id) => this.#keyOf(id));
    const steps = new Set(path.slice(1).map((key, at) => linkKey(path[at], key)));
    this.#svg.classList.toggle("pointing", this.#pointed !== null);
    for (const [key, { element, node }] of this.#drawn.nodes) {
      element.classList.toggle("on-path", path.includes(key) || (this.#pointed !== null && key === this.#keyOf(this.#pointed)));
      element.classList.toggle("off", this.#matches !== null && !this.#isMatch(node));
    }
    for (const [key, { element }] of this.#drawn.edges) element.classList.toggle("on-path", steps.has(key));
  }

  #isMatch(node) {
    if (node.kind === "peer") return false;
    return node.kind === "group" ? node.members.some(({ id }) => this.#matches.has(id)) : this.#matches.has(node.node.id);
  }

  #keyOf(id) {
    const group = this.#groups.get(id);
    return group && !this.open.has(group) ? `group ${group}` : `node ${id}`;
  }

  #say(node) {
    const links = degrees(this.#mesh);
    const path = node.kind === "node" ? pathTo(this.#mesh, node.node.id) : [];
    say(this.caption, [textOf(node, links), path.length > 2 ? `path ${path.join(" → ")}` : null].filter(Boolean).join(" · "));
  }

  #act(node) {
    if (node.kind === "node") return this.#onopen(node.node.id);
    if (node.kind !== "group") return undefined;
    this.open.add(node.label);
    this.update(this.#mesh, this.#groups);
    const first = `node ${node.members[0].id}`;
    this.#rove(first);
    this.#drawn.nodes.get(first)?.element.focus();
    return this.#ongroup();
  }

  #key(event) {
    const drawn = this.#drawn.nodes.get(this.#focused);
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const keys = { "+": () => this.#zoom.by(1.4), "=": () => this.#zoom.by(1.4), "-": () => this.#zoom.by(1 / 1.4), 0: () => this.fit() };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (ways[event.key]) this.#step(ways[event.key]);
    else if (keys[event.key]) keys[event.key]();
    else if (drawn && ["Enter", " "].includes(event.key)) this.#act(drawn.node);
    else return;
    event.preventDefault();
  }

  #step([x, y]) {
    const from = this.#places.get(this.#focused);
    let [best, least] = [null, Infinity];
    for (const { key } of this.#picture.nodes) {
      const [dx, dy] = [this.#places.get(key).x - from.x, this.#places.get(key).y - from.y];
      const [ahead, aside] = [dx * x + dy * y, Math.abs(dx * y) + Math.abs(dy * x)];
      if (key !== this.#focused && ahead > 0 && ahead + 2 * aside < least) [best, least] = [key, ahead + 2 * aside];
    }
    if (best === null) return;
    this.#rove(best);
    this.#zoom.reveal(this.#places.get(best));
    this.#drawn.nodes.get(best).element.focus({ preventScroll: true });
  }

  #rove(key) {
    this.#drawn.nodes.get(this.#focused)?.element.setAttribute("tabindex", "-1");
    this.#focused = key;
    this.#drawn.nodes.get(key)?.element.setAttribute("tabindex", "0");
  }

  #resized() {
    if (!this.#zoom.isChosen && this.#mesh) this.fit();
  }

  #moved() {
    this.#view.setAttribute("transform", this.#zoom.transform);
    // Texts keep their size on the screen, whatever the scale.
    this.#svg.style.setProperty("--k", String(this.#zoom.k));
    placeLabels(this.#drawn, this.#places, this.#zoom.k, `node ${this.#mesh?.node}`);
  }
}

function keyed(parent, drawn, items, create, update) {
  const keys = new Set(items.map(({ key }) => key));
  for (const [key, { element }] of drawn) {
    if (keys.has(key)) continue;
    element.remove();
    drawn.delete(key);
  }
  for (const item of items) {
    if (!drawn.has(item.key)) {
      drawn.set(item.key, create(item));
      parent.append(drawn.get(item.key).element);
    }
    update(drawn.get(item.key), item);
  }
}

/** Return how large a node of the picture is. */
function radiusOf(node) {
  return RADIUS[node.kind] + (node.kind === "group" ? Math.min(14, Math.sqrt(node.members.length) * 1.6) : 0);
}

function shapeOf(node) {
  const r = radiusOf(node);
  if (node.kind === "peer") return svg("rect", { class: "shape", x: -r, y: -r, width: 2 * r, height: 2 * r, rx: 3 });
  return svg("circle", { class: "shape", r });
}

function stateOf(node) {
  if (node.kind === "peer") return "down";
  if (node.kind === "node") return node.node.state;
  return node.members.every(({ state }) => state !== "unreachable") ? "reachable" : "partly";
}

function signIn(node) {
  return node.state === "reachable" ? "" : nodeSign(node.state);
}

function textOf(node, links) {
  if (node.kind === "peer") return peerText(node.peer);
  if (node.kind === "node") return nodeText(node.node, links.get(node.node.id) ?? 0);
  const lost = node.members.filter(({ state }) => state === "unreachable").length;
  return `${node.label}: ${count(node.members.length, "node")}${lost ? `, ${lost} unreachable` : ""}, closed; opens at a click`;
}

function peerText(peer) {
  return `${peer.kind} to ${peer.address} is down: ${peer.reason || "not tried yet"}, ${count(peer.tries ?? 0, "try", "tries")}`;
}

function edgeText({ links, peer }, perSecond) {
  if (peer) return "down";
  if (links.length > 1) return `${links.length} links`;
  const [link] = links;
  const parts = [costText(link)];
  if (typeof link.rtt === "number") parts.push(brief(link.rtt));
  if (perSecond >= 1024) parts.push(rate(perSecond));
  return parts.join(" · ");
}

function worst(healths) {
  return ["one-way", "slow"].find((one) => healths.includes(one)) ?? "good";
}

function short(text) {
  return text.length > 24 ? `${text.slice(0, 23)}…` : text;
}

function middle(places) {
  const sum = places.reduce(({ x, y }, one) => ({ x: x + one.x, y: y + one.y }), { x: 0, y: 0 });
  return { x: sum.x / places.length, y: sum.y / places.length };
}
