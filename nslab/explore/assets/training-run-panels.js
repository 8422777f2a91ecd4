// The four pictures of a recorded training run. Each takes a frame (what `compute` of training-run.js returns), what is
// fixed for the run, and a width, and returns SVG as text. Colour stands for groups of pairs; the rest is in ink.

const QUANTITIES = {
  stability: "raw stability", normalised: "normalised stability", sensitivity: "average sensitivity",
};
const GROUPS = { train: "train", test: "test", mirrored: "mirrored", unseen: "unseen" };
const LEFT = 56; // of every axis, so that the steps of two panels stand below one another
const RIGHT = 10;

const percent = (share) => (share === null ? "none" : `${(100 * share).toFixed(1)} %`);
const thousands = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, ",");
const place = (value) => +value.toFixed(1);
const text = (x, y, content, rest = "") => `<text x="${place(x)}" y="${place(y)}" ${rest}>${content}</text>`;
const tall = (x, y, content) =>
  text(0, 0, content, `text-anchor="middle" transform="translate(${x} ${place(y)}) rotate(-90)"`);
const svg = (width, height, label, content) => `<svg role="img" aria-label="${label}" width="${width}"
  height="${height}" viewBox="0 0 ${width} ${height}">${content}</svg>`;

// Round ticks from 0 up to `most`, at most `many` steps of 1, 2 or 5 times a power of ten; the last reaches `most`.
function ticks(most, many) {
  const power = 10 ** Math.floor(Math.log10(most / many));
  const step = [1, 2, 5, 10].map((k) => k * power).find((size) => size * many >= most * (1 - 1e-9));
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, k) => +(k * step).toPrecision(6));
}

// Ink of a y axis with its ticks, from `top` to `bottom`.
function yAxis(marks, { width, top, bottom, name }) {
  const most = marks[marks.length - 1];
  const y = (value) => bottom - (value / most) * (bottom - top);
  const lines = marks.map((mark) => `<path class="ns-gridline" d="M${LEFT} ${place(y(mark))}H${width - RIGHT}"/>` +
    text(LEFT - 6, y(mark) + 4, mark, `text-anchor="end"`)).join("");
  const axis = `<path class="ns-axis" d="M${LEFT} ${top}V${bottom}"/>`;
  return { y, ink: lines + axis + tall(11, (top + bottom) / 2, name) };
}

// Where the checkpoints stand in a panel of this width, and which of them is nearest to a place in it.
function stepAxis(steps, width) {
  const [first, last] = [steps[0], steps[steps.length - 1]];
  const x = (step) => LEFT + ((step - first) / (last - first)) * (width - LEFT - RIGHT);
  const nearest = (at) => steps.reduce((best, step, k) =>
    (Math.abs(x(step) - at) < Math.abs(x(steps[best]) - at) ? k : best), 0);
  return { x, nearest };
}

// Curves over the steps, the last on top; `lines` are [class, values], `level` is a horizontal line.
function history(run, index, { lines, level, most, name, told }, width, height) {
  const { x } = stepAxis(run.steps, width);
  const bottom = height - 38;
  const { y, ink } = yAxis(ticks(most, 5), { width, top: 8, bottom, name });
  const last = run.steps[run.steps.length - 1];
  let marks = ink + ticks(last, width < 420 ? 5 : 6).filter((step) => step >= run.steps[0] && step <= last)
    .map((step) => text(x(step), bottom + 17, thousands(step), `text-anchor="middle"`)).join("");
  marks += `<path class="ns-axis" d="M${LEFT} ${bottom}H${width - RIGHT}"/>`;
  marks += text((LEFT + width - RIGHT) / 2, height - 3, "step", `text-anchor="middle"`);
  const here = place(x(run.steps[index]));
  marks += `<path class="ns-run-here" d="M${here} 8V${bottom}"/>`;
  if (level !== undefined) marks += `<path class="ns-run-target" d="M${LEFT} ${place(y(level))}H${width - RIGHT}"/>`;
  for (const [kind, values] of lines) {
    const path = values.map((value, k) => (value === null ? ""
      : `${k && values[k - 1] !== null ? "L" : "M"}${place(x(run.steps[k]))} ${place(y(value))}`)).join("");
    marks += `<path class="ns-run-line ns-run-${kind}" d="${path}"/>`;
    if (values[index] !== null) marks +=
      `<circle class="ns-run-dot ns-run-${kind}" cx="${here}" cy="${place(y(values[index]))}" r="4"/>`;
  }
  return svg(width, height, told, marks);
}

function accuracyPanel(frame, run, { index, apart }, width) {
  const shown = (apart ? ["unseen", "mirrored"] : []).concat("test", "train");
  const thin = (group) => (group === "mirrored" || group === "unseen" ? " ns-run-thin" : "");
  const lines = shown.map((group) => [group + thin(group), run[`${group}_accuracy`]]);
  const told = `Accuracy against step: at step ${frame.step} ${shown.map((group) =>
    `${GROUPS[group]} ${percent(frame[`${group}_accuracy`])}`).join(", ")}.`;
  return history(run, index, { lines, most: 1, name: "accuracy", told }, width, 168);
}

