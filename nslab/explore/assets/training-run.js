// Scrub through a recorded training run: accuracy, stability beside its target, the Fourier bloom, the right cells.
// Twin of `compute`: nslab/explore/recorded_runs.py. training-run-panels.js, with the pictures, stands before this file.

const SPECTRUM_UNIT = 1e5;
const bytes = (packed) => Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
const bit = (packed, k) => (packed[k >> 3] >> (7 - (k & 7))) & 1;

// Each quantity of Efron-Stein energies [constant, first, second, both] at a keep.
function measured([constant, first, second, both], keep) {
  const stability = constant + keep * (first + second) + keep ** 2 * both;
  return {
    stability, normalised: stability / (constant + first + second + both), sensitivity: first + second + 2 * both,
  };
}

// {runs, run, index, keep} -> every number of the figure.
export function compute({ runs, run: chosen, index, keep }) {
  const run = runs[chosen];
  const over = (rows) => rows && Object.fromEntries(Object.keys(QUANTITIES).map((name) =>
    [name, rows.map((row) => measured(row, keep)[name])]));
  const curves = over(run.energies);
  const target = measured(run.target_energies, keep);
  const correct = bytes(run.correct[index]);
  const train = run.train && bytes(run.train);
  const p = run.modulus;
  const cells = Array.from({ length: p * p }, (_, k) => {
    const group = !train ? 0 : bit(train, k) ? 4 : bit(train, (k % p) * p + Math.floor(k / p)) ? 2 : 0;
    return group + bit(correct, k);
  });
  const neurons = bytes(run.neurons[index]);
  const m = neurons.length / 2;
  const spectrum = run.spectrum[index].map((share) => share / SPECTRUM_UNIT);
  return {
    step: run.steps[index],
    folds: run.steps[index] * run.learning_rate * run.weight_decay,
    ...Object.fromEntries(Object.keys(GROUPS).map((name) => [`${name}_accuracy`, run[`${name}_accuracy`][index]])),
    ...Object.fromEntries(Object.keys(QUANTITIES).flatMap((name) =>
      [[name, curves[name][index]], [`target_${name}`, target[name]]])),
    weight_norm: run.weight_norm[index],
    fourier_share: spectrum.reduce((a, b) => a + b, 0),
    spectrum,
    frequency: [...neurons.subarray(0, m)],
    share: Array.from(neurons.subarray(m), (share) => share / 255),
    cells, curves,
    attention: over(run.attention_energies),
  };
}

// ---------------------------------------------------------------- drawing
const PACE = 120; // milliseconds a checkpoint

const stepOf = ({ step }, { steps }) => `${thousands(step)} of ${thousands(steps[steps.length - 1])}`;

// The frame in words, three lines of them: read out, and shown.
function words(frame, run, { keep, quantity, apart }) {
  const right = ([group, name]) => `${name} ${percent(frame[`${group}_accuracy`])}`;
  const [train, test, ...fine] = Object.entries(GROUPS).map(right);
  const name = QUANTITIES[quantity] + (quantity === "sensitivity" ? "" : ` at keep ${keep.toFixed(2)}`);
  return [
    `Step ${stepOf(frame, run)}: ${run.weight_decay ? `${frame.folds.toFixed(2)} e-foldings of` : "no"} weight decay, ${
      ""}weight norm ${frame.weight_norm.toFixed(1)}.`,
    `Right answers: ${train}, ${test}${apart ? ` (${fine.join(", ")})` : ""}.`,
    `${name[0].toUpperCase()}${name.slice(1)}: ${frame[quantity].toFixed(3)}, target ${
      frame[`target_${quantity}`].toFixed(3)}.`,
  ];
}

