// The pictures of a training run: accuracies and noise stability against the steps, and the pairs, right or wrong.
// pair-training.js stands before this file, live-training.js follows.

const DECADES = 4; // of the logarithmic axis: 1 to 10⁴ steps, or 0.01 to 100 e-foldings

const DASHES = ["none", "6 2", "2 2"]; // of the earlier runs, the last first

const line = (x1, y1, x2, y2, rest) => `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" ${rest}/>`;
const text = (x, y, content, rest = "") => `<text x="${x}" y="${y}" ${rest}>${content}</text>`;
const svg = (width, height, label, content) => `<svg role="img" aria-label="${label}" width="${width}"
  height="${height}" viewBox="0 0 ${width} ${height}">${content}</svg>`;
const swatch = (content, name) =>
  `<span class="ns-key"><svg width="30" height="14" aria-hidden="true">${content}</svg>${name}</span>`;
const thousands = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, ",");
const short = (value) => String(+value.toPrecision(3));
const speed = ({ learning_rate: rate, weight_decay: decay }) => rate * decay; // e-foldings in a step

// Where the steps of a run stand on the logarithmic axis, from 0 to 1; as steps, or as e-foldings of decay.
const placed = (setting, clock) => (step) =>
  (clock ? Math.log10(step * speed(setting)) + 2 : Math.log10(step)) / DECADES;

// Axes of both plots, whose heights go from 0 to 1: decades below, and the other clock above.
function axes({ width, height, left, top, bottom, right, name, setting, clock, below }) {
  const x = (share) => +(left + share * (width - left - right)).toFixed(1);
  const [floor, ceiling] = [height - bottom, top];
  const y = (value) => +(floor - 4 - value * (floor - ceiling - 8)).toFixed(1); // 0 and 1 stand clear of the frame
  let marks = "";
  for (const tick of [0, 0.25, 0.5, 0.75, 1])
    marks += line(x(0), y(tick), x(1), y(tick), `class="ns-gridline"`) +
      text(left - 6, y(tick) + 4, tick, `text-anchor="end"`);
  const [least, digits] = clock ? [-2, short] : [0, thousands];
  let minor = "";
  for (let k = 0; k <= DECADES; k++) {
    const at = x(k / DECADES);
    marks += line(at, floor, at, ceiling, `class="ns-gridline"`);
    for (let j = 1; j < (k < DECADES ? 10 : 2); j++) minor += `M${x((k + Math.log10(j)) / DECADES)} ${floor}v-4`;
    if (below) marks += text(at, floor + 17, digits(10 ** (least + k)), `text-anchor="middle"`);
  }
  marks += `<path class="ns-axis" fill="none" d="M${x(0)} ${ceiling}V${floor}H${x(1)}${minor}"/>`;
  marks += text(0, 0, name, `text-anchor="middle" transform="translate(12 ${(floor + ceiling) / 2}) rotate(-90)"`);
  const names = ["step t", "e-foldings of decay, t η λ"];
  const centred = (height, content) => text((x(0) + x(1)) / 2, height, content, `text-anchor="middle"`);
  if (below) marks += centred(height - 6, names[+clock]);
  else if (!speed(setting)) marks += centred(12, "no decay: its clock stands still");
  else { // the other clock
    marks += centred(12, names[+!clock]);
    for (let k = clock ? 0 : -2; k <= (clock ? 4 : 2); k++) {
      const share = placed(setting, clock)(clock ? 10 ** k : 10 ** k / speed(setting));
      if (share < -1e-9 || share > 1 + 1e-9) continue;
      marks += line(x(share), ceiling, x(share), ceiling - 5, `class="ns-axis"`) +
        text(x(share), ceiling - 9, (clock ? thousands : short)(10 ** k), `text-anchor="middle"`);
    }
  }
  return { x, y, marks };
}

// A curve through the measured points of a run that lie on the axis.
function curve({ points, setting }, value, { x, y }, clock) {
  const at = placed(setting, clock);
  const shown = points.filter(({ step }) => step && at(step) >= 0 && at(step) <= 1);
  return shown.map((point, k) => `${k ? "L" : "M"}${x(at(point.step))} ${y(value(point))}`).join("");
}

const tested = ({ test_accuracy: value }) => value;

