// Behind layer-recursion.js: bounds on the moments, [low, high] for each of the four, as in nslab/propagation.
// Twins: nslab/propagation/intervals.py and copies.py. layer-networks.js follows this file.

const times = ([a, b], [c, d]) => {
  const products = [a * c, a * d, b * c, b * d];
  return [Math.min(...products), Math.max(...products)];
};
const hullOf = (x, y) => [Math.min(x[0], y[0]), Math.max(x[1], y[1])];
const met = (x, y) => {
  const low = Math.max(x[0], y[0]);
  return [low, Math.max(low, Math.min(x[1], y[1]))];
};
const slackened = ([low, high], slack, there, back) => [back(there(low) - slack), back(there(high) + slack)];
const logit = (s) => Math.log(s / (1 - s));
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
// Where a value lies between two ends, in [0, 1].
const shareOf = (value, [low, high]) => clip((value - low) / Math.max(high - low, EPS), 0, 1);

// The ends of 1/q, finite where nothing keeps q above 0.
const TINY = Math.sqrt(2.2250738585072014e-308);
const inverseOf = (q) => [1, 0].map((side) => 1 / Math.max(q[side], TINY));

function ratios(box) {
  const inverse = inverseOf(box.q);
  return each((key) => (key === "q" ? [1, 1] : times(box[key], inverse).map((end) => clip(end, -1, 1))));
}

// The ends of s, t, s_a and t_a, in the places of m, o, q and p; any at all where nothing is known of the votes.
function massIntervals(unit, shape, known, slack, table) {
  const n = shape.tokens;
  if (!known) return { m: [0, 1], o: [0, 1], q: [1 / n, 1], p: [0, 1] };
  const { m, o, p } = unit;
  let corners;
  if (shape.scores === "random") {
    const apart = p.map((end) => Math.max(1 - end, EPS));
    const shared = times([m[0] - o[1], m[1] - o[0]], [1 / apart[0], 1 / apart[1]]).map((end) => clip(end, -1, 1));
    const found = apart.map((gap) => table(Math.sqrt(gap) * shape.score_scale * Math.sqrt(shape.width)));
    const r = { m: times(m, shared), o: times(o, shared), q: [1, 1], p };
    corners = each((key) => r[key].flatMap((end) => found.map((mass) => mass(end))));
  } else {
    const found = p.map((end) => attentionMasses({ m: m[0], o: o[0], q: 1, p: end }, shape));
    const of = { m: "s", o: "t", q: "s_a", p: "t_a" };
    corners = each((key) => found.map((masses) => masses[of[key]]));
  }
  return each((key) => {
    const inside = corners[key].map((mass) => clip(mass, 0, 1));
    return slackened([Math.min(...inside), Math.max(...inside)], slack, logit, sigmoid);
  });
}

// ---------------------------------------------------------------- copies: hard votes spread pairs around their mean
// unit bounds the means over pairs, reach every single pair, both over q; own: the ends of s_a.
function overlaps(own, n) {
  const pair = [(1 - own[1]) / Math.max(n - 1, 1), own[1]];
  return { m: pair, o: pair, q: own, p: pair };
}

function averaged(unit, reach, own) {
  const drawn = (key) => unit[key].map((end, side) => end + own[1] * (reach[key][side] - end));
  return { m: reach.m, o: drawn("o"), q: reach.q, p: drawn("p") };
}

// Upper ends of the chance that two rows pick copies of one token: m same row, two runs; o different rows, two runs;
// p different rows, one run.
function agreements(unit, reach, own, shape, table) {
  const { m, o, p } = reach;
  const n = shape.tokens;
  const apart = Math.max(1 - p[0], EPS);
  const [low, high] = unit.p.map((end) => 1 - (1 - 1 / n) * clip((1 - end) / apart, 0, 1));
  const [same, other] = [unit.m, unit.o].map((ends) => shareOf(ends[1], [o[0], m[1]]));
  const cross = other + (same - other) / n;
  const worst = Math.min(Math.max(cross, low), high);
  const keys = clip((m[1] - o[0]) / apart, 0, 1);
  const mass = table(shape.score_scale * Math.sqrt(shape.width) * Math.sqrt(apart));
  const chance = (kind, key, copies, found) => {
    const power = -Math.log(copies) / Math.log(Math.max(n, 2));
    const [least, most] = reach[kind].map((end) => Math.min(found * clip(mass(key * end), 0, 1) ** power, own[1]));
    return least + shareOf(unit[kind][1], reach[kind]) * (most - least);
  };
  const across = Math.min(cross / worst, 1);
  return { m: chance("m", keys, worst, across), o: chance("o", keys, worst, across), p: chance("p", 1, high, 1) };
}