const STYLE = `<style>
.ns-module .ns-run-row { display: grid; grid-template-columns: 5.8rem minmax(0, 1fr) 5.6rem; gap: 0.8rem;
  align-items: center; padding: 0.25rem 0; }
.ns-module .ns-run-now { /* stays in sight, below the header of the book */
  position: sticky; top: min(3.2rem, var(--pst-header-height, 0rem)); z-index: 2;
  background: var(--ns-ground, var(--jp-layout-color0, canvas));
}
.ns-module .ns-run-row input { width: 100%; border: 0; padding: 0; accent-color: #0072b2; }
.ns-module .ns-run-row select { grid-column: 2 / 4; justify-self: start; max-width: 100%; }
.ns-module .ns-run-row b { font-variant-numeric: tabular-nums; white-space: nowrap; }
.ns-module .ns-run-choices { display: flex; flex-wrap: wrap; gap: 0.5rem 1.2rem; align-items: center;
  padding: 0.25rem 0; }
.ns-module .ns-run-choices label { display: flex; gap: 0.5rem; align-items: center; margin: 0; }
.ns-module .ns-run-choices input { min-height: 0; accent-color: #0072b2; }
.ns-module .ns-stage .ns-run-said { margin: 0.5rem 0 0; font-variant-numeric: tabular-nums; }
.ns-module .ns-run-said span { display: block; min-height: 1.4em; }
.ns-module .ns-run-panels { display: grid; grid-template-columns: minmax(0, 9fr) minmax(0, 11fr); gap: 0 1.2rem;
  grid-template-areas: "accuracy cells" "stability cells" "bloom bloom"; }
.ns-module .ns-stage .ns-run-panels .ns-caption { color: inherit; min-height: 2.8em;
  margin: 0.3rem 0 0.2rem; display: flex; flex-wrap: wrap; align-content: flex-end; gap: 0 0.9em;
  font-variant-numeric: tabular-nums; }
.ns-module .ns-run-panels .ns-key { margin: 0; white-space: nowrap; }
.ns-module .ns-run-time { touch-action: pan-y; cursor: ew-resize; }
.ns-module .ns-run-panels .ns-axis { fill: none; }
.ns-run-train { --ns-run: var(--ns-c1); } .ns-run-test { --ns-run: var(--ns-c2); }
.ns-run-mirrored { --ns-run: var(--ns-c4); } .ns-run-unseen { --ns-run: var(--ns-c3); }
.ns-run-model, .ns-run-any { --ns-run: currentColor; } .ns-run-attention { --ns-run: var(--ns-quiet); }
.ns-run-line { fill: none; stroke: var(--ns-run); stroke-width: 2.5; stroke-linejoin: round; }
.ns-run-line.ns-run-thin { stroke-width: 1.3; }
.ns-run-line.ns-run-mirrored { stroke-dasharray: 6 2; } .ns-run-line.ns-run-unseen { stroke-dasharray: 2 2; }
.ns-run-line.ns-run-attention { stroke-width: 1.5; stroke-dasharray: 2 3; }
.ns-run-dot { fill: var(--ns-run); } .ns-run-dot.ns-run-thin, .ns-run-dot.ns-run-attention { r: 2.5px; }
.ns-run-target { stroke: currentColor; stroke-width: 1.5; stroke-dasharray: 9 4; }
.ns-run-here { stroke: currentColor; stroke-dasharray: 2 4; }
.ns-run-bars { stroke: var(--ns-quiet); fill: none; }
.ns-run-neurons { stroke: currentColor; stroke-width: 4; stroke-linecap: round; opacity: 0.6; }
.ns-run-cell { stroke: var(--ns-run); stroke-width: 1; shape-rendering: crispEdges; }
.ns-run-cell.ns-run-wrong { stroke-opacity: 0.28; }
@media (max-width: 40rem) { /* one panel below the other */
  .ns-module .ns-run-panels { grid-template-columns: minmax(0, 1fr);
    grid-template-areas: "accuracy" "stability" "bloom" "cells"; }
  .ns-module .ns-run-said span { min-height: 2.8em; }
}
</style>`;
const swatch = (kind, name, mark) => `<span class="ns-key"><svg width="24" height="12" aria-hidden="true">${
  mark ?? `<path class="ns-run-line ns-run-${kind}" d="M1 6H23"/>`}</svg>${name}</span>`;
const square = (kind, name) => swatch(kind, name, `<path class="ns-run-cell ns-run-${kind}" style="stroke-width: 12"
  d="M6 6H18"/>`);

const note = (content) => `<span class="ns-key">${content}</span>`;