function accuracyPlot(run, earlier, state, width, clock) {
  const frame = { width, height: 220, left: 46, right: 20, top: 34, bottom: 8, name: "accuracy" };
  const place = axes({ ...frame, setting: run.setting, clock, below: false });
  const { x, y } = place;
  let { marks } = place;
  marks += line(x(0), y(1 / state.modulus), x(1), y(1 / state.modulus), `class="ns-train-chance"`);
  earlier.forEach((old, k) => {
    marks += `<path class="ns-train-old" stroke-dasharray="${DASHES[k]}" d="${curve(old, tested, place, clock)}"/>`;
  });
  marks += `<path class="ns-train-train" d="${curve(run, ({ train_accuracy: value }) => value, place, clock)}"/>`;
  marks += `<path class="ns-train-test" d="${curve(run, tested, place, clock)}"/>`;
  const now = run.points[run.points.length - 1];
  return svg(width, frame.height, `Accuracy against ${clock ? "e-foldings of decay" : "steps"}, on a logarithmic axis.
    At step ${now.step}: train ${now.train_accuracy.toFixed(3)}, test ${tested(now).toFixed(3)}.`, marks);
}

function stabilityPlot(run, state, width, clock, { keep, share }) {
  const frame = { width, height: 220, left: 46, right: 20, top: 10, bottom: 42, name: "stability" };
  const place = axes({ ...frame, setting: run.setting, clock, below: true });
  const { x, y } = place;
  const target = energyStability(taskEnergies(state), keep);
  const value = ({ energies }) => energyStability(energies, keep) / (share ? energyStability(energies, 1) : 1);
  const marks = place.marks + line(x(0), y(target), x(1), y(target), `class="ns-train-target"`) +
    `<path class="ns-train-stability" d="${curve(run, value, place, clock)}"/>`;
  const now = run.points[run.points.length - 1];
  return svg(width, frame.height, `Noise stability at keep ${keep}${share ? ", divided by its value at keep 1" : ""}: ${
    value(now).toFixed(3)} at step ${now.step}; the task itself has ${target.toFixed(3)}.`, marks);
}

// The p x p pairs: squares are trained, discs are not; full is right, pale is wrong.
function pairPicture({ trained, right }, state, width) {
  const { modulus: p } = state;
  const [left, top] = [34, 34];
  const size = Math.min(12, Math.floor(((width - left) / p) * 10) / 10);
  const [side, radius] = [+(size - 1.2).toFixed(1), +(size / 2 - 0.6).toFixed(2)];
  const paths = ["", "", "", ""];
  for (let row = 0; row < p * p; row++) {
    const [x, y] = [left + (row % p) * size + 0.6, top + Math.floor(row / p) * size + 0.6].map((at) => at.toFixed(1));
    paths[2 * trained[row] + right[row]] += trained[row] ? `M${x} ${y}h${side}v${side}h${-side}Z`
      : `M${x} ${y}m0 ${radius}a${radius} ${radius} 0 1 0 ${side} 0a${radius} ${radius} 0 1 0 ${-side} 0Z`;
  }
  let marks = paths.map((path, k) => `<path class="ns-train-${k > 1 ? "square" : "disc"}" fill-opacity="${
    k % 2 ? 1 : 0.28}" d="${path}"/>`).join("");
  for (let tick = 0; tick < p; tick += 5) {
    marks += text(left + (tick + 0.5) * size, top - 5, tick, `text-anchor="middle"`) +
      text(left - 5, top + (tick + 0.5) * size + 4, tick, `text-anchor="end"`);
  }
  marks += text(left + (p * size) / 2, 12, "second operand b", `text-anchor="middle"`) +
    text(0, 0, "first operand a", `text-anchor="middle" transform="translate(10 ${top + (p * size) / 2}) rotate(-90)"`);
  const count = (of) => right.filter((value, row) => value && trained[row] === of).length;
  return svg(left + Math.ceil(p * size), top + Math.ceil(p * size), `All ${p * p} pairs: ${count(1)} train and ${
    count(0)} test pairs are right.`, marks);
}

