// n tokens vote for themselves with scores, once on an input and once on its noisy twin: how often does the same one
// win? Vote j of a seed is a pure function. Twin of `compute`: nslab/explore/plurality.py. Joined after
// seeded-gaussians.js.

const STEPS = 60; // of a curve

const best = (scores) => scores.reduce((top, score, k) => (score > scores[top] ? k : top), 0);
const kappa = (spread) => (spread === null ? 1 : (spread * spread) / (spread * spread + 1.5));

// Softmax of the scores times the spread; all on the winner if the spread is infinite (null).
function weigh(scores, spread) {
  const top = best(scores);
  if (spread === null) return scores.map((_, k) => (k === top ? 1 : 0));
  const powers = scores.map((score) => Math.exp(spread * (score - scores[top])));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function vote({ tokens, spread, seed }, r, number) {
  const start = mixed(seed);
  const pairs = Array.from({ length: tokens }, (_, k) => gaussianPair(start, number * tokens + k));
  const scores = pairs.map(([u]) => u);
  const scoresOfTwin = pairs.map(([u, z]) => r * u + Math.sqrt(1 - r * r) * z);
  const weights = weigh(scores, spread);
  const weightsOfTwin = weigh(scoresOfTwin, spread);
  return {
    scores, weights, winner: best(scores) + 1,
    scores_of_twin: scoresOfTwin, weights_of_twin: weightsOfTwin, winner_of_twin: best(scoresOfTwin) + 1,
    overlap: weights.reduce((sum, weight, k) => sum + weight * weightsOfTwin[k], 0),
  };
}

// The Chebyshev series of the exact agreement at correlation r (Clenshaw).
function evaluate(series, r, spread) {
  const x = (2 * Math.asin(kappa(spread) * r)) / Math.asin(kappa(spread)) - 1;
  let [next, after] = [0, 0];
  for (let k = series.length - 1; k > 0; k--) [next, after] = [series[k] + 2 * x * next - after, next];
  return series[0] + x * next - after;
}

// {rho, tokens, spread, seed, votes, token_counts, spreads, series} -> the last vote, the tally, the exact agreement.
export function compute(state) {
  const { rho, tokens, spread, votes, token_counts: counts, spreads } = state;
  const r = rho * rho;
  const series = state.series[spreads.indexOf(spread)];
  const overlaps = [];
  let agreements = 0;
  let last = votes ? null : vote(state, r, 0); // a trial, shown while nothing is counted
  for (let number = 1; number <= votes; number++) {
    last = vote(state, r, number);
    overlaps.push(last.overlap);
    if (last.winner === last.winner_of_twin) agreements++;
  }
  const mean = votes ? overlaps.reduce((a, b) => a + b, 0) / votes : null;
  const varied = overlaps.some((each) => each !== overlaps[0]);
  const squares = overlaps.reduce((sum, each) => sum + (each - mean) ** 2, 0);
  const grid = Array.from({ length: STEPS + 1 }, (_, i) => Math.sin((i * Math.PI) / (2 * STEPS)) ** 2);
  return {
    correlation: r,
    exact: evaluate(series[counts.indexOf(tokens)], r, spread),
    votes, agreements, mean,
    error: varied ? Math.sqrt(squares / (votes - 1) / votes) : null,
    ...last,
    curves: series.map((each) => grid.map((value) => evaluate(each, value, spread))),
  };
}

// ---------------------------------------------------------------- drawing
const MOST = 5000; // votes at one setting
const three = (value) => value.toFixed(3);
const exactly = ({ tokens, spread }, { correlation, exact }) =>
  `${spread === null ? "A" : "G"}<sub>${tokens}</sub>(${+correlation.toFixed(4)}${
    spread === null ? "" : `, τ = ${spread}`}) = ${three(exact)}`;

// What just happened, in one sentence: read out, and shown.
function sentence(state, result) {
  const { votes, agreements, winner, winner_of_twin: other, mean, error, exact } = result;
  const winners = winner === other ? `token ${winner} wins both times`
    : `token ${winner} wins, in the twin token ${other}`;
  const truth = `exactly ${exactly(state, result)}`;
  if (!votes) return `Press <b>One vote</b> or <b>100 votes</b> to start counting. Shown below is only a trial: ${
    winners}; ${truth}.`;
  const many = `${votes} vote${votes > 1 ? "s" : ""}`;
  const told = state.spread === null ? `${agreements} of ${many} agree${votes > 1 ? "" : "s"}`
    : `mean overlap of ${many} ${error === null ? three(mean) : ""}`.trim();
  const missing = votes > 1 ? "all alike, which gives no error bar" : "too few for an error bar";
  if (error === null) return `Vote ${votes}: ${winners}; ${told}, ${missing}; ${truth}.`;
  const gap = Math.abs(mean - exact) / error;
  return `Vote ${votes}: ${winners}; ${told}${state.spread === null ? "," : ""} ${three(mean)} ± ${three(error)}; ${
    truth}, ${gap.toFixed(1)} standard errors away.`;
}

const line = (x1, y1, x2, y2, rest) => `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" ${rest}/>`;
const text = (x, y, content, rest = "") => `<text x="${x}" y="${y}" ${rest}>${content}</text>`;
const tall = (x, y, content) =>
  text(0, 0, content, `text-anchor="middle" transform="translate(${x} ${y}) rotate(-90)"`);
const svg = (width, height, label, content) => `<svg role="img" aria-label="${label}" width="${width}"
  height="${height}" viewBox="0 0 ${width} ${height}">${content}</svg>`;

const tallness = (width) => Math.round(Math.min(300, 150 + width / 2.5)); // of both pictures

// The scores of both votes, the input's above its twin's, and the tokens' numbers below.
function ballots(state, result, width) {
  const { tokens } = state;
  const height = tallness(width);
  const [left, up, down, crown, foot] = [44, 3.5, 3, 14, 22]; // up and down in standard deviations
  const unit = (height - foot - 2 * crown) / (2 * (up + down));
  const step = (width - left) / tokens;
  const column = (k) => left + step * (k + 0.5);
  let marks = "";
  if (result.winner === result.winner_of_twin) marks += `<rect class="ns-vote-same"
    x="${column(result.winner - 1) - Math.max(step, 12) / 2}" y="0" width="${Math.max(step, 12)}" height="${height}"/>`;
  const rows = [["input", result.scores, result.weights, result.winner],
    ["noisy twin", result.scores_of_twin, result.weights_of_twin, result.winner_of_twin]];
  rows.forEach(([name, scores, weights, winner], row) => {
    const zero = (row + 1) * (crown + up * unit) + row * down * unit;
    const y = (score) => zero - unit * Math.max(-down, Math.min(up, score));
    for (const tick of [-2, 0, 2]) {
      marks += line(left, y(tick), width, y(tick), `class="${tick ? "ns-gridline" : "ns-axis"}"`);
      marks += text(left - 6, y(tick) + 4, String(tick).replace("-", "−"), `text-anchor="end"`);
    }
    marks += tall(12, zero, name);
    scores.forEach((score, k) => {
      const [from, to] = [y(Math.max(0, score)), y(Math.min(0, score))];
      const thick = Math.min(step * 0.72, 30);
      marks += `<rect class="ns-vote-bar" x="${(column(k) - thick / 2).toFixed(1)}" y="${from.toFixed(1)}"
        width="${thick.toFixed(1)}" height="${(to - from).toFixed(1)}" fill-opacity="${
        (0.1 + 0.9 * weights[k]).toFixed(3)}"><title>token ${k + 1}: score ${score.toFixed(2).replace("-", "−")
        }, share ${three(weights[k])}</title></rect>`;
    });
    marks += `<path class="ns-vote-crown" d="M-7 0V-8L-3.5 -4L0 -11L3.5 -4L7 -8V0Z" transform="translate(${
      column(winner - 1).toFixed(1)} ${(y(Math.max(0, scores[winner - 1])) - 3).toFixed(1)})"/>`;
  });
  marks += text(left - 6, height - 6, "token", `text-anchor="end"`);
  const every = [1, 2, 4, 8, 16].find((each) => each * step >= 18) ?? 32;
  for (let k = every - 1; k < tokens; k += every) marks += text(column(k), height - 6, k + 1, `text-anchor="middle"`);
  const told = rows.map(([name, scores, , winner]) => `in the ${name} token ${winner} wins with score ${
    scores[winner - 1].toFixed(2).replace("-", "−")}`);
  return svg(width, height, `Scores of ${tokens} tokens: ${told.join(", ")}`, marks);
}

// The exact agreement against rho for every n, and what the reader has measured.
function plot(state, result, points, width) {
  const height = tallness(width);
  const [left, right, top, bottom] = [46, 8, 8, 42];
  const x = (rho) => +(left + rho * (width - left - right)).toFixed(1);
  const y = (value) => +(height - bottom - value * (height - top - bottom)).toFixed(1);
  let marks = "";
  for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    marks += line(x(tick), y(0), x(tick), y(1), `class="ns-gridline"`) + line(x(0), y(tick), x(1), y(tick),
      `class="ns-gridline"`) + text(x(tick), y(0) + 17, tick, `text-anchor="middle"`);
    marks += text(left - 6, y(tick) + 4, tick, `text-anchor="end"`);
  }
  marks += `<path class="ns-axis" fill="none" d="M${x(0)} ${y(1)}V${y(0)}H${x(1)}"/>`;
  marks += text((x(0) + x(1)) / 2, height - 6, "input correlation ρ", `text-anchor="middle"`);
  marks += tall(12, (y(0) + y(1)) / 2, state.spread === null ? "agreement" : "overlap");
  marks += line(x(state.rho), y(0), x(state.rho), y(1), `class="ns-vote-here"`);
  const here = state.token_counts.indexOf(state.tokens);
  const order = [...result.curves.keys()].sort((a, b) => (a === here) - (b === here)); // the chosen n on top
  const rho = (i) => Math.sin((i * Math.PI) / (2 * STEPS));
  const names = result.curves.map((curve, j) => { // each stands in a gap of its curve, further right for larger n
    const name = (j ? "" : "n = ") + state.token_counts[j];
    const at = 5 + Math.round((19 * j) / Math.max(1, order.length - 1));
    return { name, at, height: y(curve[at]), reach: name.length > 2 || at > 20 ? 2 : 1 }; // steps shorten to the right
  });
  for (const j of order) {
    const hidden = (i, value) => names.some(({ at, height, reach }) =>
      Math.abs(i - at) < reach && Math.abs(y(value) - height) < 5);
    const path = result.curves[j].map((value, i, all) => (hidden(i, value) ? ""
      : `${i && !hidden(i - 1, all[i - 1]) ? "L" : "M"}${x(rho(i))} ${y(value)}`)).join("");
    const { name, at, height, reach } = names[j];
    const chosen = j === here ? " ns-vote-chosen" : "";
    marks += `<path class="ns-vote-curve${chosen}" d="${path}"/>`;
    marks += text((x(rho(at - reach)) + x(rho(at + reach))) / 2, Math.min(height + 4, y(0) - 2), name,
      `class="ns-vote-name${chosen}" text-anchor="middle"`);
  }
  const shown = points.filter(({ setting, tally }) => tally && setting.spread === state.spread);
  shown.sort((a, b) => (a.setting.tokens === state.tokens) - (b.setting.tokens === state.tokens));
  const told = [];
  for (const { setting, tally } of shown) {
    const at = x(setting.rho);
    const own = setting.tokens === state.tokens;
    const name = own ? "ns-vote-point" : "ns-vote-point ns-vote-other";
    const error = tally.error ?? 0;
    const [high, foot] = [y(Math.min(1, tally.mean + error)), y(Math.max(0, tally.mean - error))];
    const bar = line(at, high, at, foot, "") + [high, foot].map((end) => line(at - 4, end, at + 4, end, "")).join("");
    marks += `<g class="${name}"><title>ρ = ${setting.rho}, n = ${setting.tokens}, ${tally.votes} votes</title>` +
      (error ? bar : "") + `<circle cx="${at}" cy="${y(tally.mean)}" r="4"/></g>`;
    if (own) told.push(`${three(tally.mean)} at ρ = ${setting.rho}`);
  }
  const curve = result.curves[here];
  return svg(width, height, `Agreement of ${state.tokens} tokens against ρ: the exact curve rises from ${
    three(curve[0])} at 0 to ${three(curve[STEPS])} at 1. ${told.length ? `Measured: ${told.join(", ")}.`
    : "Nothing measured yet."}`, marks);
}