function stabilityPanel(frame, run, { index, quantity }, width) {
  const own = frame.curves[quantity];
  const target = frame[`target_${quantity}`];
  const lines = [["model", own]];
  if (frame.attention) lines.unshift(["attention", frame.attention[quantity]]);
  const share = quantity !== "sensitivity";
  if (share) lines.unshift(["test ns-run-thin", run.test_accuracy]); // to compare when each of them moves
  const most = share ? 1 : Math.max(target, ...lines.flatMap(([, values]) => values));
  const told = `${QUANTITIES[quantity]} against step: ${own[index].toFixed(3)} at step ${frame.step}, ${
    own[own.length - 1].toFixed(3)} at the end; the target has ${target.toFixed(3)}.`;
  return history(run, index, { lines, level: target, most, name: QUANTITIES[quantity], told }, width, 190);
}

// Above, how much of the logits' energy each frequency holds; below, each neuron at its frequency.
function bloom(frame, run, tallest, width) {
  const count = frame.spectrum.length;
  const slot = (width - LEFT - RIGHT) / count;
  const x = (frequency) => LEFT + (frequency - 0.5) * slot;
  const bars = yAxis(ticks(tallest, 3), { width, top: 8, bottom: 96, name: "logits" });
  const dots = yAxis([0, 0.5, 1], { width, top: 116, bottom: 196, name: "neurons" });
  let marks = bars.ink + dots.ink;
  const thick = place(Math.min(0.7 * slot, 24));
  const path = frame.spectrum.map((share, k) => `M${place(x(k + 1))} 96V${place(bars.y(share))}`).join("");
  marks += `<path class="ns-run-bars" stroke-width="${thick}" d="${path}"/>`;
  const spread = (j) => ((j * 0.618034) % 1) - 0.5; // neurons of one frequency stand side by side
  const points = frame.frequency.map((frequency, j) => (frequency ? `M${
    place(x(frequency) + 0.7 * slot * spread(j))} ${place(dots.y(frame.share[j]))}h0` : "")).join("");
  marks += `<path class="ns-run-neurons" d="${points}"/>`;
  for (const foot of [96, 196]) marks += `<path class="ns-axis" d="M${LEFT} ${foot}H${width - RIGHT}"/>`;
  const every = [1, 2, 5, 10, 20, 50].find((step) => step * slot >= 24);
  for (let k = every; k <= count; k += every) marks += text(x(k), 213, k, `text-anchor="middle"`);
  marks += text((LEFT + width - RIGHT) / 2, 232, "frequency", `text-anchor="middle"`);
  const first = frame.spectrum.indexOf(Math.max(...frame.spectrum));
  const pure = frame.share.filter((share) => share > 0.9).length;
  const told = [`Functions of label − c hold ${percent(frame.fourier_share)} of the logits’ energy,`,
    `frequency ${first + 1} the most, ${percent(frame.spectrum[first])}.`,
    `${pure} of ${frame.share.length} neurons hold more than 90 % of their first operand’s effect in one frequency.`];
  return svg(width, 236, told.join(" "), marks);
}

// The p x p pairs, full colour where the answer is right: a path for each group and shade, of strokes along the rows.
function cellsPanel(frame, run, { apart }, width) {
  const p = run.modulus;
  const side = Math.min(width - 26, 360);
  const unit = Math.floor((side * devicePixelRatio) / p) / devicePixelRatio; // whole pixels of the screen
  const paths = Array.from({ length: 6 }, () => []);
  for (let a = 0; a < p; a++) {
    for (let b = 0, end; b < p; b = end) {
      const kind = frame.cells[a * p + b];
      for (end = b + 1; end < p && frame.cells[a * p + end] === kind;) end++;
      paths[kind].push(`M${b} ${a}.5H${end}`);
    }
  }
  const group = (kind) => (run.train === null ? "any" : kind > 3 ? "train" : !apart ? "test"
    : kind > 1 ? "mirrored" : "unseen");
  const strokes = paths.map((path, kind) => (path.length ? `<path class="ns-run-cell ns-run-${group(kind)}${
    kind % 2 ? "" : " ns-run-wrong"}" d="${path.join("")}"/>` : "")).join("");
  const right = frame.cells.reduce((sum, kind) => sum + (kind & 1), 0);
  const size = unit * p;
  return svg(width, side + 26, `${right} of the ${p} × ${p} pairs are answered right at step ${frame.step}.`,
    `<g transform="translate(26 20) scale(${unit})">${strokes}</g>` +
    text(26, 13, "0") + text(26 + size, 13, p - 1, `text-anchor="end"`) +
    text(26 + size / 2, 13, "second operand b", `text-anchor="middle"`) +
    text(20, 30, "0", `text-anchor="end"`) + text(20, 20 + size, p - 1, `text-anchor="end"`) +
    tall(13, 20 + size / 2, "first operand a"));
}