const STYLE = `<style>
.ns-module .ns-train-sliders { display: flex; flex-wrap: wrap; gap: 0.4rem 1.4rem; margin-bottom: 0.6rem; }
.ns-module .ns-train-sliders label { flex: 1 1 8rem; display: block; margin: 0; }
.ns-module .ns-train-sliders label:has(select) { flex-grow: 0; }
.ns-module .ns-train-sliders :is(input, select) { display: block; width: 100%; }
.ns-module .ns-train-sliders span { display: block; font-variant-numeric: tabular-nums; }
.ns-module input[type="range"] { border: 0; padding: 0; accent-color: var(--ns-c1); }
.ns-module button[data-part="go"] { min-width: 5.2rem; }
.ns-module .ns-stage .ns-train-said { /* room for two lines */
  line-height: 1.4; min-height: 2.8em; margin: 0.6rem 0 0.2rem; font-variant-numeric: tabular-nums;
}
.ns-module .ns-train-panels { display: flex; flex-wrap: wrap; gap: 0.4rem 1.6rem; }
.ns-module .ns-train-plots { flex: 3 1 19rem; min-width: 0; }
.ns-module .ns-train-pairs { flex: 1 1 15rem; min-width: 0; }
.ns-module .ns-stage .ns-train-panels .ns-caption { margin: 0.2rem 0 0.4rem; }
.ns-module .ns-train-panels .ns-inputs { margin-top: 0.3rem; }
.ns-module .ns-inputs label { display: flex; gap: 0.6rem; align-items: center; margin: 0; }
.ns-module .ns-inputs label input[type="range"] { width: 8rem; }
.ns-module .ns-inputs label input[type="checkbox"] { min-height: 0; margin: 0; }
.ns-module .ns-inputs label span { min-width: 2.2em; font-variant-numeric: tabular-nums; }
.ns-module .ns-stage .ns-train-table { /* JupyterLab has a style of its own for tables */
  border-collapse: collapse; border: 0; margin: 0.6rem 0; font-size: 0.9em; font-variant-numeric: tabular-nums;
}
.ns-module .ns-stage .ns-train-table :is(thead, tr) { background: none; border: 0; }
.ns-module .ns-stage .ns-train-table :is(th, td) {
  text-align: right; padding: 0.1rem 0 0.1rem 1.1rem; font-weight: normal; border: 0; background: none;
}
.ns-module .ns-stage .ns-train-table :is(th, td):first-child { text-align: left; padding-left: 0; }
.ns-module .ns-stage .ns-train-table thead th { color: var(--ns-quiet); vertical-align: bottom; }
.ns-module .ns-train-runs .ns-train-table { table-layout: fixed; width: 100%; }
.ns-module .ns-train-runs thead th:first-child { width: 34%; }
.ns-module .ns-stage .ns-train-runs .ns-train-table tbody th:first-child { /* words below words */
  padding-left: 2.3rem; text-indent: -2.3rem;
}
.ns-module .ns-train-table span { white-space: nowrap; }
.ns-module .ns-train-table svg { display: inline-block; vertical-align: middle; margin-right: 0.5em; }
.ns-train-train { fill: none; stroke: var(--ns-c1); stroke-width: 2.5; stroke-dasharray: 7 3; }
.ns-train-test { fill: none; stroke: var(--ns-c2); stroke-width: 3; }
.ns-train-old { fill: none; stroke: currentColor; stroke-width: 1.3; }
.ns-train-stability { fill: none; stroke: var(--ns-c3); stroke-width: 3; }
.ns-train-target { stroke: currentColor; stroke-width: 1.6; stroke-dasharray: 6 4; }
.ns-train-chance { stroke: var(--ns-quiet); stroke-dasharray: 1.5 4; }
.ns-train-square { fill: var(--ns-c1); }
.ns-train-disc { fill: var(--ns-c2); }
@media (max-width: 40rem) {
  .ns-module .ns-train-sliders label { display: grid; grid-template-columns: auto 1fr; column-gap: 0.6rem; }
  .ns-module .ns-train-sliders :is(input, select) { grid-area: 2 / 1 / 3 / 3; }
  .ns-module .ns-train-sliders span { text-align: right; }
  .ns-module .ns-stage .ns-train-table :is(th, td) { padding-left: 0.6rem; }
  .ns-module .ns-stage .ns-train-said { min-height: 4.2em; font-size: 0.94em; } /* three */
}
@media (max-width: 22rem) { .ns-module .ns-stage .ns-train-said { min-height: 5.6em; } } /* four */
</style>`;