const STYLE = `<style>
.ns-module .ns-vote-sliders { display: flex; flex-wrap: wrap; gap: 0.4rem 1.4rem; margin-bottom: 0.4rem; }
.ns-module .ns-vote-sliders label { flex: 1 1 11rem; display: block; margin: 0; }
.ns-module .ns-vote-sliders input { display: block; width: 100%; border: 0; padding: 0; accent-color: var(--ns-c1); }
.ns-module .ns-vote-sliders span { display: block; font-variant-numeric: tabular-nums; }
.ns-module .ns-stage .ns-vote-said { /* room for two lines */
  line-height: 1.4; min-height: 2.8em; margin: 0.6rem 0 0.2rem; font-variant-numeric: tabular-nums;
}
.ns-module .ns-vote-said sub { font-size: 0.8em; line-height: 0; bottom: auto; vertical-align: -0.3em; }
.ns-module .ns-vote-panels { display: flex; flex-wrap: wrap; align-items: flex-end; gap: 0.7rem 1.6rem; }
.ns-module .ns-vote-panels > div { flex: 1 1 17rem; min-width: 0; }
.ns-module .ns-stage .ns-vote-panels .ns-caption { margin: 0.2rem 0 0.4rem; }
@media (max-width: 40rem) {
  .ns-module .ns-vote-sliders label { display: grid; grid-template-columns: auto 1fr; column-gap: 0.6rem; }
  .ns-module .ns-vote-sliders input { grid-area: 2 / 1 / 3 / 3; }
  .ns-module .ns-vote-sliders span { text-align: right; }
  .ns-module .ns-stage .ns-vote-said { min-height: 4.2em; font-size: 0.94em; } /* three */
}
@media (max-width: 24rem) { .ns-module .ns-stage .ns-vote-said { min-height: 5.6em; } } /* four */
.ns-vote-bar { fill: var(--ns-c1); stroke: var(--ns-c1); }
.ns-vote-crown { fill: var(--ns-c2); }
.ns-vote-same { fill: var(--ns-c3); fill-opacity: 0.28; }
.ns-vote-curve { fill: none; stroke: var(--ns-quiet); stroke-width: 1; }
.ns-vote-curve.ns-vote-chosen { stroke: var(--ns-c1); stroke-width: 3; }
.ns-module svg .ns-vote-name { font-size: 11px; }
.ns-module svg .ns-vote-name.ns-vote-chosen { font-weight: bold; }
.ns-vote-here { stroke: currentColor; stroke-dasharray: 2 4; }
.ns-vote-point { stroke: var(--ns-c2); fill: var(--ns-c2); stroke-width: 2; }
.ns-vote-other { stroke: var(--ns-quiet); fill: none; stroke-width: 1.2; }
</style>`;
const swatch = (content, name) =>
  `<span class="ns-key"><svg width="30" height="14" aria-hidden="true">${content}</svg>${name}</span>`;

