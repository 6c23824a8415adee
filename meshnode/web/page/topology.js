// The mesh as a graph: who is beside whom, the path to a node, and groups of nodes. No document.

/** The groups that a picture can show at once; more of them would be no picture. */
const MOST_GROUPS = 40;

/** Return each node's neighbours with the cost of the way there: ID to a list of [ID, cost]. */
function neighbours(mesh) {
  const found = new Map(mesh.nodes.map(({ id }) => [id, []]));
  for (const { a, b, cost_ab: there, cost_ba: back } of mesh.links) {
    if (typeof there === "number") found.get(a)?.push([b, there]);
    if (typeof back === "number") found.get(b)?.push([a, back]);
  }
  return found;
}

/** Return the nodes on the cheapest way from here to a node, both included; empty if there is none. */
export function pathTo(mesh, target) {
  const start = mesh.node;
  if (target === start) return [start];
  const node = mesh.nodes.find(({ id }) => id === target);
  if (!node || node.state === "unreachable") return [];
  const beside = neighbours(mesh);
  // The first hop is the node's own word, where several ways cost the same.
  const first = (beside.get(start) ?? []).filter(([id]) => !node.via || id === node.via);
  const [before, done] = [new Map(), new Set([start])];
  const open = new Map(first.map(([id, cost]) => [id, { cost, from: start }]));
  while (open.size) {
    const [id, { cost, from }] = [...open].reduce((least, one) => (one[1].cost < least[1].cost ? one : least));
    open.delete(id);
    done.add(id);
    before.set(id, from);
    if (id === target) return unwound(before, start, target);
    for (const [next, step] of beside.get(id) ?? []) {
      if (!done.has(next) && !(open.get(next)?.cost <= cost + step)) open.set(next, { cost: cost + step, from: id });
    }
  }
  return [];
}

function unwound(before, start, target) {
  const path = [target];
  while (path[0] !== start) path.unshift(before.get(path[0]));
  return path;
}

/** Return a name of a link that is the same from both ends. */
export function linkKey(a, b) {
  return a < b ? `${a}\n${b}` : `${b}\n${a}`;
}

/** Return what nodes can be grouped by: pairs of value and words. */
export function groupings(mesh) {
  const labels = new Set(mesh.nodes.flatMap(({ labels: own }) => Object.keys(own ?? {})));
  return [
    ["", "nothing"],
    ["prefix", "name"],
    ["via", "first hop"],
    ...[...labels].sort().map((label) => [`label ${label}`, `label ${label}`]),
  ];
}

/** Return the group of each node, ID to name; who is alone in a group, or here, has none. */
export function groups(mesh, by) {
  const found = by === "" ? new Map() : grouped(mesh.nodes, groupOf(mesh, by));
  const sizes = new Map();
  for (const group of found.values()) sizes.set(group, (sizes.get(group) ?? 0) + 1);
  return new Map([...found].filter(([id, group]) => id !== mesh.node && group && sizes.get(group) > 1));
}

/** Return what to group by, if nobody has said: by name, unless names say nothing. */
export function bestGrouping(mesh) {
  for (const by of ["prefix", ...groupings(mesh).slice(3).map(([one]) => one), "via"]) {
    const found = groups(mesh, by);
    const left = mesh.nodes.length - found.size + new Set(found.values()).size;
    if (left <= MOST_GROUPS * 1.5) return by;
  }
  return "prefix";
}

function grouped(nodes, of) {
  return new Map(nodes.map((node) => [node.id, of(node)]));
}

function groupOf(mesh, by) {
  if (by === "via") return (node) => (node.via ? `via ${node.via}` : "");
  if (by.startsWith("label ")) {
    const label = by.slice("label ".length);
    return (node) => (node.labels?.[label] === undefined ? "" : `${label}=${node.labels[label]}`);
  }
  const depth = depthOf(mesh.nodes.map(({ id }) => id));
  return ({ id }) => prefix(id, depth);
}

/** Return the beginning of a name: so many of its parts, without the last number. */
function prefix(id, depth) {
  const parts = id.match(/[a-z]+|\d+|[^a-z\d]+/gi) ?? [];
  // The last part tells members of a group apart.
  return parts.slice(0, Math.min(depth, parts.length - 1)).join("").replace(/[-._ ]+$/, "");
}

/** Return how many parts of names make groups that are few enough, and as small as may be. */
function depthOf(ids) {
  for (let depth = 7; depth > 1; depth -= 2) {
    if (new Set(ids.map((id) => prefix(id, depth))).size <= MOST_GROUPS) return depth;
  }
  return 1;
}

/**
 * Return the picture's nodes and edges: groups that are closed are one node each.
 *
 * A node of the picture has `key`, `kind` ("node", "group" or "peer"), `label`, and `node`, `members`
 * or `peer`. An edge has `key`, `from`, `to`, and `links`: what of the mesh it stands for.
 */
export function picture(mesh, groupNames, open) {
  const isClosed = (id) => groupNames.has(id) && !open.has(groupNames.get(id));
  const keyOf = (id) => (isClosed(id) ? `group ${groupNames.get(id)}` : `node ${id}`);
  const nodes = new Map();
  for (const node of mesh.nodes) {
    const key = keyOf(node.id);
    if (!isClosed(node.id)) nodes.set(key, { key, kind: "node", label: node.id, node });
    else if (nodes.has(key)) nodes.get(key).members.push(node);
    else nodes.set(key, { key, kind: "group", label: groupNames.get(node.id), members: [node] });
  }
  const edges = new Map();
  for (const link of mesh.links) {
    const [from, to] = [keyOf(link.a), keyOf(link.b)];
    if (from === to || !nodes.has(from) || !nodes.has(to)) continue;
    const key = linkKey(from, to);
    if (!edges.has(key)) edges.set(key, { key, from, to, links: [] });
    edges.get(key).links.push(link);
  }
  for (const peer of mesh.peers_down ?? []) {
    const key = `peer ${peer.address}`;
    nodes.set(key, { key, kind: "peer", label: peer.address, peer });
    edges.set(key, { key, from: keyOf(mesh.node), to: key, links: [], peer });
  }
  return { nodes: [...nodes.values()], edges: [...edges.values()] };
}
