// Where nodes of a picture are: the same mesh gives the same picture, and what is there stays there.
//
// A first picture is a tree around the middle, which forces then pull into shape. Later on only what
// is new is placed, beside what it is linked with: people find a node where they saw it last.

/** The length of a link that nothing else pulls at. */
const LENGTH = 90;

/** Rounds of pulling for a first picture; fewer for large ones, whose rounds are longer. */
const ROUNDS = 300;

/** How much the middle pulls: it keeps near what nothing else holds. Pictures are wider than high. */
const HOME = { x: 0.08, y: 0.2 };

/** How much more that is for a node without any link: it would drift out of sight. */
const ALONE = 6;

/** The sum of two radii at which nodes push each other as far as a link is long. */
const USUAL = 24;

/** The least room between two nodes, for a label beneath, and the rounds in which it is made. */
const SPACE = 22;
const PARTINGS = 12;

/** Rounds for what is added to a picture. */
const LATER_ROUNDS = 80;

/**
 * Return where each node is: key to {x, y}. `before` is what this returned the last time.
 *
 * `sizes` has the radius of each node by its key. `seeds` has places to begin at, for what comes out
 * of a group that was opened; all may move then.
 */
export function layout(sizes, edges, root, before = new Map(), seeds = new Map()) {
  const sorted = [...sizes.keys()].sort();
  const beside = besides(sorted, edges);
  const places = new Map(sorted.filter((key) => before.has(key)).map((key) => [key, { ...before.get(key) }]));
  const added = sorted.filter((key) => !places.has(key));
  const isNew = places.size < sorted.length / 3;
  if (isNew) {
    for (const [key, place] of tree(sorted, beside, root)) places.set(key, place);
    pull(sizes, edges, places, new Set(sorted), sorted.length > 150 ? ROUNDS / 3 : ROUNDS, root);
    lay(places);
  } else if (added.length) {
    for (const key of added) places.set(key, seeds.has(key) ? beneath(key, seeds) : near(key, beside, places));
    pull(sizes, edges, places, new Set(seeds.size ? sorted : added), LATER_ROUNDS, root);
  }
  return places;
}

/** Turn a picture that is higher than wide: screens are not. */
function lay(places) {
  const { width, height } = bounds(places.values(), 0);
  if (height > width) for (const [key, { x, y }] of places) places.set(key, { x: y, y: x });
}

function besides(keys, edges) {
  const beside = new Map(keys.map((key) => [key, []]));
  for (const { from, to } of edges) {
    beside.get(from)?.push(to);
    beside.get(to)?.push(from);
  }
  for (const list of beside.values()) list.sort();
  return beside;
}

/** Return a tree around its root, each branch in a sector as wide as it has leaves. */
function tree(keys, beside, root) {
  const children = new Map();
  const seen = new Set();
  const roots = [];
  for (const start of [...(beside.has(root) ? [root] : []), ...keys]) {
    if (seen.has(start)) continue;
    roots.push(start);
    seen.add(start);
    const waiting = [start];
    for (const key of waiting) {
      const own = beside.get(key).filter((one) => !seen.has(one));
      for (const one of own) seen.add(one);
      children.set(key, own);
      waiting.push(...own);
    }
  }
  const places = new Map();
  if (roots.length === 1) spread(roots[0], children, places, [0, 2 * Math.PI], 0);
  else children.set("", roots) && spread("", children, places, [0, 2 * Math.PI], -0.5);
  places.delete("");
  return places;
}

function spread(key, children, places, [from, to], depth) {
  const angle = (from + to) / 2;
  const radius = Math.max(0, depth) * LENGTH;
  places.set(key, { x: radius * Math.cos(angle), y: radius * Math.sin(angle) });
  const own = children.get(key) ?? [];
  const weights = own.map((one) => leaves(one, children));
  const whole = weights.reduce((sum, one) => sum + one, 0);
  let start = from;
  own.forEach((one, at) => {
    const end = start + ((to - from) * weights[at]) / whole;
    spread(one, children, places, [start, end], depth + 1);
    start = end;
  });
}

function leaves(key, children) {
  const own = children.get(key) ?? [];
  return own.length ? own.reduce((sum, one) => sum + leaves(one, children), 0) : 1;
}

/** Return a place for a new node: outward from the first neighbour that has one. */
function near(key, beside, places) {
  const anchor = beside.get(key).map((one) => places.get(one)).find(Boolean) ?? { x: 0, y: 0 };
  const away = Math.hypot(anchor.x, anchor.y);
  const turn = (hash(key) / 2 ** 32 - 0.5) * (away ? 2 : 2 * Math.PI);
  const angle = (away ? Math.atan2(anchor.y, anchor.x) : 0) + turn;
  return { x: anchor.x + LENGTH * Math.cos(angle), y: anchor.y + LENGTH * Math.sin(angle) };
}

