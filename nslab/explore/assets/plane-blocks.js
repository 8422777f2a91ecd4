// Attention over points of the plane: moments, the block J = I - Sigma A, where it is singular. For token-plane.js.

const REACH = 3; // the plane shown is a square from -REACH to REACH
const ALIKE = 1e-3; // closer singular values have no direction of their own
const SINGULAR = 1e-9; // a smaller one is 0

const dot = ([a, b], [c, d]) => a * c + b * d;
const product = ([[a, b], [c, d]], [[e, f], [g, h]]) => [[a * e + b * g, a * f + b * h], [c * e + d * g, c * f + d * h]];
const apply = ([first, second], vector) => [dot(first, vector), dot(second, vector)];
const transposed = ([[a, b], [c, d]]) => [[a, c], [b, d]];
const determinant = ([[a, b], [c, d]]) => a * d - b * c;
const less = ([a, b], [c, d]) => [a - c, b - d];

// Attention of a query over the past: weights, mean and covariance.
function attend(past, query, scores) {
  const asked = apply(scores, query);
  const logits = past.map((token) => dot(token, asked));
  const top = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  const weights = powers.map((power) => power / sum);
  const mean = [0, 1].map((k) => past.reduce((total, token, s) => total + weights[s] * token[k], 0));
  let [xx, xy, yy] = [0, 0, 0];
  past.forEach((token, s) => {
    const [x, y] = less(token, mean);
    xx += weights[s] * x * x;
    xy += weights[s] * x * y;
    yy += weights[s] * y * y;
  });
  return { weights, mean, covariance: [[xx, xy], [xy, yy]] };
}

function blockOf(covariance, scores) {
  const [[a, b], [c, d]] = product(covariance, scores);
  return [[1 - a, -b], [-c, 1 - d]];
}

// Singular values, large and small, and the direction that the matrix shrinks most.
function singular(block) {
  const [[a, b], [c, d]] = block;
  const [p, q] = [Math.hypot(a + d, c - b), Math.hypot(a - d, b + c)]; // sum and difference of the two, in some order
  const large = (p + q) / 2;
  const small = large ? Math.abs(determinant(block)) / large : 0;
  if (Math.min(p, q) <= ALIKE) return { small, direction: null };
  const angle = Math.atan2(2 * (a * b + c * d), a * a + c * c - b * b - d * d) / 2 + Math.PI / 2;
  let direction = [Math.cos(angle), Math.sin(angle)];
  const main = Math.abs(direction[0]) >= Math.abs(direction[1]) ? direction[0] : direction[1];
  if (main < 0) direction = direction.map((value) => -value);
  return { small, direction };
}

// Two tokens: the street between the hyperplanes normal·u = ±offset.
function streetOf([first, second], scores) {
  const delta = less(first, second);
  const normal = apply(transposed(scores), delta);
  const kappa = dot(delta, apply(scores, delta));
  if (kappa <= 4) return { kappa, normal, offset: null, width: null };
  const offset = 2 * Math.acosh(Math.sqrt(kappa) / 2);
  return { kappa, normal, offset, width: (2 * offset) / Math.hypot(...normal) };
}

// The curve det J = 0 as short lines: marching squares.
function contour(values, x, y) {
  const grid = values.length;
  const place = (k) => (2 * REACH * k) / (grid - 1) - REACH;
  let path = "";
  for (let j = 0; j + 1 < grid; j++) for (let i = 0; i + 1 < grid; i++) {
    const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
    const at = corners.map(([p, q]) => values[q][p]);
    const cuts = [];
    for (let k = 0; k < 4; k++) {
      const [from, to] = [at[k], at[(k + 1) % 4]];
      if (from < 0 === to < 0) continue;
      const [[p, q], [r, s]] = [corners[k], corners[(k + 1) % 4]];
      const share = from / (from - to);
      cuts.push(`${x(place(p + share * (r - p))).toFixed(1)} ${y(place(q + share * (s - q))).toFixed(1)}`);
    }
    for (let k = 0; k + 1 < cuts.length; k += 2) path += `M${cuts[k]}L${cuts[k + 1]}`;
  }
  return path;
}
