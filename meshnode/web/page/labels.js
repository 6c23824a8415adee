// Which texts of the picture are shown: none that would lie upon another. What matters comes first.

/** Pixels of a text on the screen: its height, and the width of a sign. */
const HEIGHT = 15;
const SIGN = 6.6;

/** Links of a node from which on its name is worth more than the sight of nodes behind it. */
const HUB = 5;

/** Show the labels of nodes, then those of links, where there is room at this scale. */
export function placeLabels({ nodes, edges }, places, k, root) {
  const taken = [];
  const links = linksOf(edges);
  const worth = (drawn) => worthOf(drawn.node, links.get(drawn.node.key) ?? 0, root);
  const byWorth = [...nodes.values()].sort((a, b) => worth(b) - worth(a) || (a.node.key < b.node.key ? -1 : 1));
  const discs = [...nodes.keys()].map((key) => at(places.get(key), k));
  for (const drawn of byWorth) {
    const { x, y } = at(places.get(drawn.node.key), k);
    const below = Number(drawn.label.getAttribute("y")) * k;
    const width = drawn.label.textContent.length * SIGN;
    const box = { left: x - width / 2, right: x + width / 2, top: y + below, bottom: y + below + HEIGHT };
    show(drawn.label, box, taken, worth(drawn) >= HUB ? [] : discs, k);
  }
  for (const drawn of edges.values()) {
    const [from, to] = [at(places.get(drawn.edge.from), k), at(places.get(drawn.edge.to), k)];
    const width = drawn.text.textContent.length * SIGN;
    const [x, y] = [(from.x + to.x) / 2, (from.y + to.y) / 2];
    const box = { left: x - width / 2, right: x + width / 2, top: y - HEIGHT / 2, bottom: y + HEIGHT / 2 };
    const isLong = Math.hypot(to.x - from.x, to.y - from.y) > width * 0.8 + 40 * k;
    if (isLong) show(drawn.text, box, taken, discs, k);
    else drawn.text.classList.add("hidden");
  }
}

function show(text, box, taken, discs, k) {
  const isFree = !taken.some((one) => overlap(one, box)) && !discs.some((disc) => isOn(disc, box, 9 * k));
  text.classList.toggle("hidden", !isFree);
  if (isFree) taken.push(box);
}

function worthOf(node, links, root) {
  if (node.key === root) return Infinity;
  if (node.kind === "group") return 1000;
  return node.kind === "node" && node.node.state === "unreachable" ? HUB - 1 : links;
}

function linksOf(edges) {
  const found = new Map();
  for (const { edge } of edges.values()) for (const key of [edge.from, edge.to]) found.set(key, (found.get(key) ?? 0) + 1);
  return found;
}

function at({ x, y }, k) {
  return { x: x * k, y: y * k };
}

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

function isOn({ x, y }, box, radius) {
  return x > box.left - radius && x < box.right + radius && y > box.top - radius && y < box.bottom + radius;
}
