// Five shapes of the barrier against the determinant, and a ball that gradient descent rolls along one of them.
// Blocks are 1 x 1 here, so that the block is its determinant. small-plots.js stands before this file. Twin of
// `compute`: nslab/explore/barrier_walls.py.

const WEIGHT = 0.2; // lambda, of the barrier in the loss
const WISH = -0.6; // the determinant that the rest of the loss wants, if it wants one
const WALLS = ["raw", "clamped", "onesided", "hinge", "kl"];
const LOST = 1e6; // beyond it a ball is not followed

// Barrier and slope. The slope is what the chain rule gives in floating point, step by step as automatic
// differentiation takes it: at det = 0 it is infinite for `raw`, and for `clamped` it is 0 times infinity, NaN.
function wall(kind, det, delta) {
  if (kind === "kl") return [(det * det - Math.log(det * det + delta * delta) - 1) / 2,
    det - det / (det * det + delta * delta)];
  if (kind === "raw") return [-Math.log(Math.abs(det)), -1 / det];
  if (kind === "clamped") {
    const within = Math.log(Math.abs(det)) >= Math.log(delta) ? 1 : 0; // what the clamp lets through
    return [-Math.max(Math.log(Math.abs(det)), Math.log(delta)), -within * (1 / det)];
  }
  const [value, slope] = det >= delta ? [-Math.log(det), -1 / det]
    : [-Math.log(delta) + (delta - det) / delta, -1 / delta];
  return kind === "hinge" && value <= 0 ? [0, 0] : [value, slope];
}

function loss({ kind, delta, wish }, det) {
  const [value, slope] = wall(kind, det, delta);
  return [WEIGHT * value + (wish ? (det - WISH) ** 2 / 2 : 0), WEIGHT * slope + (wish ? det - WISH : 0)];
}

const told = (value) => (Number.isFinite(value) ? value : null);

// {kind, delta, wish, det, rate, steps} -> all walls and slopes at det, and where the ball is after each step; null
// stands for what is not finite.
export function compute(state) {
  const found = WALLS.map((kind) => wall(kind, state.det, state.delta));
  const places = [state.det];
  for (let k = 0; k < state.steps; k++) {
    const last = places[places.length - 1];
    if (last === null || Math.abs(last) > LOST) break;
    places.push(told(last - state.rate * loss(state, last)[1]));
  }
  return {
    values: found.map(([value]) => told(value)), slopes: found.map(([, slope]) => told(slope)),
    loss: told(loss(state, state.det)[0]), places,
  };
}

// ---------------------------------------------------------------- controls and pictures
const MOST = 60; // steps of a ball
const NAMES = {
  raw: "raw", clamped: "clamped, as ported", onesided: "one-sided", hinge: "hinge", kl: "kl",
};
const GRID = Array.from({ length: 801 }, (_, k) => (k - 200) / 200); // of det, from −1 to 3
const short = (value) => (value === null ? "not a finite number"
  : minus(Math.abs(value) >= 1000 ? value.toExponential(1) : value.toFixed(3)));

// What became of the ball, in a sentence.
function sentence({ kind, wish }, places) {
  const [steps, first, last] = [places.length - 1, places[0], places[places.length - 1]];
  const name = `<b>${NAMES[kind]}</b>`;
  if (!steps) return `${name}: the ball lies at det = ${minus(first.toFixed(2))}. Press <b>Release</b>, or <b>One
    step</b>.`;
  const start = `${name}, ${steps} step${steps > 1 ? "s" : ""} from ${minus(first.toFixed(2))}: `;
  if (last === null) return `${start}the slope at det = 0 is not a finite number, and the ball is gone. ` +
    (kind === "clamped" ? "The chain rule took 0 times infinity: NaN." : "The chain rule divided by zero.");
  const crossed = places.filter((at, k) => k && at * places[k - 1] < 0).length;
  const passages = crossed ? ` It went through the wall ${crossed === 1 ? "once" : `${crossed} times`}.` : "";
  if (Math.abs(last) > LOST) return `${start}the ball flew away.${passages}`;
  const still = Math.abs(last - places[steps - 1]) < 1e-4;
  const where = last < 0 ? "on the wrong side" : last > 1.005 && !wish ? "beyond 1" : "on the right side";
  return `${start}det = ${short(last)}, ${where}${still ? ", and at rest" : ""}.${passages}`;
}

