// Words about nodes and links, for the table, the graph and for those who hear the page.

import { brief, bytes, count, moment, rate } from "./format.js";

/** The states of a node, each with a sign. */
export const NODE_STATES = [
  ["here", "◉"],
  ["reachable", "●"],
  ["unreachable", "✕"],
  ["unknown", "?"],
];

const SIGNS = new Map(NODE_STATES);

/** Return the sign of a node's state. */
export function nodeSign(state) {
  return SIGNS.get(state) ?? "?";
}

/** Return how many links each node has: ID to number. */
export function degrees(mesh) {
  const found = new Map();
  for (const { a, b } of mesh.links) for (const id of [a, b]) found.set(id, (found.get(id) ?? 0) + 1);
  return found;
}

/** Return a node's load as a number between none and all of its processors; null if it does not say. */
export function loadOf(node) {
  const { average, processors } = node.load ?? {};
  return typeof average === "number" && processors > 0 ? average / processors : null;
}

/** Return a node's load in words. */
export function loadText(node) {
  const load = node.load;
  if (!load || typeof load !== "object") return "–";
  const share = loadOf(node);
  const [running, queued] = ["running", "queued"].map((what) => sum(load[what]));
  const parts = [share === null ? null : `${Math.round(share * 100)} %`, running ? count(running, "unit") : null, queued ? `${queued} queued` : null];
  return parts.filter(Boolean).join(", ") || "–";
}

function sum(numbers) {
  return Object.values(numbers ?? {}).reduce((whole, one) => whole + (Number(one) || 0), 0);
}

/** Return what a link costs: one number, or one for each way. */
export function costText(link) {
  const [there, back] = [link.cost_ab, link.cost_ba];
  if (!isGiven(there) || !isGiven(back)) return `${there ?? back}, one way`;
  return there === back ? String(there) : `${there} / ${back}`;
}

/** Return how a link fares: "good", "slow", or "one-way" if only one end says that it is there. */
export function healthOf(link) {
  if (!isGiven(link.cost_ab) || !isGiven(link.cost_ba)) return "one-way";
  return typeof link.rtt === "number" && link.rtt > SLOW ? "slow" : "good";
}

function isGiven(cost) {
  return cost !== null && cost !== undefined;
}

/** Seconds of a round trip from which on a link is called slow: people notice, and streams crawl. */
const SLOW = 0.25;

/** Return a link in words. */
export function linkText(link, perSecond) {
  const parts = [`${link.a} – ${link.b}`, `cost ${costText(link)}`];
  if (link.kind) parts.push(link.kind);
  if (typeof link.rtt === "number") parts.push(`round trip ${brief(link.rtt)}`);
  if (typeof link.bytes_sent === "number") parts.push(`${bytes(link.bytes_sent)} sent, ${bytes(link.bytes_received)} received`);
  if (perSecond > 0) parts.push(`${rate(perSecond)} now`);
  if (healthOf(link) !== "good") parts.push(healthOf(link));
  return parts.join(", ");
}

/** Return a node in words. */
export function nodeText(node, links) {
  const parts = [node.id, node.state];
  if (node.via && node.via !== node.id) parts.push(`via ${node.via}`);
  parts.push(count(links, "link"));
  if (node.error) parts.push(node.error);
  return parts.join(", ");
}

/** Remembers how many bytes links have carried, and says how many a second it is now. */
export class Traffic {
  #before = new Map();
  #now = new Map();
  #at = -Infinity;

  /** Take what a mesh says of its links. */
  take(links, key, now = performance.now()) {
    if (now - this.#at < 1000) return;
    const counted = links.filter((link) => typeof link.bytes_sent === "number");
    const wholes = new Map(counted.map((link) => [key(link), link.bytes_sent + (link.bytes_received ?? 0)]));
    const seconds = (now - this.#at) / 1000;
    const known = [...wholes].filter(([link]) => this.#before.has(link));
    // A link that is up again counts from nothing.
    this.#now = new Map(known.map(([link, whole]) => [link, Math.max(0, whole - this.#before.get(link)) / seconds]));
    [this.#before, this.#at] = [wholes, now];
  }

  /** Return the bytes a second of a link; 0 if nobody says. */
  of(key) {
    return this.#now.get(key) ?? 0;
  }
}

/** Return how long something has been so, as a number to sort by. */
export function sinceValue(text) {
  const at = moment(text);
  return Number.isNaN(at) ? null : at;
}