// Upper ends of m, o and p over q: copies at the top of the range, all else at its bottom.
function copied({ m, o, q, p }, chances, slack) {
  const of = (chance, top, other) => other[0] + sigmoid(logit(chance) + slack) * (top[1] - other[0]);
  return { m: of(chances.m, m, o), o: of(chances.o, m, o), p: of(chances.p, q, p) };
}

// ---------------------------------------------------------------- blocks
function mixedIntervals(seen, masses, copies, { gain, tokens: n }) {
  const { m, o, q, p } = seen;
  const pairs = { m: [m, o], o: [m, o], q: [q, p], p: [q, p] };
  return each((key) => {
    const [same, other] = pairs[key];
    const [lows, highs] = [0, 1].map((side) => masses[key].map((s) => other[side] + s * (same[side] - other[side])));
    if (copies && key !== "q") highs.push(copies[key] * q[1]);
    let low = Math.min(...lows);
    if (key === "q") low = Math.max(low, Math.max((n * masses.q[0] - 1) / Math.max(n - 1, 1), 0) * q[0]);
    return [gain ** 2 * low, gain ** 2 * Math.max(...highs)];
  });
}

// F at lower ends; at upper ends F, or its chord over the range of pairs.
function reluIntervals(seen, reach) {
  const { q } = seen;
  return each((key) => {
    if (key === "q") return q;
    const [low, high] = seen[key].map((end, side) => reluMoment(q[side], q[side], clip(end, -q[side], q[side])));
    if (!reach) return [low, high];
    const [near, far] = reach[key].map((end) => reluMoment(1, 1, end));
    return [low, Math.max(high, q[1] * (near + shareOf(seen[key][1] / q[1], reach[key]) * (far - near)))];
  });
}

const addedIntervals = (old, block, { residual }) => {
  if (residual === "none") return block;
  const share = residual === "scaled" ? 0.5 : 1;
  return each((key) => [0, 1].map((side) => share * (old[key][side] + block[key][side])));
};

// The residual on ratios alone, q the ends of the second moment before the block.
function joined(unit, block, q, shape) {
  const weights = shape.norm === "none" ? [1] : inverseOf(q);
  const options = weights.map((w) =>
    ratios(addedIntervals(unit, each((key) => block[key].map((end) => w * end)), shape)));
  return each((key) => options.map((option) => option[key]).reduce(hullOf));
}

// One block with its norm, residual and slack: bounds of the moments (box) and of their ratios to q (unit).
function blockIntervals(box, unit, shape, slack, block) {
  const raw = addedIntervals(box, block(shape.norm === "none" ? box : unit), shape);
  const [fresh, bounds] = [joined(unit, block(unit), box.q, shape), ratios(raw)];
  unit = each((key) => slackened(met(fresh[key], bounds[key]), slack / 8, Math.atanh, Math.tanh));
  const q = slackened(raw.q, slack, Math.log, Math.exp);
  const room = (slack / 8) * q[1];
  box = each((key) => {
    const wide = times(raw[key], [Math.exp(-slack), Math.exp(slack)]);
    return met([wide[0] - room, wide[1] + room], times(unit[key], q));
  });
  return [box, unit];
}

// Bounds of m, o, q, p and of the two correlations, before the first layer and after each. `known` takes the agreement
// from theory (version B); without it any agreement is allowed (the hull).
function intervals({ rho }, shape, table, known) {
  const slack = 4 / Math.sqrt(shape.width);
  const { tokens, mlp } = shape;
  let box = each((key) => { const value = { m: rho, o: 0, q: 1, p: 0 }[key]; return [value, value]; });
  let unit = ratios(box);
  let reach = known && shape.scores === "random" ? unit : null; // of the ratios of single pairs
  const found = [];
  const keep = () => found.push({ ...box, correlation: unit.m, token_correlation: unit.p });
  keep();
  for (let k = 0; k < shape.depth; k++) {
    const masses = massIntervals(unit, shape, known, slack, table);
    let before = box.q;
    let copies = null;
    if (reach) {
      const picked = averaged(unit, reach, masses.q);
      copies = copied(picked, agreements(unit, reach, masses.q, shape, table), slack);
      reach = joined(reach, mixedIntervals(picked, overlaps(masses.q, tokens), null, shape), before, shape);
    }
    [box, unit] = blockIntervals(box, unit, shape, slack, (seen) => mixedIntervals(seen, masses, copies, shape));
    if (mlp !== "none") {
      before = box.q;
      [box, unit] = blockIntervals(box, unit, shape, 2 * slack, (seen) => reluIntervals(seen, reach));
      if (reach) reach = joined(reach, reluIntervals(reach, null), before, shape);
    }
    keep();
  }
  return found;
}
