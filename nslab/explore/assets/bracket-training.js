// A tiny attention network that learns to close brackets, with a barrier on its attention. Gradients are written out.
// seeded-gaussians.js stands before this file. Twin: nslab/explore/bracket_training.py.

const FILLER = 4; // of the symbols ( [ ) ] ·
const [SEQUENCES, LENGTH] = [16, 12];
const [TRAIN_TEXT, OTHER_TEXT, NOISE] = [1000, 1001, 1002]; // seeds that all runs share
const DRAWS = 4; // of noise on the embeddings, when the loss under noise is measured
const NOISE_SIZE = 0.5; // in units of the embeddings' root mean square
const DELTA = 0.05;
const QUANTILES = [0, 0.1, 0.5, 0.9, 1];
const [RATE, BETAS, EPSILON] = [0.02, [0.9, 0.999], 1e-8]; // of Adam

// Sequences of symbols: an opener, one or more fillers, its closer, and again. Two coins decide.
function bracketText(seed) {
  const start = mixed(seed);
  return Array.from({ length: SEQUENCES }, (_, row) => {
    const written = [];
    for (let k = 0; k < LENGTH; k++) {
      const heads = gaussianPair(start, row * LENGTH + k)[0] < 0;
      const last = written[k - 1];
      if (last === undefined || last === 2 || last === 3) written.push(heads ? 0 : 1);
      else if (last === FILLER && !heads) written.push(2 + written.filter((one) => one < 2).pop());
      else written.push(FILLER);
    }
    return written;
  });
}

// What each token attends to in its strict past: weights, mean and covariance, and the block J = I - covariance A.
// Matrices are rows of 2 in a flat list of 4.
function moments(u, a) {
  return u.map((query, i) => {
    const key = [a[0] * query[0] + a[1] * query[1], a[2] * query[0] + a[3] * query[1]]; // A u_i
    const scores = [];
    for (let s = 0; s < i; s++) scores.push(u[s][0] * key[0] + u[s][1] * key[1]);
    const top = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - top));
    const sum = powers.reduce((x, y) => x + y, 0);
    const weights = powers.map((power) => power / sum);
    const mean = [0, 0];
    weights.forEach((w, s) => { mean[0] += w * u[s][0]; mean[1] += w * u[s][1]; });
    let [xx, xy, yy] = [0, 0, 0];
    weights.forEach((w, s) => {
      const [x, y] = [u[s][0] - mean[0], u[s][1] - mean[1]];
      xx += w * x * x;
      xy += w * x * y;
      yy += w * y * y;
    });
    const block = [1 - xx * a[0] - xy * a[2], -xx * a[1] - xy * a[3], -xy * a[0] - yy * a[2],
      1 - xy * a[1] - yy * a[3]];
    return { key, weights, mean, covariance: [xx, xy, yy], block, det: block[0] * block[3] - block[1] * block[2] };
  });
}

// Slopes by mean and by covariance (xx, xy and yx alike, yy) of each token, back to the embeddings and to A.
function backward(u, a, found, slopes, toU, toA) {
  found.forEach(({ key, weights, mean }, i) => {
    const { mean: [m0, m1], covariance: [xx, xy, yy] } = slopes[i];
    const back = [0, 0]; // to A u_i
    const grown = weights.map((_, s) => { // by the weight of s
      const [x, y] = [u[s][0] - mean[0], u[s][1] - mean[1]];
      return xx * x * x + 2 * xy * x * y + yy * y * y + m0 * u[s][0] + m1 * u[s][1];
    });
    const average = grown.reduce((sum, each, s) => sum + weights[s] * each, 0);
    weights.forEach((w, s) => {
      const [x, y] = [u[s][0] - mean[0], u[s][1] - mean[1]];
      const score = w * (grown[s] - average);
      toU[s][0] += w * (2 * (xx * x + xy * y) + m0) + score * key[0];
      toU[s][1] += w * (2 * (xy * x + yy * y) + m1) + score * key[1];
      back[0] += score * u[s][0];
      back[1] += score * u[s][1];
    });
    const [x, y] = u[i];
    toA[0] += back[0] * x;
    toA[1] += back[0] * y;
    toA[2] += back[1] * x;
    toA[3] += back[1] * y;
    toU[i][0] += a[0] * back[0] + a[2] * back[1];
    toU[i][1] += a[1] * back[0] + a[3] * back[1];
  });
}

// Slope of the wall of an arm by the determinant.
function wallSlope(arm, det) {
  if (arm === "residual") return 0;
  if (arm !== "hinge" || det > DELTA) return arm === "hinge" && det >= 1 ? 0 : -1 / det;
  return -1 / DELTA;
}