export function render({ el, state, compute }) {
  const sliders = {
    rho: { name: "Input correlation ρ", max: 100, at: Math.round(100 * state.rho) },
    tokens: { name: "Tokens n", max: state.token_counts.length - 1, at: state.token_counts.indexOf(state.tokens) },
    spread: { name: "Spread τ of the softmax", max: state.spreads.length - 1,
      at: state.spreads.indexOf(state.spread) },
  };
  el.innerHTML = `${STYLE}<div class="ns-vote-sliders">${Object.entries(sliders).map(([key, { name, max, at }]) =>
    `<label>${name}<input type="range" min="0" max="${max}" value="${at}" data-part="${key}"><span aria-hidden="true">
    </span></label>`).join("")}</div><div class="ns-inputs"><button type="button">One vote</button>
    <button type="button">100 votes</button><button type="button">Start again</button></div>
    <p class="ns-vote-said" role="status"></p>
    <div class="ns-vote-panels"><div><p class="ns-caption"></p><div></div></div>
    <div><p class="ns-caption"></p><div></div></div></div>`;
  const inputs = Object.fromEntries([...el.querySelectorAll("input")].map((input) => [input.dataset.part, input]));
  const [one, hundred, again] = el.querySelectorAll("button");
  const said = el.querySelector(".ns-vote-said");
  const [[captionLeft, left], [captionRight, right]] = [...el.querySelectorAll(".ns-vote-panels > div")]
    .map((panel) => panel.children);
  let points = []; // every setting at which votes were counted, with a seed of its own
  let seed = state.seed;

  const same = (a, b) => ["rho", "tokens", "spread"].every((key) => a[key] === b[key]);
  function chosen() {
    const setting = { rho: inputs.rho.value / 100, tokens: state.token_counts[inputs.tokens.value],
      spread: state.spreads[inputs.spread.value] };
    return points.find((point) => same(point.setting, setting)) ?? { setting, seed, votes: 0 };
  }
  function update() {
    const point = chosen();
    const now = { ...state, ...point.setting, seed: point.seed, votes: point.votes };
    const result = compute(now);
    if (point.votes) point.tally = { mean: result.mean, error: result.error, votes: point.votes };
    const hard = now.spread === null;
    const values = { rho: `${now.rho.toFixed(2)}; of scores ρ² = ${+result.correlation.toFixed(4)}`,
      tokens: now.tokens, spread: hard ? "∞, a hard vote" : now.spread };
    for (const [key, value] of Object.entries(values)) {
      inputs[key].setAttribute("aria-valuetext", value);
      inputs[key].nextElementSibling.textContent = value;
    }
    one.disabled = hundred.disabled = point.votes >= MOST;
    said.innerHTML = sentence(now, result);
    captionLeft.textContent = hard ? "Scores, in standard deviations: the highest wins."
      : "Scores: the fuller the colour, the larger the share.";
    left.innerHTML = ballots(now, result, Math.max(240, Math.min(left.clientWidth, 560)));
    captionRight.innerHTML = swatch(`<path class="ns-vote-curve ns-vote-chosen" d="M2 7H28"/>`, "exact") +
      swatch(`<g class="ns-vote-point"><path d="M15 0V14M11 1H19M11 13H19"/><circle cx="15" cy="7" r="4"/></g>`,
        "measured ± standard error");
    right.innerHTML = plot(now, result, points, Math.max(240, Math.min(right.clientWidth, 560)));
  }
  function count(more) {
    const point = chosen();
    if (!point.votes) {
      point.seed = seed + 1 + points.length;
      points.push(point);
    }
    point.votes = Math.min(point.votes + more, MOST);
    update();
  }
  one.onclick = () => count(1);
  hundred.onclick = () => count(100);
  again.onclick = () => {
    seed = (seed + points.length + 1) % 2 ** 31;
    points = [];
    update();
  };
  for (const input of Object.values(inputs)) input.oninput = update;
  update();
  let width = el.clientWidth;
  new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; update(); } }).observe(el);
}
