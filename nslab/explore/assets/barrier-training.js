// Train a tiny attention network in the page, with a barrier or without, and watch loss, determinants and A.
// seeded-gaussians.js, small-plots.js and bracket-training.js stand before this file. Twin of `compute`:
// nslab/explore/training_with_barrier.py.

// A setting and a number of steps -> what the network is after them.
export function compute(state) {
  const training = bracketTraining(state);
  for (let k = 0; k < state.steps; k++) training.step();
  return training.measure();
}

// ---------------------------------------------------------------- pictures
const MOST = 600; // steps of a run
const EACH = 6; // steps between two frames
const SYMBOLS = ["(", "[", ")", "]", "·"];
const ARMS = { none: "no barrier", "margin-only": "margin-only", full: "full prior", residual: "residual only",
  hinge: "hinge" };
const PLACES = { prior: "its own stage", model: "the model" };
const DASHES = ["6 2", "2 2", "9 3 2 3", "14 4"]; // of the earlier runs, the last first: all five arms fit
const ENDS = [-30, 3000]; // of the determinants that are drawn
const scaled = (det) => Math.asinh(4 * Math.max(ENDS[0], Math.min(ENDS[1], det))); // linear near 0, else logarithmic
const number = (value) => minus(value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) < 10 ? 2 : 1));
const named = ({ arm, strength, place, seed }) => (arm === "none" ? [ARMS.none, `watched: ${PLACES[place]}`]
  : [ARMS[arm], `λ ${strength}`, `on ${PLACES[place]}`]).concat(`seed ${seed}`);
const told = ({ arm, strength, place, seed }) => `${ARMS[arm]}${arm === "none" ? "" : ` ${strength}`}${
  place === "model" ? ", model" : ""}, ${seed}`;

const curve = (points, value, place, top = Infinity) =>
  path(points.map((point) => [point.step, Math.min(top, value(point))]), place);

function lossPlot(run, earlier, width) {
  const place = axes({ width, height: 210, spans: [[0, MOST], [0.4, 2.2]], names: ["step", "loss, nats"],
    ticks: [[0, 200, 400, 600], [0.5, 1, 1.5, 2]] });
  let { marks } = place;
  earlier.forEach((old, k) => {
    for (const key of ["loss", "noisy_loss"]) marks += `<path class="ns-bt-old" stroke-dasharray="${DASHES[k]}" d="${
      curve(old.points, (point) => point[key], place, 2.2)}"/>`;
  });
  marks += `<path class="ns-bt-noisy" d="${curve(run.points, (point) => point.noisy_loss, place, 2.2)}"/>` +
    `<path class="ns-bt-loss" d="${curve(run.points, (point) => point.loss, place, 2.2)}"/>`;
  return svg(width, 210, `Loss on other sequences against the step: ${number(run.now.loss)} at step ${
    run.now.step}, under noise ${number(run.now.noisy_loss)}.`, marks);
}

function detPlot({ points, now }, width) {
  const ticks = [-10, -1, 0, 1, 10, 100, 1000];
  const place = axes({ width, height: 230, left: 54, spans: [[0, MOST], ENDS.map(scaled)],
    names: ["step", "det of the blocks"], ticks: [[0, 200, 400, 600], ticks.map((det) => [scaled(det), minus(det)])] });
  const { x, y } = place;
  const at = (k) => points.map((point) => [point.step, scaled(point.quantiles[k])]);
  const band = [...at(1), ...at(3).reverse()].map(([step, det]) => `${x(step)} ${y(det)}`).join("L");
  let marks = place.marks + line(x(0), y(0), x(MOST), y(0), `class="ns-bt-zero"`) +
    line(x(0), y(scaled(1)), x(MOST), y(scaled(1)), `class="ns-bt-one"`) + `<path class="ns-bt-band" d="M${band}Z"/>`;
  for (const [k, name] of [[0, "least"], [4, "most"], [2, "median"]])
    marks += `<path class="ns-bt-${name}" d="${path(at(k), place)}"/>`;
  const [least, low, median, high, most] = now.quantiles.map(number);
  return svg(width, 230, `Quantiles of the determinants at step ${now.step}: least ${least}, one tenth ${low}, median ${
    median}, nine tenths ${high}, greatest ${most}.`, marks);
}

function eigenPlot({ points, now }, width) {
  const place = axes({ width, height: 180, spans: [[0, MOST], [-12, 8]], names: ["step", "eigenvalues of A"],
    ticks: [[0, 200, 400, 600], [-10, -5, 0, 5]] });
  let marks = place.marks + line(place.x(0), place.y(0), place.x(MOST), place.y(0), `class="ns-bt-zero"`);
  for (const k of [0, 1]) marks += `<path class="ns-bt-eigen" d="${path(points.map(({ step, eigenvalues }) =>
    [step, Math.max(-12, Math.min(8, eigenvalues[k]))]), place)}"/>`;
  return svg(width, 180, `Eigenvalues of the symmetric part of A at step ${now.step}: ${
    now.eigenvalues.map(number).join(" and ")}.`, marks);
}