/** Return a place a little beside the one that a node is to begin at: no two have the same. */
function beneath(key, seeds) {
  const { x, y } = seeds.get(key);
  const angle = (hash(key) / 2 ** 32) * 2 * Math.PI;
  return { x: x + (LENGTH / 3) * Math.cos(angle), y: y + (LENGTH / 3) * Math.sin(angle) };
}

/** Return a number of a text, always the same (FNV-1a). */
function hash(text) {
  let value = 0x811c9dc5;
  for (const sign of text) value = Math.imul(value ^ sign.codePointAt(0), 0x01000193) >>> 0;
  return value;
}

/** Let links pull and nodes push; only what may move does, less from round to round. */
function pull(sizes, edges, places, movable, rounds, root) {
  const keys = [...sizes.keys()].sort();
  const at = new Map(keys.map((key, index) => [key, index]));
  // In one order, whatever the order of the edges: sums of fractions depend on it.
  const pairs = edges
    .filter(({ from, to }) => at.has(from) && at.has(to))
    .map(({ from, to }) => [at.get(from), at.get(to)].sort((a, b) => a - b))
    .sort(([a, b], [c, d]) => a - c || b - d);
  const linked = new Set(pairs.flat());
  const bodies = keys.map((key, index) => ({
    x: places.get(key).x,
    // What lies exactly upon another would not know where to go.
    y: places.get(key).y + (movable.has(key) ? (index % 7) * 0.01 : 0),
    dx: 0,
    dy: 0,
    r: sizes.get(key),
    home: linked.has(index) ? 1 : ALONE,
    isFree: movable.has(key) && key !== root,
  }));
  for (let round = 0; round < rounds; round += 1) {
    for (const body of bodies) [body.dx, body.dy] = [-body.x * HOME.x * body.home, -body.y * HOME.y * body.home];
    eachPair(bodies, push);
    for (const [a, b] of pairs) draw(bodies[a], bodies[b]);
    const most = LENGTH * 0.35 * (1 - round / rounds) + 0.2;
    for (const body of bodies) if (body.isFree) move(body, most);
  }
  for (let round = 0; round < PARTINGS; round += 1) eachPair(bodies, part);
  keys.forEach((key, i) => places.set(key, { x: bodies[i].x, y: bodies[i].y }));
}

function eachPair(bodies, act) {
  for (let i = 0; i < bodies.length; i += 1) {
    for (let j = i + 1; j < bodies.length; j += 1) {
      if (bodies[i].isFree || bodies[j].isFree) act(bodies[i], bodies[j]);
    }
  }
}

function push(a, b) {
  const [x, y] = [a.x - b.x, a.y - b.y];
  const squared = Math.max(1, x * x + y * y);
  if (squared > 36 * LENGTH * LENGTH) return;
  const force = (LENGTH * LENGTH * (a.r + b.r)) / (USUAL * squared);
  a.dx += x * force;
  a.dy += y * force;
  b.dx -= x * force;
  b.dy -= y * force;
}

function draw(a, b) {
  const [x, y] = [b.x - a.x, b.y - a.y];
  const force = Math.hypot(x, y) / LENGTH;
  a.dx += x * force;
  a.dy += y * force;
  b.dx -= x * force;
  b.dy -= y * force;
}

function move(body, most) {
  const size = Math.hypot(body.dx, body.dy) || 1;
  const step = Math.min(size, most) / size;
  body.x += body.dx * step;
  body.y += body.dy * step;
}

/** Move two that lie upon each other apart. */
function part(a, b) {
  const [x, y] = [a.x - b.x, a.y - b.y];
  const [apart, least] = [Math.hypot(x, y) || 0.01, a.r + b.r + SPACE];
  if (apart >= least) return;
  const step = (least - apart) / apart / (a.isFree && b.isFree ? 2 : 1);
  if (a.isFree) [a.x, a.y] = [a.x + x * step, a.y + y * step];
  if (b.isFree) [b.x, b.y] = [b.x - x * step, b.y - y * step];
}

/** Return the smallest box around all places: {x, y, width, height}, never empty. */
export function bounds(places, margin = LENGTH * 0.8) {
  const all = [...places];
  const [xs, ys] = [all.map(({ x }) => x), all.map(({ y }) => y)];
  if (!xs.length) return { x: -LENGTH, y: -LENGTH, width: 2 * LENGTH, height: 2 * LENGTH };
  const [left, top] = [Math.min(...xs) - margin, Math.min(...ys) - margin];
  return { x: left, y: top, width: Math.max(...xs) + margin - left, height: Math.max(...ys) + margin - top };
}
