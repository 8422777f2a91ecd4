// Train a network in the page: it memorises its pairs in no time, and finds the rule of modular addition much later.
// seeded-gaussians.js, pair-training.js and training-plots.js stand before this file. Twin of `compute`:
// nslab/explore/training_in_page.py.

// A setting and a number of steps -> what the network is after them, and its noise stability beside the task's own.
export function compute(state) {
  const training = pairTraining(state);
  for (let k = 0; k < state.steps; k++) training.step();
  const found = training.measure();
  const [stability, target] = [found.energies, taskEnergies(state)].map((each) => energyStability(each, state.keep));
  return { ...found, stability, target };
}

// ---------------------------------------------------------------- controls
const MOST = 10000; // steps of a run
const BUDGET = 11; // milliseconds of training between two frames
const REDRAW = 50; // milliseconds between two pictures
const MILESTONES = { // in the table of runs, and when they are reached
  memorised: ["all train pairs", ({ train_accuracy: value }) => value === 1],
  half: ["half the test pairs", ({ test_accuracy: value }) => value >= 0.5],
  found: ["99 % of test pairs", ({ test_accuracy: value }) => value >= 0.99],
};

const slider = (name, key, most, at) => `<label>${name}<input type="range" min="0" max="${most}" value="${at}"
  data-part="${key}"><span aria-hidden="true"></span></label>`;
const choice = (name, key, options, at) => `<label>${name}<select data-part="${key}">${Object.entries(options).map(
  ([value, told]) => `<option value="${value}"${value === at ? " selected" : ""}>${told}</option>`).join("")}
  </select></label>`;
const named = ({ weight_decay: decay, learning_rate: rate, seed, split }) =>
  [`λ ${decay}`, `η ${rate}`, `seed ${seed}`, ...(split === "random" ? [] : ["unordered"])];

// Steps, and the e-foldings of decay they make.
function when(step, setting) {
  if (step === undefined) return "–";
  return thousands(step) + (speed(setting) ? ` (${(step * speed(setting)).toFixed(2)})` : "");
}

function runsTable(runs) {
  const head = Object.values(MILESTONES).map(([told]) => `<th scope="col">${told}</th>`).join("");
  const rows = runs.map(({ setting, reached }, k) => {
    const own = k ? `<path class="ns-train-old" stroke-dasharray="${DASHES[k - 1]}" d="M1 7H29"/>`
      : `<path class="ns-train-test" d="M1 7H29"/>`;
    return `<tr><th scope="row"><svg width="30" height="14" aria-hidden="true">${own}</svg>${
      named(setting).map((word) => `<span>${word}</span>`).join(", ")}</th>${
      Object.keys(MILESTONES).map((key) => `<td>${when(reached[key], setting)}</td>`).join("")}</tr>`;
  });
  return `<table class="ns-train-table"><thead><tr><th scope="col">run</th>${head}</tr></thead><tbody>${
    rows.join("")}</tbody></table>
    <p class="ns-help">The first step at which so many are right, and in brackets t&nbsp;η&nbsp;λ.</p>`;
}