function plane({ now }, width) {
  const side = Math.min(width, 250);
  const place = axes({ width: side, height: side, spans: [[-6, 6], [-6, 6]], ticks: [[-5, 0, 5], [-5, 0, 5]],
    names: ["first coordinate", "second"] });
  const { x, y } = place;
  const inside = (value) => Math.max(-5.8, Math.min(5.8, value));
  const marks = now.embeddings.map(([a, b], k) => `<circle class="ns-bt-symbol" cx="${x(inside(a))}" cy="${
    y(inside(b))}" r="10"/>` + text(x(inside(a)), y(inside(b)) + 4.5, SYMBOLS[k], `text-anchor="middle"
    class="ns-bt-name"`)).join("");
  return svg(side, side, `Embeddings of the five symbols, root mean square ${number(now.size)}: ${now.embeddings.map(
    ([a, b], k) => `${SYMBOLS[k]} at ${number(a)}, ${number(b)}`).join("; ")}.`, place.marks + marks);
}

function runsTable(runs) {
  const rows = runs.map(({ setting, now }, k) => {
    const own = k ? `<path class="ns-bt-old" stroke-dasharray="${DASHES[k - 1]}" d="M1 7H29"/>`
      : `<path class="ns-bt-loss" d="M1 7H29"/>`;
    const cells = [now.loss.toFixed(3), now.noisy_loss.toFixed(2), number(now.quantiles[0]), number(now.quantiles[2]),
      now.eigenvalues.map(number).join(", "), number(now.size)];
    return `<tr><th scope="row"><svg width="30" height="14" aria-hidden="true">${own}</svg>${told(setting)}</th><td>${
      now.step}</td>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
  });
  const head = ["step", "loss", "noisy", "least det", "median", "eigenvalues", "size of u"];
  return `<div class="ns-bt-runs" role="region" aria-label="Runs" tabindex="0"><table class="ns-barrier-table"><thead>
    <tr><th scope="col">run, seed</th>${head.map((name) => `<th scope="col">${name}</th>`).join("")}</tr></thead>
    <tbody>${rows.join("")}</tbody></table></div>`;
}

// Where a run is, in a sentence.
function sentence({ setting, now, rested }) {
  const name = `<b>${named(setting).join(", ")}</b>`;
  if (!now.step) return `${name}. Press <b>Start</b>: a network with two numbers a symbol learns what follows in texts
    like <code>(··)[·](···)</code>.`;
  return `${name}. Step ${now.step}: loss ${now.loss.toFixed(3)}, under noise ${now.noisy_loss.toFixed(2)}; determinants
    from ${number(now.quantiles[0])} to ${number(now.quantiles[4])}, ${Math.round(100 * now.negative)} % of them
    negative;
    eigenvalues of A ${now.eigenvalues.map(number).join(" and ")}. ${rested ?? ""}`;
}

const STYLE = `<style>${SHARED_STYLE}
.ns-bt-loss { fill: none; stroke: var(--ns-c1); stroke-width: 2.6; }
.ns-bt-noisy { fill: none; stroke: var(--ns-c2); stroke-width: 2.4; stroke-dasharray: 7 3; }
.ns-bt-old { fill: none; stroke: currentColor; stroke-width: 1.2; }
.ns-bt-zero { stroke: var(--ns-c2); stroke-width: 1.4; }
.ns-bt-one { stroke: var(--ns-quiet); stroke-dasharray: 2 4; }
.ns-bt-band { fill: var(--ns-c1); fill-opacity: 0.22; stroke: none; }
.ns-bt-median { fill: none; stroke: var(--ns-c1); stroke-width: 2.6; }
.ns-bt-least { fill: none; stroke: var(--ns-c1); stroke-width: 1.4; stroke-dasharray: 6 3; }
.ns-bt-most { fill: none; stroke: var(--ns-c1); stroke-width: 1.4; stroke-dasharray: 2 3; }
.ns-bt-eigen { fill: none; stroke: var(--ns-c3); stroke-width: 2.4; }
.ns-bt-symbol { fill: var(--ns-faint); stroke: var(--ns-c4); stroke-width: 1.6; }
.ns-module svg text.ns-bt-name { font-size: 13px; font-weight: bold; }
@media (max-width: 40rem) { .ns-module .ns-stage .ns-barrier-said { min-height: 5.6em; } } /* four lines */
.ns-bt-runs { overflow-x: auto; }
.ns-module .ns-stage .ns-bt-runs table { min-width: max-content; }
.ns-module .ns-stage .ns-bt-runs :is(th, td) { white-space: nowrap; padding-left: 0.8rem; }
</style>`;

export function render({ el, state }) {
  const { strengths } = state;
  el.innerHTML = `${STYLE}<div class="ns-barrier-sliders">
    ${choice("Arm", "arm", ARMS, state.arm)}${choice("Barrier on", "place", PLACES, state.place)}
    ${slider("Weight λ", "strength", strengths.length - 1, strengths.indexOf(state.strength))}
    ${slider("Seed", "seed", state.seeds - 1, state.seed)}</div>
    <div class="ns-inputs"><button type="button" data-part="go">Start</button>
    <button type="button" data-part="one">One step</button>
    <button type="button" data-part="anew">Start anew</button></div>
    <p class="ns-barrier-said" data-part="said"></p><p class="ns-sr" role="status" data-part="status"></p>
    <div class="ns-barrier-panels"><div><p class="ns-caption">
    ${swatch(`<path class="ns-bt-loss" d="M1 7H29"/>`, "loss")}
    ${swatch(`<path class="ns-bt-noisy" d="M1 7H29"/>`, "under noise")}
    ${swatch(`<path class="ns-bt-old" d="M1 7H29"/>`, "earlier runs")}</p><div data-part="loss"></div>
    <p class="ns-caption">${swatch(`<path class="ns-bt-eigen" d="M1 7H29"/>`, "of the symmetric part of A")}</p>
    <div data-part="eigen"></div></div><div><p class="ns-caption">
    ${swatch(`<path class="ns-bt-median" d="M1 7H29"/>`, "median")}
    ${swatch(`<path class="ns-bt-least" d="M1 7H29"/>`, "least")}
    ${swatch(`<path class="ns-bt-most" d="M1 7H29"/>`, "greatest")}
    <span class="ns-key">band: the middle eight tenths; dotted: 1</span></p><div data-part="det"></div>
    <p class="ns-caption">The embeddings</p><div data-part="plane"></div></div></div><div data-part="runs"></div>`;
  const part = partsOf(el);
  let run; // { setting, training, points, now, steps, rested }
  let earlier = []; // the last first
  let [running, pending] = [false, 0];

  // A new run of what the controls show; the old one stays in the table, if it got anywhere.
  function begin() {
    running = false;
    const setting = { ...state, arm: part.arm.value, place: part.place.value, seed: +part.seed.value,
      strength: strengths[part.strength.value] };
    if (run?.steps) earlier = [run, ...earlier];
    earlier = earlier.filter((old) => told(old.setting) !== told(setting)).slice(0, DASHES.length);
    run = { setting, training: bracketTraining(setting), points: [], steps: 0 };
    look();
    paint();
    part.status.innerHTML = sentence(run);
  }
  function look() {
    run.now = run.training.measure();
    run.points.push(run.now);
  }
  function step() {
    run.training.step();
    run.steps++;
    run.rested = run.steps >= MOST ? "Here it rests." : "";
  }
  function paint() {
    const width = Math.max(240, Math.min(part.loss.clientWidth, 420));
    shown(part.strength, run.setting.arm === "none" ? "not used" : String(run.setting.strength));
    shown(part.seed, String(run.setting.seed));
    part.go.textContent = running ? "Pause" : run.steps ? "Go on" : "Start";
    part.go.disabled = run.steps >= MOST;
    part.one.disabled = running || run.steps >= MOST;
    part.said.innerHTML = sentence(run);
    part.loss.innerHTML = lossPlot(run, earlier, width);
    part.det.innerHTML = detPlot(run, width);
    part.eigen.innerHTML = eigenPlot(run, width);
    part.plane.innerHTML = plane(run, width);
    part.runs.innerHTML = runsTable([run, ...earlier]);
  }
  function frame() {
    if (!running || !el.isConnected) return;
    for (let k = 0; k < EACH && run.steps < MOST; k++) step();
    look();
    if (run.steps >= MOST) {
      running = false;
      part.status.innerHTML = sentence(run);
    }
    paint();
    pending = requestAnimationFrame(frame);
  }
  part.go.onclick = () => {
    running = !running;
    part.status.innerHTML = running ? "Training." : sentence(run);
    cancelAnimationFrame(pending); // of a run that was paused since the last frame
    if (running) pending = requestAnimationFrame(frame);
    paint();
  };
  part.one.onclick = () => {
    step();
    look();
    part.status.innerHTML = sentence(run);
    paint();
  };
  part.anew.onclick = begin;
  for (const key of ["arm", "place", "strength", "seed"]) part[key].oninput = begin;
  begin();
  let width = el.clientWidth;
  new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; paint(); } }).observe(el);
}