export function render({ el, state, compute }) {
  const option = ([value, name]) => `<option value="${value}">${name}</option>`;
  const panel = (area, time) => `<div style="grid-area: ${area}"><p class="ns-caption"></p><div data-part="${area}"${
    time ? ` class="ns-run-time"` : ""}></div></div>`;
  el.innerHTML = `${STYLE}<div class="ns-run-row"><span>Run</span>
    <select data-part="run" aria-label="Run"></select></div>
    <div class="ns-run-row ns-run-now"><button type="button" data-part="play"></button>
    <input type="range" data-part="index" aria-label="Checkpoint" min="0"><b></b></div>
    <div class="ns-run-row"><span>Keep</span><input type="range" data-part="keep" min="0" max="100"
    aria-label="Keep, the probability that the noise keeps an operand"><b></b></div>
    <div class="ns-run-choices"><label>Compare with the target: <select data-part="quantity">${
    Object.entries(QUANTITIES).map(option).join("")}</select></label>
    <label><input type="checkbox" data-part="apart" checked>mirrored and unseen pairs apart</label></div>
    <p class="ns-run-said" role="status"><span></span><span></span><span></span></p>
    <div class="ns-run-panels">${panel("accuracy", true)}${panel("stability", true)}${panel("bloom")}${
    panel("cells")}</div>`;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  const said = el.querySelector(".ns-run-said");
  const places = [...state.starts]; // where the reader stands in each run
  const tallest = (run) => Math.max(...state.runs.filter(({ modulus }) => modulus === run.modulus)
    .flatMap(({ spectrum }) => spectrum.flat()), 0.01) / SPECTRUM_UNIT; // one scale for runs that may be compared
  let playing = null;

  const chosen = () => +part.run.value;
  function update() {
    const run = state.runs[chosen()];
    const view = { index: +part.index.value, keep: part.keep.value / 100, quantity: part.quantity.value,
      apart: part.apart.checked };
    places[chosen()] = view.index;
    const frame = compute({ runs: state.runs, run: chosen(), ...view });
    part.index.nextElementSibling.textContent = `step ${thousands(frame.step)}`;
    part.index.setAttribute("aria-valuetext", `step ${stepOf(frame, run)}`);
    part.keep.nextElementSibling.textContent = view.keep.toFixed(2);
    part.keep.setAttribute("aria-valuetext", view.keep.toFixed(2));
    words(frame, run, view).forEach((line, k) => { said.children[k].textContent = line; });
    draw(run, frame, view);
  }
  function draw(run, frame, view) {
    const show = (area, keys, picture, ...rest) => {
      part[area].previousElementSibling.innerHTML = keys.join("");
      part[area].innerHTML = picture(frame, run, ...rest, Math.max(240, Math.min(part[area].clientWidth, 720)));
    };
    const fine = view.apart ? ["mirrored", "unseen"] : [];
    show("accuracy", ["train", "test"].map((group) => swatch(group, GROUPS[group])).concat(
      fine.map((group) => swatch(`${group} ns-run-thin`, GROUPS[group]))), accuracyPanel, view);
    const keys = [swatch("model", "network"), swatch("", "target", `<path class="ns-run-target" d="M1 6H23"/>`)];
    if (frame.attention) keys.push(swatch("attention", "attention"));
    if (view.quantity !== "sensitivity") keys.push(swatch("test ns-run-thin", "test accuracy"));
    show("stability", keys, stabilityPanel, view);
    show("bloom", [`bars: share of the logits’ energy, together ${percent(frame.fourier_share)}`,
      "dots: neurons, by their share in one frequency"].map(note), bloom, tallest(run));
    const groups = !run.train ? ["any"] : view.apart ? ["train", "mirrored", "unseen"] : ["train", "test"];
    show("cells", [...groups.map((group) => square(group, GROUPS[group] ?? "right")),
      note("pale: wrong")], cellsPanel, view);
  }
  function stop() {
    clearInterval(playing);
    playing = null;
    part.play.textContent = "▶ Play";
    said.setAttribute("aria-live", "polite");
  }
  function play() {
    if (+part.index.value === +part.index.max) part.index.value = 0;
    part.play.textContent = "❚❚ Pause";
    said.setAttribute("aria-live", "off"); // not eight sentences a second
    playing = setInterval(() => {
      if (!el.isConnected) return stop();
      part.index.value = +part.index.value + 1;
      if (+part.index.value === +part.index.max) stop();
      return update();
    }, PACE);
    update();
  }
  function choose() {
    stop();
    part.index.max = state.runs[chosen()].steps.length - 1;
    part.index.value = places[chosen()];
    update();
  }
  part.play.onclick = () => (playing === null ? play() : stop());
  part.run.oninput = choose;
  part.index.oninput = () => { stop(); update(); };
  for (const name of ["keep", "quantity", "apart"]) part[name].oninput = update;
  for (const area of ["accuracy", "stability"]) { // press or drag in a history to go there
    const seek = (event) => {
      if (!(event.buttons & 1)) return;
      const { left, width } = part[area].getBoundingClientRect();
      stop();
      part.index.value = stepAxis(state.runs[chosen()].steps, Math.max(240, Math.min(width, 720)))
        .nearest(event.clientX - left);
      update();
    };
    part[area].onpointerdown = (event) => { part[area].setPointerCapture(event.pointerId); seek(event); };
    part[area].onpointermove = seek;
  }
  state.runs.forEach(({ name }, k) => part.run.add(new Option(name, k)));
  part.keep.value = Math.round(100 * state.keep);
  part.quantity.value = state.quantity;
  choose();
  let width = el.clientWidth;
  new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; update(); } }).observe(el);
}
