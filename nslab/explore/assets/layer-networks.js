// Behind layer-intervals.js: the recursion under a causal mask (twin: nslab/propagation/causal.py), and random networks
// drawn from a seeded generator (twin: nslab/explore/layer_networks.py). layer-explorer.js follows this file.

// ---------------------------------------------------------------- causal: token i sees tokens 0 to i
const matrix = (n, f) => Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => f(i, j)));
const product = (a, b) => matrix(a.length, (i, j) => a[i].reduce((sum, value, k) => sum + value * b[k][j], 0));
const transposed = (a) => matrix(a.length, (i, j) => a[j][i]);

// Sums over the first i + 1 rows and j + 1 columns, and over the first i + 1 of the diagonal.
function sums(part) {
  const total = part.map((row) => [...row]);
  const equal = part.map((row, i) => row[i]);
  for (let i = 0; i < part.length; i++) {
    for (let j = 1; j < part.length; j++) total[i][j] += total[i][j - 1];
    if (!i) continue;
    equal[i] += equal[i - 1];
    for (let j = 0; j < part.length; j++) total[i][j] += total[i - 1][j];
  }
  return { total, equal };
}

function causalAttention(cross, within, shape, tables) {
  const { tokens: n, width, scores, score_scale: beta } = shape;
  const own = within.map((row, i) => row[i]);
  const mean = own.reduce((a, b) => a + b) / n;
  if (scores !== "random") {
    const weights = within.map((row, i) => {
      const powers = row.map((value, j) => (j > i ? 0
        : Math.exp(scores === "uniform" ? 0 : (beta * Math.sqrt(width) * (value - row[i])) / mean)));
      const total = powers.reduce((a, b) => a + b);
      return powers.map((power) => power / total);
    });
    const across = transposed(weights);
    const mass = product(weights, across);
    return [cross, within].map((part) => ({ block: product(product(weights, part), across), mass }));
  }
  const parts = [cross, within].map((part) => {
    const { total, equal } = sums(part);
    const gap = equal.map((value, i) => value / (i + 1) - (total[i][i] - value) / Math.max((i + 1) * i, 1));
    return { part, total, equal, gap };
  });
  const apart = parts[1].gap.map((gap) => Math.max(gap, EPS * mean));
  const found = parts.map(() => ({ block: matrix(n, () => 0), mass: matrix(n, () => 0) }));
  for (let i = 0; i < n; i++) // rows i and j >= i vote together among i + 1 tokens
    for (let j = i; j < n; j++) {
      const size = Math.sqrt(own[i]) * Math.sqrt(own[j]);
      const agreement = tables[i + 1](beta * Math.sqrt(width) * Math.sqrt((apart[i] / mean) * (size / mean)));
      const pairs = Math.max((i + 1) * (j + 1) - (i + 1), 1); // position 0 has no unequal pair
      parts.forEach(({ part, total, equal, gap }, k) => {
        const r = clip(part[i][j] / size, -1, 1) * clip(gap[i] / apart[i], -1, 1);
        const s = ((i + 1) / (j + 1)) * agreement(r);
        const { block, mass } = found[k];
        mass[i][j] = mass[j][i] = s;
        block[i][j] = block[j][i] = (s * equal[i]) / (i + 1) + ((1 - s) * (total[i][j] - equal[i])) / pairs;
      });
    }
  return found;
}

const averages = (part) => {
  const n = part.length;
  const equal = part.reduce((sum, row, i) => sum + row[i], 0);
  const total = part.reduce((sum, row) => sum + row.reduce((a, b) => a + b), 0);
  return [equal / n, (total - equal) / (n * (n - 1))];
};

// As `propagate`: moments averaged over positions, and masses averaged over rows.
function propagateCausal({ rho }, shape, tables) {
  const n = shape.tokens;
  let parts = [rho, 1].map((value) => matrix(n, (i, j) => (i === j ? value : 0)));
  const scaled = ([cross, within]) => {
    if (shape.norm === "none") return [cross, within];
    const size = within.map((row, i) => Math.sqrt(row[i]));
    return [cross, within].map((part) => matrix(n, (i, j) => part[i][j] / (size[i] * size[j])));
  };
  const plus = (old, block) => {
    if (shape.residual === "none") return block;
    const share = shape.residual === "scaled" ? 0.5 : 1;
    return old.map((part, k) => matrix(n, (i, j) => share * (part[i][j] + block[k][i][j])));
  };
  const [states, masses] = [[], []];
  const keep = () => {
    const [[m, o], [q, p]] = parts.map(averages);
    states.push({ m, o, q, p });
  };
  keep();
  for (let k = 0; k < shape.depth; k++) {
    const found = causalAttention(...scaled(parts), shape, tables);
    const [[s, t], [s_a, t_a]] = found.map(({ mass }) => averages(mass));
    masses.push({ s, t, s_a, t_a });
    parts = plus(parts, found.map(({ block }) => matrix(n, (i, j) => shape.gain ** 2 * block[i][j])));
    if (shape.mlp !== "none") {
      const seen = scaled(parts);
      const own = seen[1].map((row, i) => row[i]);
      const block = seen.map((part) => matrix(n, (i, j) => {
        const bound = Math.sqrt(own[i]) * Math.sqrt(own[j]);
        return reluMoment(own[i], own[j], clip(part[i][j], -bound, bound));
      }));
      parts = plus(parts, block);
    }
    keep();
  }
  return { states, masses };
}