function wallsPlot(state, width) {
  const place = axes({ width, height: 230, spans: [[-1, 3], [-1.5, 5.5]], names: ["det of the block", "barrier b"],
    ticks: [[-1, 0, 1, 2, 3], [-1, 0, 1, 2, 3, 4, 5]] });
  let { marks } = place;
  const order = [...WALLS.filter((kind) => kind !== state.kind), state.kind]; // the chosen one on top
  for (const kind of order) {
    const curve = path(GRID.map((det) => [det, wall(kind, det, state.delta)[0]]), place);
    marks += `<path class="ns-wall ns-wall-${kind}${kind === state.kind ? " ns-wall-chosen" : ""}" d="${curve}"/>`;
  }
  return svg(width, 230, `Five barriers against the determinant. At det = ${minus(state.det.toFixed(2))}: ${WALLS.map(
    (kind) => `${NAMES[kind]} ${short(told(wall(kind, state.det, state.delta)[0]))}`).join(", ")}.`, marks);
}

function landscape(state, places, width) {
  const place = axes({ width, height: 230, spans: [[-1.6, 3], [-0.5, 2.5]], ticks: [[-1, 0, 1, 2, 3], [0, 1, 2]],
    names: ["det of the block", "loss"] });
  let { marks } = place;
  const grid = Array.from({ length: 921 }, (_, k) => (k - 320) / 200);
  const at = (det) => [det, Math.min(2.45, Math.max(-0.45, loss(state, det)[0]))];
  marks += `<path class="ns-wall ns-wall-${state.kind} ns-wall-chosen" d="${
    path(grid.map((det) => [det, loss(state, det)[0]]), place)}"/>`;
  if (state.wish) marks += line(place.x(WISH), place.y(-0.5), place.x(WISH), place.y(2.5), `class="ns-wall-wish"`);
  const last = places[places.length - 1];
  places.slice(-12, -1).forEach((det, k, trail) => {
    if (det !== null && place.inside(at(det))) marks += `<circle class="ns-wall-trail" cx="${place.x(det)}" cy="${
      place.y(at(det)[1])}" r="3.5" fill-opacity="${(0.15 + (0.5 * k) / trail.length).toFixed(2)}"/>`;
  });
  if (last !== null) {
    const seen = Math.max(-1.6, Math.min(3, last));
    const height = seen === last ? at(last)[1] : 2.2;
    if (seen === last) marks += `<circle class="ns-wall-ball" cx="${place.x(seen)}" cy="${place.y(height)}" r="6.5"/>`;
    else marks += `<path class="ns-wall-ball" d="M0 -6L11 0L0 6Z" transform="translate(${place.x(seen) - 11 * Math.sign(
      last)} ${place.y(height)}) scale(${Math.sign(last)} 1)"/>` + text(place.x(seen) - 18 * Math.sign(last),
      place.y(height) + 4, minus(last.toFixed(1)), `text-anchor="${last > 0 ? "end" : "start"}"`);
  } else marks += text(place.x(0), place.y(2.2), "NaN", `text-anchor="middle" font-weight="bold"`);
  return svg(width, 230, `The loss that the ball descends. The ball is at det = ${short(last)}.`, marks);
}

function diary(places, width) {
  const place = axes({ width, height: 190, spans: [[0, MOST], [-2, 4]], names: ["step", "det of the block"],
    ticks: [[0, 20, 40, 60], [-2, -1, 0, 1, 2, 3, 4]] });
  const points = places.map((det, k) => [k, det === null ? NaN : Math.max(-2, Math.min(4, det))]);
  let marks = place.marks + line(place.x(0), place.y(0), place.x(MOST), place.y(0), `class="ns-wall-zero"`);
  marks += `<path class="ns-wall-path" d="${path(points, place)}"/>`;
  for (const [k, det] of points) if (Number.isFinite(det))
    marks += `<circle class="ns-wall-dot" cx="${place.x(k)}" cy="${place.y(det)}" r="2.4"/>`;
  return svg(width, 190, `The determinant against the step, from ${short(places[0])} to ${
    short(places[places.length - 1])} in ${places.length - 1} steps.`, marks);
}

function table(state) {
  const found = compute({ ...state, steps: 0 });
  const mark = (value) => (value === null ? (state.det === 0 ? "∞ or NaN" : "–") : short(value));
  return `<table class="ns-barrier-table"><thead><tr><th scope="col">at det = ${minus(state.det.toFixed(2))}</th>
    <th scope="col">b</th><th scope="col">slope</th></tr></thead><tbody>${WALLS.map((kind, k) => `<tr>
    <th scope="row">
    <svg width="30" height="14" aria-hidden="true"><path class="ns-wall ns-wall-${kind} ns-wall-chosen" d="M1 7H29"/>
    </svg>${NAMES[kind]}</th><td>${mark(found.values[k])}</td><td>${mark(found.slopes[k])}</td></tr>`).join("")}</tbody>
    </table>`;
}

