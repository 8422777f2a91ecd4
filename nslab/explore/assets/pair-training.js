// A quadratic network learns (a + b) mod p from some of the p² pairs: logits = (A[a] + B[b])² U, full batch, AdamW,
// in double precision. Twin: nslab/explore/pair_training.py. Behind seeded-gaussians.js; live-training.js follows.

const [BETA1, BETA2, EPSILON] = [0.9, 0.98, 1e-8]; // of AdamW
const TABLE_SPREAD = Math.sqrt(1 / 8); // of A and B at the start

// Which pairs are trained on: 1 at row a p + b. As a random set, or so that (a, b) and (b, a) never part.
function trainedPairs({ modulus: p, width: m, fraction, split, seed }) {
  const [rows, start] = [p * p, mixed(seed)];
  const key = Float64Array.from({ length: rows }, (_, row) => gaussianPair(start, 2 * p * m + row)[0]);
  const order = [...key.keys()].sort((one, two) => key[one] - key[two]);
  const count = Math.trunc(fraction * rows);
  const trained = new Uint8Array(rows);
  if (split === "random") for (const row of order.slice(0, count)) trained[row] = 1;
  else {
    let diagonal = Math.floor(fraction * p);
    diagonal += (count - diagonal) % 2; // the rest comes in twos
    const above = order.filter((row) => Math.floor(row / p) < row % p);
    for (const row of order.filter((row) => row % (p + 1) === 0).slice(0, diagonal)) trained[row] = 1;
    for (const row of above.slice(0, (count - diagonal) / 2))
      trained[row] = trained[(row % p) * p + Math.floor(row / p)] = 1;
  }
  return trained;
}

// One training run: step() takes one step of AdamW, measure() looks at all pairs.
function pairTraining(state) {
  const { modulus: p, width: m, learning_rate: rate, weight_decay: decay, seed } = state;
  const trained = trainedPairs(state);
  const rows = [...trained.keys()].filter((row) => trained[row]);
  const start = mixed(seed);
  // p rows of m numbers each, so that every inner loop runs along memory: by first operand, second operand and class.
  const [first, second, output] = [0, 1, 2].map(() => {
    const zeros = () => new Float64Array(p * m);
    return { weights: zeros(), gradient: zeros(), mean: zeros(), square: zeros() };
  });
  for (let i = 0; i < p * m; i++) {
    const [one, two] = gaussianPair(start, i);
    first.weights[i] = TABLE_SPREAD * one;
    second.weights[i] = TABLE_SPREAD * two;
    output.weights[i] = gaussianPair(start, p * m + i)[0] / Math.sqrt(m);
  }
  const [hidden, squares, back] = [0, 1, 2].map(() => new Float64Array(m));
  const chances = new Float64Array(p); // the softmax of the pair at hand
  let [steps, decay1, decay2] = [0, 1, 1]; // powers of the betas

  // hidden, squares and chances of one pair; returns its loss.
  function look(a, b) {
    const [A, B, U] = [first.weights, second.weights, output.weights];
    for (let k = 0, i = a * m, j = b * m; k < m; k++, i++, j++) {
      const sum = A[i] + B[j];
      hidden[k] = sum;
      squares[k] = sum * sum;
    }
    let top = -Infinity;
    for (let c = 0; c < p; c++) {
      let logit = 0;
      for (let k = 0, i = c * m; k < m; k++, i++) logit += squares[k] * U[i];
      chances[c] = logit;
      if (logit > top) top = logit;
    }
    const right = chances[(a + b) % p] - top;
    let total = 0;
    for (let c = 0; c < p; c++) total += chances[c] = Math.exp(chances[c] - top);
    for (let c = 0; c < p; c++) chances[c] /= total;
    return Math.log(total) - right;
  }

  function step() {
    for (const { gradient } of [first, second, output]) gradient.fill(0);
    const [GA, GB, GU, U] = [first.gradient, second.gradient, output.gradient, output.weights];
    for (const row of rows) {
      const [a, b] = [Math.floor(row / p), row % p];
      look(a, b);
      back.fill(0);
      for (let c = 0; c < p; c++) {
        const slope = (chances[c] - (c === (a + b) % p ? 1 : 0)) / rows.length;
        for (let k = 0, i = c * m; k < m; k++, i++) {
          GU[i] += slope * squares[k];
          back[k] += slope * U[i];
        }
      }
      for (let k = 0, i = a * m, j = b * m; k < m; k++, i++, j++) {
        const slope = 2 * hidden[k] * back[k];
        GA[i] += slope;
        GB[j] += slope;
      }
    }
    steps++;
    decay1 *= BETA1;
    decay2 *= BETA2;
    const [size, root] = [rate / (1 - decay1), Math.sqrt(1 - decay2)];
    for (const { weights, gradient, mean, square } of [first, second, output])
      for (let i = 0; i < p * m; i++) {
        mean[i] = BETA1 * mean[i] + (1 - BETA1) * gradient[i];
        square[i] = BETA2 * square[i] + (1 - BETA2) * gradient[i] * gradient[i];
        weights[i] = (1 - rate * decay) * weights[i] - (size * mean[i]) / (Math.sqrt(square[i]) / root + EPSILON);
      }
  }

  function measure() {
    const right = new Uint8Array(p * p);
    const table = new Float64Array(p * p * p); // the softmax by a, b and class
    let loss = 0;
    for (let row = 0; row < p * p; row++) {
      const [a, b] = [Math.floor(row / p), row % p];
      const own = look(a, b);
      if (trained[row]) loss += own / rows.length;
      table.set(chances, row * p);
      right[row] = chances.indexOf(Math.max(...chances)) === (a + b) % p ? 1 : 0;
    }
    const count = (of) => right.reduce((sum, value, row) => sum + (value && trained[row] === of ? 1 : 0), 0);
    return {
      step: steps, e_foldings: steps * rate * decay, train_loss: loss,
      train_accuracy: count(1) / rows.length, test_accuracy: count(0) / (p * p - rows.length),
      energies: pairEnergies(table, p), trained: [...trained], right: [...right],
    };
  }
  return { step, measure };
}

// Efron-Stein energies of the table of (a, b, class), both operands uniform: constant, first, second, both.
function pairEnergies(table, p) {
  const [byFirst, bySecond] = [new Float64Array(p * p), new Float64Array(p * p)];
  const mean = new Float64Array(p);
  for (let a = 0, i = 0; a < p; a++)
    for (let b = 0; b < p; b++)
      for (let c = 0; c < p; c++, i++) {
        byFirst[a * p + c] += table[i] / p;
        bySecond[b * p + c] += table[i] / p;
        mean[c] += table[i] / (p * p);
      }
  const energies = [0, 0, 0, 0];
  for (let a = 0, i = 0; a < p; a++)
    for (let c = 0; c < p; c++, i++) {
      energies[0] += mean[c] ** 2 / p;
      energies[1] += (byFirst[i] - mean[c]) ** 2 / p;
      energies[2] += (bySecond[i] - mean[c]) ** 2 / p;
    }
  for (let a = 0, i = 0; a < p; a++)
    for (let b = 0; b < p; b++)
      for (let c = 0; c < p; c++, i++)
        energies[3] += (table[i] - byFirst[a * p + c] - bySecond[b * p + c] + mean[c]) ** 2 / (p * p);
  return energies;
}

const energyStability = ([none, one, other, both], keep) => none + keep * (one + other) + keep * keep * both;
const taskEnergies = ({ modulus: p }) => [1 / p, 0, 0, 1 - 1 / p]; // of the one-hot answer: a Latin square
