// Four moments through the layers of a random Transformer of infinite width, as in nslab/propagation.
// m: same token, two runs; o: different tokens, two runs; q: a token with itself; p: different tokens, one run.
// Twins: nslab/propagation/recursion.py and agreement_table.py. layer-intervals.js follows this file.

const EPS = Number.EPSILON;
const each = (f) => ({ m: f("m"), o: f("o"), q: f("q"), p: f("p") });
const clip = (value, low, high) => Math.min(high, Math.max(low, value));

// T_0 .. T_{count - 1} at x (and a few more), doubling their number with T_{m+i} = 2 T_m T_i - T_{m-i}.
function chebyshev(x, count) {
  const found = new Float64Array(2 * count + 2);
  found[0] = 1;
  found[1] = x;
  for (let m = 1; m < count - 1; m *= 2)
    for (let i = 1; i <= m; i++) found[m + i] = 2 * found[m] * found[i] - found[m - i];
  return found;
}

// table(spread)(r) is G_n: how often two softmax votes agree whose logits have this standard deviation and correlation.
// The coefficients come as whole numbers of 1e-8, one row for each degree in the spread.
function tableOf(rows) {
  const degrees = Math.max(...rows.map((row) => row.length));
  const parts = rows.map((row) => Float64Array.from(row, (value) => value / 1e8));
  return (spread) => {
    const share = 1.5 / (Math.min(spread, 1e6) ** 2 + 1.5);
    const kappa = Math.max(1 - share, 1e-6);
    const outer = chebyshev(2 * Math.sqrt(share) - 1, rows.length);
    const series = new Float64Array(degrees);
    parts.forEach((part, k) => { for (let j = 0; j < part.length; j++) series[j] += outer[k] * part[j]; });
    const whole = Math.asin(kappa);
    return (r) => {
      const y = Math.asin(kappa * clip(r, -1, 1)) / whole;
      let [next, after] = [0, 0]; // Clenshaw
      for (let k = degrees - 1; k > 0; k--) [next, after] = [series[k] + 2 * y * next - after, next];
      return series[0] + y * next - after;
    };
  };
}

// 2 E[ReLU(u) ReLU(v)] for Gaussians of these variances and covariance.
function reluMoment(q, qPrime, kappa) {
  const scale = Math.sqrt(q) * Math.sqrt(qPrime);
  const c = clip(kappa / scale, -1, 1);
  return (2 * scale * (Math.sqrt((1 - c) * (1 + c)) + c * (Math.PI - Math.acos(c)))) / (2 * Math.PI);
}

const normed = (state, { norm }) => (norm === "none" ? state : each((key) => state[key] / state.q));
function added(old, block, { residual }) {
  if (residual === "none") return block;
  const share = residual === "scaled" ? 0.5 : 1;
  return each((key) => share * (old[key] + block[key]));
}

// The chance that two rows of attention pick one token: s same row, two runs; t different rows, two runs;
// s_a the same row twice in one run; t_a different rows, one run.
function attentionMasses({ m, o, q, p }, shape, table) {
  const { tokens: n, width, scores, score_scale: beta } = shape;
  const apart = Math.max(1 - p / q, EPS);
  if (scores === "uniform") return { s: 1 / n, t: 1 / n, s_a: 1 / n, t_a: 1 / n };
  if (scores === "identity") {
    const x = Math.exp(-beta * Math.sqrt(width) * apart);
    const total = (1 + (n - 1) * x) ** 2;
    const [same, other] = [(1 + (n - 1) * x * x) / total, (2 * x + (n - 2) * x * x) / total];
    return { s: same, t: other, s_a: same, t_a: other };
  }
  const mass = table(beta * Math.sqrt(width) * Math.sqrt(apart));
  const shared = clip((m - o) / q / apart, -1, 1) / q;
  return { s: mass(m * shared), t: mass(o * shared), s_a: mass(1), t_a: mass(p / q) };
}

// One layer: attention, then the MLP.
function layer(state, shape, table) {
  const square = shape.gain ** 2;
  const seen = normed(state, shape);
  const { s, t, s_a, t_a } = attentionMasses(seen, shape, table);
  const { m, o, q, p } = seen;
  state = added(state, {
    m: square * (o + s * (m - o)), o: square * (o + t * (m - o)),
    q: square * (p + s_a * (q - p)), p: square * (p + t_a * (q - p)),
  }, shape);
  if (shape.mlp === "none") return state;
  const inner = normed(state, shape);
  const { q: own } = inner;
  return added(state, each((key) => (key === "q" ? own : reluMoment(own, own, clip(inner[key], -own, own)))), shape);
}

// The moments before the first layer and after each, and the agreement masses of each layer.
function propagate({ rho }, shape, table) {
  const states = [{ m: rho, o: 0, q: 1, p: 0 }];
  const masses = [];
  for (let k = 0; k < shape.depth; k++) {
    masses.push(attentionMasses(states[k], shape, table));
    states.push(layer(states[k], shape, table));
  }
  return { states, masses };
}