function energyTable(energies, state) {
  const columns = [energies, taskEnergies(state)].map(([none, one, other, both]) =>
    [none, one + other, both, none + one + other + both]);
  const rows = ["no operand", "one alone", "both together", "all, at keep 1"].map((name, k) =>
    `<tr><th scope="row">${name}</th>${columns.map((each) => `<td>${each[k].toFixed(3)}</td>`).join("")}</tr>`);
  return `<table class="ns-train-table"><thead><tr><th scope="col">energy of</th><th scope="col">network</th>
    <th scope="col">task</th></tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

// Where a run is, in a sentence.
function sentence({ setting, now, rested }, state) {
  const count = (of, right) => now.trained.filter((value, row) => value === of && (!right || now.right[row])).length;
  const told = `${count(1, true)} of ${count(1)} train and ${count(0, true)} of ${count(0)} test pairs are right`;
  if (!now.step) return `Press <b>Start</b>: ${state.width} neurons learn (a + b) mod ${state.modulus} from ${
    count(1)} of ${state.modulus ** 2} pairs. So far ${told}.`;
  const clock = speed(setting) ? `${now.e_foldings.toFixed(2)} e-foldings of decay` : "no decay";
  return `Step ${thousands(now.step)}, ${clock}: ${told}. ${rested ?? ""}`;
}

export function render({ el, state }) {
  const { decays, rates } = state;
  el.innerHTML = `${STYLE}<div class="ns-train-sliders">
    ${slider("Weight decay λ", "decay", decays.length - 1, decays.indexOf(state.weight_decay))}
    ${slider("Learning rate η", "rate", rates.length - 1, rates.indexOf(state.learning_rate))}
    ${slider("Seed", "seed", state.seeds - 1, state.seed)}
    ${choice("Split", "split", { random: "random", unordered: "by unordered pair" }, state.split)}</div>
    <div class="ns-inputs"><button type="button" data-part="go">Start</button>
    <button type="button" data-part="one">One step</button>
    <button type="button" data-part="anew">Start anew</button>
    ${choice("Axis", "clock", { steps: "steps", foldings: "e-foldings" }, "steps")}</div>
    <p class="ns-train-said" data-part="said"></p><p class="ns-sr" role="status" data-part="status"></p>
    <div class="ns-train-panels"><div class="ns-train-plots"><p class="ns-caption">
    ${swatch(`<path class="ns-train-train" d="M1 7H29"/>`, "train")}
    ${swatch(`<path class="ns-train-test" d="M1 7H29"/>`, "test")}
    ${swatch(`<path class="ns-train-old" d="M1 7H29"/>`, "earlier runs")}
    ${swatch(`<path class="ns-train-chance" d="M1 7H29"/>`, "chance")}</p><div data-part="accuracy"></div>
    <p class="ns-caption">${swatch(`<path class="ns-train-stability" d="M1 7H29"/>`, "network’s noise stability")}
    ${swatch(`<path class="ns-train-target" d="M1 7H29"/>`, "the task’s")}</p><div data-part="stability"></div>
    <div class="ns-inputs"><label>Keep<input type="range" min="0" max="20" value="${Math.round(20 * state.keep)}"
    data-part="keep" aria-label="Keep, the probability that an operand stays"><span aria-hidden="true"></span></label>
    <label><input type="checkbox" data-part="share">÷ value at keep 1</label></div></div>
    <div class="ns-train-pairs"><p class="ns-caption">
    ${swatch(`<path class="ns-train-square" d="M10 2h10v10h-10Z"/>`, "train")}
    ${swatch(`<circle class="ns-train-disc" cx="15" cy="7" r="5"/>`, "test")}
    <span class="ns-key">full: right, pale: wrong</span></p><div data-part="pairs"></div>
    <div data-part="energies"></div></div></div><div class="ns-train-runs" data-part="runs"></div>`;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  const shown = (key, value) => {
    part[key].setAttribute("aria-valuetext", value);
    part[key].nextElementSibling.textContent = value;
  };
  let run; // { setting, training, steps, points, now, reached, stop, rested }
  let earlier = []; // the last first
  let running = false;

  // A new run of the setting that the controls show; the old one stays as a thin line, if it got anywhere.
  function begin() {
    running = false;
    const setting = { ...state, weight_decay: decays[part.decay.value], learning_rate: rates[part.rate.value],
      seed: +part.seed.value, split: part.split.value };
    if (run?.steps) earlier = [run, ...earlier];
    earlier = earlier.filter((old) => String(named(old.setting)) !== String(named(setting))).slice(0, DASHES.length);
    run = { setting, training: pairTraining(setting), steps: 0, points: [], reached: {}, stop: MOST };
    look();
    paint();
  }
  function look() {
    run.now = run.training.measure();
    const { trained, right, ...point } = run.now;
    run.points.push(point);
    for (const [key, [told, reached]] of Object.entries(MILESTONES))
      if (!run.reached[key] && point.step && reached(point)) {
        run.reached[key] = point.step;
        part.status.textContent = `Step ${when(point.step, run.setting)}: ${told} right.`;
        if (key === "found") run.stop = Math.min(MOST, 2 * point.step);
      }
  }
  function step() {
    run.training.step();
    run.steps++;
    run.rested = "";
  }
  function paint() {
    const clock = part.clock.value === "foldings";
    const width = Math.max(240, Math.min(part.accuracy.clientWidth, 520));
    const view = { keep: part.keep.value / 20, share: part.share.checked };
    shown("decay", run.setting.weight_decay);
    shown("rate", run.setting.learning_rate);
    shown("seed", run.setting.seed);
    shown("keep", view.keep.toFixed(2));
    part.go.textContent = running ? "Pause" : run.steps ? "Go on" : "Start";
    part.go.disabled = run.steps >= MOST;
    part.one.disabled = running || run.steps >= MOST;
    part.said.innerHTML = sentence(run, state);
    part.accuracy.innerHTML = accuracyPlot(run, earlier, state, width, clock);
    part.stability.innerHTML = stabilityPlot(run, state, width, clock, view);
    part.pairs.innerHTML = pairPicture(run.now, state, Math.max(240, part.pairs.clientWidth));
    part.energies.innerHTML = energyTable(run.now.energies, state);
    part.runs.innerHTML = runsTable([run, ...earlier]);
  }
  function rest(reason) {
    running = false;
    run.rested = reason;
    if (run.now.step < run.steps) look();
    part.status.innerHTML = sentence(run, state);
  }
  // Train as many steps as fit between two frames; look at all pairs every step at first, then every fiftieth part.
  let [drawn, pending] = [0, 0];
  function frame() {
    if (!running || !el.isConnected) return;
    const until = performance.now() + BUDGET;
    while (running && performance.now() < until) {
      step();
      if (run.steps >= 1.02 * run.now.step) look();
      if (run.steps >= run.stop) rest(run.steps < MOST ? "It rests, at twice its steps to 99 %."
        : "Here the page stops.");
    }
    if (!running || performance.now() > drawn + REDRAW) {
      paint();
      drawn = performance.now();
    }
    pending = requestAnimationFrame(frame);
  }
  part.go.onclick = () => {
    if (running) rest("Paused.");
    else {
      running = true;
      if (run.steps >= run.stop) run.stop = MOST;
      part.status.textContent = "Training.";
      cancelAnimationFrame(pending); // of a run that was paused since the last frame
      pending = requestAnimationFrame(frame);
    }
    paint();
  };
  part.one.onclick = () => {
    step();
    look();
    part.status.innerHTML = sentence(run, state);
    paint();
  };
  part.anew.onclick = () => {
    begin();
    part.status.textContent = `A new run: ${named(run.setting).join(", ")}.`;
  };
  for (const key of ["decay", "rate", "seed", "split"]) part[key].oninput = begin;
  for (const key of ["keep", "share", "clock"]) part[key].oninput = paint;
  begin();
  let width = el.clientWidth;
  new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; paint(); } }).observe(el);
}