// Chances of the next symbol after [u; mean], by readout and offset.
function chancesOf({ readout, offset }, [x, y], [p, q]) {
  const logits = offset.map((c, k) =>
    readout[4 * k] * x + readout[4 * k + 1] * y + readout[4 * k + 2] * p + readout[4 * k + 3] * q + c);
  const top = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

// Cross-entropy in nats of the next symbols, in the mean over all positions but the last of each sequence.
function crossEntropy(weights, sequences, text) {
  let sum = 0;
  sequences.forEach((u, row) => moments(u, weights.scores).forEach(({ mean }, i) => {
    if (i < LENGTH - 1) sum -= Math.log(chancesOf(weights, u[i], mean)[text[row % SEQUENCES][i + 1]]);
  }));
  return sum / (sequences.length * (LENGTH - 1));
}

function quantile(sorted, share) {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

// One run of {arm, strength, place, seed}: `step()` takes a step of Adam, `measure()` says what the network is.
function bracketTraining({ arm, strength, place, seed }) {
  const start = mixed(seed);
  const [text, other] = [bracketText(TRAIN_TEXT), bracketText(OTHER_TEXT)];
  const drawn = (from, count, spread) =>
    Array.from({ length: count }, (_, k) => spread * gaussianPair(start, from + k)[0]);
  const weights = { embeddings: drawn(0, 10, 1), scores: drawn(10, 4, 0.3), readout: drawn(14, 20, 0.5),
    prior: drawn(34, 4, 0.3), offset: [0, 0, 0, 0, 0] };
  const watched = place === "prior" ? "prior" : "scores";
  const like = (value) => Object.fromEntries(Object.entries(weights).map(([key, w]) => [key, w.map(() => value)]));
  const [means, squares] = [like(0), like(0)];
  const embed = (symbols) => symbols.map((k) => [weights.embeddings[2 * k], weights.embeddings[2 * k + 1]]);
  let steps = 0;

  function gradients() {
    const slopes = like(0);
    for (const symbols of text) {
      const u = embed(symbols);
      const toU = u.map(() => [0, 0]);
      const found = moments(u, weights.scores);
      const none = () => u.map(() => ({ mean: [0, 0], covariance: [0, 0, 0] }));
      const toMoments = none();
      for (let i = 0; i < LENGTH - 1; i++) { // cross-entropy
        const chances = chancesOf(weights, u[i], found[i].mean);
        chances.forEach((chance, k) => {
          const slope = (chance - (k === symbols[i + 1] ? 1 : 0)) / (SEQUENCES * (LENGTH - 1));
          const row = weights.readout.slice(4 * k, 4 * k + 4);
          [...u[i], ...found[i].mean].forEach((value, j) => { slopes.readout[4 * k + j] += slope * value; });
          slopes.offset[k] += slope;
          for (const j of [0, 1]) {
            toU[i][j] += slope * row[j];
            toMoments[i].mean[j] += slope * row[2 + j];
          }
        });
      }
      const own = watched === "scores";
      const seen = own ? found : arm === "none" ? [] : moments(u, weights[watched]);
      const toSeen = own ? toMoments : none();
      const a = weights[watched];
      if (arm !== "none") seen.forEach(({ det, block, mean, covariance: [xx, xy, yy] }, i) => { // the barrier
        const share = strength / (SEQUENCES * LENGTH);
        if (i > 1) { // the first two blocks are the identity
          const slope = share * wallSlope(arm, det);
          const [g0, g1, g2, g3] = [slope * block[3], -slope * block[2], -slope * block[1], slope * block[0]];
          slopes[watched][0] -= xx * g0 + xy * g2;
          slopes[watched][1] -= xx * g1 + xy * g3;
          slopes[watched][2] -= xy * g0 + yy * g2;
          slopes[watched][3] -= xy * g1 + yy * g3;
          const by = [g0 * a[0] + g1 * a[1], g0 * a[2] + g1 * a[3], g2 * a[0] + g3 * a[1], g2 * a[2] + g3 * a[3]];
          toSeen[i].covariance[0] -= by[0];
          toSeen[i].covariance[1] -= (by[1] + by[2]) / 2;
          toSeen[i].covariance[2] -= by[3];
        }
        if (arm === "full" || arm === "residual") for (const j of [0, 1]) { // |u - mean|² / 2
          toU[i][j] += share * (u[i][j] - mean[j]);
          toSeen[i].mean[j] -= share * (u[i][j] - mean[j]);
        }
      });
      if (!own && arm !== "none") backward(u, a, seen, toSeen, toU, slopes[watched]);
      backward(u, weights.scores, found, toMoments, toU, slopes.scores);
      symbols.forEach((k, i) => {
        slopes.embeddings[2 * k] += toU[i][0];
        slopes.embeddings[2 * k + 1] += toU[i][1];
      });
    }
    return slopes;
  }

  function step() {
    const slopes = gradients();
    steps++;
    const [size, root] = [RATE / (1 - BETAS[0] ** steps), Math.sqrt(1 - BETAS[1] ** steps)];
    for (const [key, w] of Object.entries(weights)) w.forEach((_, k) => {
      const slope = slopes[key][k];
      means[key][k] += (1 - BETAS[0]) * (slope - means[key][k]);
      squares[key][k] = BETAS[1] * squares[key][k] + (1 - BETAS[1]) * slope * slope;
      w[k] -= (size * means[key][k]) / (Math.sqrt(squares[key][k]) / root + EPSILON);
    });
  }

  function measure() {
    const clean = other.map(embed);
    const size = Math.sqrt(clean.flat(2).reduce((sum, x) => sum + x * x, 0) / (2 * SEQUENCES * LENGTH));
    const from = mixed(NOISE);
    const noisy = Array.from({ length: DRAWS * SEQUENCES }, (_, row) => clean[row % SEQUENCES].map((u, i) =>
      gaussianPair(from, row * LENGTH + i).map((z, j) => u[j] + NOISE_SIZE * size * z)));
    const a = weights[watched];
    const dets = clean.flatMap((u) => moments(u, a).slice(2).map(({ det }) => det)).sort((x, y) => x - y);
    const [middle, half, across] = [(a[0] + a[3]) / 2, (a[0] - a[3]) / 2, (a[1] + a[2]) / 2];
    const reach = Math.hypot(half, across);
    return {
      step: steps, loss: crossEntropy(weights, clean, other), noisy_loss: crossEntropy(weights, noisy, other),
      quantiles: QUANTILES.map((share) => quantile(dets, share)),
      negative: dets.filter((det) => det < 0).length / dets.length,
      eigenvalues: [middle - reach, middle + reach], size,
      embeddings: Array.from({ length: 5 }, (_, k) => [weights.embeddings[2 * k], weights.embeddings[2 * k + 1]]),
    };
  }
  return { step, measure };
}