// ---------------------------------------------------------------- one random network
const MOST_WIDTH = 128;
const INPUTS = 2; // sequences a network is run on

// A stream of standard Gaussians: draw(count, spread) gives the next ones, in pairs.
function gaussians(seed) {
  const start = mixed(seed);
  let at = 0;
  return (count, spread = 1) => {
    const drawn = new Float64Array(count);
    for (let k = 0; k < count; k += 2) {
      const [one, two] = gaussianPair(start, at++);
      drawn[k] = spread * one;
      drawn[k + 1] = spread * two;
    }
    return drawn;
  };
}

// rows of d numbers times a d by d matrix
function multiply(x, w, d) {
  const found = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += d)
    for (let k = 0; k < d; k++) {
      const value = x[row + k];
      if (value) for (let j = 0, at = k * d; j < d; j++, at++) found[row + j] += value * w[at];
    }
  return found;
}

function rms(h, d, { norm }) {
  if (norm === "none") return h;
  const found = new Float64Array(h.length);
  for (let row = 0; row < h.length; row += d) {
    let sum = 0;
    for (let j = row; j < row + d; j++) sum += h[j] * h[j];
    const size = Math.sqrt(sum / d);
    for (let j = row; j < row + d; j++) found[j] = h[j] / size;
  }
  return found;
}

// Attention weights times the values x, sequence by sequence; w null stands for the identity times `scale`.
function attend(x, w, scale, d, { tokens: n, scores, causal }) {
  const queries = w ? multiply(x, w, d) : x;
  const found = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += n * d) {
    let square = 0;
    for (let j = start; j < start + n * d; j++) square += x[j] * x[j];
    const unit = (Math.sqrt(d) * square) / (n * d) / (w ? 1 : scale);
    for (let i = 0; i < n; i++) {
      const logits = [];
      for (let k = 0; k < (causal ? i + 1 : n); k++) {
        let dot = 0;
        if (scores !== "uniform")
          for (let j = 0; j < d; j++) dot += queries[start + i * d + j] * x[start + k * d + j];
        logits.push(dot / unit);
      }
      const top = Math.max(...logits);
      const powers = logits.map((logit) => Math.exp(logit - top));
      const total = powers.reduce((a, b) => a + b);
      powers.forEach((power, k) => {
        for (let j = 0; j < d; j++) found[start + i * d + j] += (power / total) * x[start + k * d + j];
      });
    }
  }
  return found;
}

// m, o, q, p of the first half of h (the inputs) with the second (their twins).
function measured(h, d, n) {
  const half = h.length / 2;
  let [equal, self, all, own] = [0, 0, 0, 0];
  for (let k = 0; k < half; k++) {
    equal += h[k] * h[half + k];
    self += h[k] * h[k] + h[half + k] * h[half + k];
  }
  for (let start = 0; start < half; start += n * d)
    for (let j = 0; j < d; j++) {
      let [x, y] = [0, 0];
      for (let i = 0; i < n; i++) { x += h[start + i * d + j]; y += h[half + start + i * d + j]; }
      all += x * y;
      own += x * x + y * y;
    }
  const others = half * (n - 1);
  return { m: equal / half, o: (all - equal) / others, q: self / (2 * half), p: (own - self) / (2 * others) };
}

// Draws a network of the shape (at most 128 wide, its scores scaled up so that their spread is that of the full width),
// runs it on inputs and their twins, and measures the moments before the first layer and after each.
function simulate({ rho }, shape, seed) {
  const draw = gaussians(seed);
  const { tokens: n, depth, gain, mlp, residual } = shape;
  const d = Math.min(shape.width, MOST_WIDTH);
  const scale = shape.score_scale * Math.sqrt(shape.width / d);
  const x = draw(INPUTS * n * d);
  const z = draw(INPUTS * n * d);
  let h = new Float64Array(2 * x.length);
  h.set(x);
  h.set(z.map((value, k) => rho * x[k] + Math.sqrt((1 - rho) * (1 + rho)) * value), x.length);
  const plus = (block) => {
    if (residual === "none") return block;
    const share = residual === "scaled" ? Math.sqrt(0.5) : 1;
    return h.map((value, k) => share * (value + block[k]));
  };
  const states = [measured(h, d, n)];
  for (let k = 0; k < depth; k++) {
    const w = shape.scores === "random" ? draw(d * d, scale) : null;
    h = plus(multiply(attend(rms(h, d, shape), w, scale, d, shape), draw(d * d, gain / Math.sqrt(d)), d));
    if (mlp !== "none") {
      const inner = multiply(rms(h, d, shape), draw(d * d, 1 / Math.sqrt(d)), d).map((value) => Math.max(value, 0));
      h = plus(multiply(inner, draw(d * d, Math.sqrt(2 / d)), d));
    }
    states.push(measured(h, d, n));
  }
  return { width: d, states };
}