const STYLE = `<style>${SHARED_STYLE}
.ns-wall { fill: none; stroke-width: 1.3; }
.ns-wall-chosen { stroke-width: 3; }
.ns-wall-raw { stroke: var(--ns-c2); }
.ns-wall-clamped { stroke: var(--ns-c4); stroke-dasharray: 7 3; }
.ns-wall-onesided { stroke: var(--ns-c1); stroke-dasharray: 9 3 2 3; }
.ns-wall-hinge { stroke: var(--ns-c3); }
.ns-wall-kl { stroke: currentColor; stroke-dasharray: 3 2; }
.ns-wall-wish { stroke: var(--ns-quiet); stroke-dasharray: 2 4; }
.ns-wall-zero { stroke: var(--ns-quiet); stroke-dasharray: 6 4; }
.ns-wall-ball, .ns-wall-trail { fill: currentColor; }
.ns-wall-path { fill: none; stroke: currentColor; stroke-width: 1.2; }
.ns-wall-dot { fill: currentColor; }
</style>`;

export function render({ el, state }) {
  const { deltas, rates, starts } = state;
  el.innerHTML = `${STYLE}<div class="ns-barrier-sliders">
    ${choice("Wall", "kind", NAMES, state.kind)}
    ${slider("δ, where it bends", "delta", deltas.length - 1, deltas.indexOf(state.delta))}
    ${slider("Start at det", "det", starts.length - 1, starts.indexOf(state.det))}
    ${slider("Step size η", "rate", rates.length - 1, rates.indexOf(state.rate))}
    <label><input type="checkbox" data-part="wish"${state.wish ? " checked" : ""}>the rest of the loss wants det = ${
    minus(WISH)}</label></div>
    <div class="ns-inputs"><button type="button" data-part="go">Release</button>
    <button type="button" data-part="one">One step</button>
    <button type="button" data-part="back">Put back</button></div>
    <p class="ns-barrier-said" data-part="said"></p><p class="ns-sr" role="status" data-part="status"></p>
    <div class="ns-barrier-panels"><div><p class="ns-caption">The five walls</p><div data-part="walls"></div>
    <div data-part="table"></div></div><div><p class="ns-caption">What the ball rolls on: ${WEIGHT} b, and the wish</p>
    <div data-part="land"></div><p class="ns-caption">Where it has been</p><div data-part="diary"></div></div></div>`;
  const part = partsOf(el);
  let [setting, places, timer] = [state, [state.det], 0];

  function paint() {
    const width = Math.max(240, Math.min(part.walls.clientWidth, 420));
    shown(part.delta, String(setting.delta));
    shown(part.det, minus(setting.det.toFixed(2)));
    shown(part.rate, String(setting.rate));
    const ended = places.length > MOST || places[places.length - 1] === null ||
      Math.abs(places[places.length - 1]) > LOST;
    if (ended) stop();
    part.go.textContent = timer ? "Pause" : "Release";
    part.go.disabled = ended;
    part.one.disabled = ended || timer !== 0;
    part.said.innerHTML = sentence(setting, places);
    part.walls.innerHTML = wallsPlot(setting, width);
    part.table.innerHTML = table(setting);
    part.land.innerHTML = landscape(setting, places, width);
    part.diary.innerHTML = diary(places, width);
    if (!timer) part.status.innerHTML = part.said.innerHTML;
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
  }
  function back() {
    stop();
    setting = { ...state, kind: part.kind.value, delta: deltas[part.delta.value], det: starts[part.det.value],
      rate: rates[part.rate.value], wish: part.wish.checked };
    places = [setting.det];
    paint();
  }
  function step() {
    if (!el.isConnected) return stop();
    places = compute({ ...setting, steps: places.length }).places;
    paint();
  }
  part.go.onclick = () => {
    if (timer) stop();
    else timer = setInterval(step, 120);
    paint();
  };
  part.one.onclick = step;
  part.back.onclick = back;
  for (const key of ["kind", "delta", "det", "rate", "wish"]) part[key].oninput = back;
  back();
  let width = el.clientWidth;
  new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; paint(); } }).observe(el);
}
