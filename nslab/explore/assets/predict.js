// Predict first: draw the curve you expect, by pointer, touch or keyboard; then reveal the true one and compare.
// Nothing is stored or sent. Twin of `compute`: nslab/explore/predictions.py.

const SAMPLES = 61; // a drawing is 61 heights at equal steps of the x axis ...
const KNOTS = 11; // ... and the keyboard moves every sixth of them
const GOOD = 60; // from this score on, a drawing nearest to the truth is praised
const MISS = 0.25; // a mean miss of a quarter of the plot's height scores 0

// Heights at equal steps where some are missing: straight between the drawn ones, flat beyond them.
function complete(drawn) {
  const known = drawn.flatMap((y, k) => (y === null ? [] : [k]));
  if (!known.length) return null;
  return interpolate(known, known.map((k) => drawn[k]), drawn.map((_, k) => k));
}

function interpolate(x, y, grid) {
  let k = 0;
  return grid.map((at) => {
    if (at <= x[0]) return y[0];
    if (at >= x[x.length - 1]) return y[y.length - 1];
    while (x[k + 1] < at) k++;
    return y[k] + ((y[k + 1] - y[k]) * (at - x[k])) / (x[k + 1] - x[k]);
  });
}

// {x, curve, limits, distractors, drawn} -> the score and what the drawing is nearest to; nulls while nothing is drawn.
export function compute({ x, curve, limits, distractors, drawn }) {
  const own = complete(drawn);
  if (!own) return { score: null, nearest: null, explanation: null, distances: null, completed: null };
  const last = drawn.length - 1;
  const grid = drawn.map((_, k) => x[0] + ((x[x.length - 1] - x[0]) * k) / last);
  const height = limits[1] - limits[0];
  const distances = [curve, ...distractors.map(({ y }) => y)].map((each) => {
    const values = interpolate(x, each, grid);
    return values.reduce((sum, value, k) => sum + Math.abs(value - own[k]), 0) / values.length / height;
  });
  let best = 0; // the truth wins ties
  distances.forEach((distance, k) => { if (distance < distances[best] - 1e-9) best = k; });
  return {
    score: 100 * Math.max(0, 1 - distances[0] / MISS),
    nearest: best ? distractors[best - 1].name : "truth",
    explanation: best ? distractors[best - 1].explanation : null,
    distances,
    completed: own,
  };
}

// ---------------------------------------------------------------- drawing
const number = (value) => String(+value.toPrecision(3)).replace("-", "−");
const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));

// Round steps of 1, 2 or 5 times a power of ten, at most `most` of them.
function ticks([low, high], most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * (1 - 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, k) => (first + k) * step);
}

function node(name, attributes, content = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = content;
  return made;
}

const STYLES = { // colour is never alone: each curve has its own dash
  own: { stroke: "var(--ns-c1)", "stroke-width": 3, fill: "none", "stroke-linejoin": "round" },
  guess: { stroke: "var(--ns-c1)", "stroke-width": 2, fill: "none", "stroke-dasharray": "2 5" },
  truth: { stroke: "var(--ns-c2)", "stroke-width": 3, fill: "none", "stroke-dasharray": "9 4" },
  wrong: { stroke: "var(--ns-c4)", "stroke-width": 2.5, fill: "none", "stroke-dasharray": "2 3" },
};

export function render({ el, state, compute }) {
  const span = [state.x[0], state.x[state.x.length - 1]];
  const knots = Array.from({ length: KNOTS }, (_, k) => (k * (SAMPLES - 1)) / (KNOTS - 1));
  const xAt = (sample) => span[0] + ((span[1] - span[0]) * sample) / (SAMPLES - 1);
  const middle = (state.limits[0] + state.limits[1]) / 2;
  let drawn = new Array(SAMPLES).fill(null);
  let revealed = null; // the result, once asked for
  let active = 0; // the one knot that Tab reaches
  let stroke = null; // the last sample and height of a drag

  el.innerHTML = `<p class="ns-prompt"></p><div class="ns-plot-holder"></div><p class="ns-keys"></p>
    <div class="ns-inputs"><button type="button">Reveal</button><button type="button">Clear</button></div>
    <p class="ns-answer" role="status"></p>
    <p class="ns-help">Draw in the plot, or step to a point with Tab and move it with the arrow keys (left and right go
      to its neighbours). Score = 100 × (1 − 4 × mean distance / height of the plot), at least 0. Nothing is stored or
      sent.</p>`;
  const [prompt, holder, key, , answer] = el.children;
  const [reveal, clear] = el.querySelectorAll("button");
  prompt.textContent = state.prompt;

  let size, place, unplace, marks, handles;
  function build() {
    const width = Math.max(260, Math.min(holder.clientWidth, 720));
    const tall = Math.round(Math.min(340, 120 + width / 2.4));
    size = { width, height: tall, left: 58, right: 14, top: 12, bottom: 46 };
    const { height, left, right, top, bottom } = size;
    const scale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);
    place = { x: scale(span, left, width - right), y: scale(state.limits, height - bottom, top) };
    unplace = { x: scale([left, width - right], 0, SAMPLES - 1), y: scale([height - bottom, top], ...state.limits) };
    const plot = node("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group",
      "aria-label": `${state.label_y} against ${state.label_x}`, class: "ns-plot" });
    for (const tick of ticks(span, width < 420 ? 5 : 8)) {
      const at = place.x(tick);
      plot.append(node("line", { class: "ns-gridline", x1: at, x2: at, y1: top, y2: height - bottom }));
      plot.append(node("text", { x: at, y: height - bottom + 17, "text-anchor": "middle" }, number(tick)));
    }
    for (const tick of ticks(state.limits, 5)) {
      const at = place.y(tick);
      plot.append(node("line", { class: "ns-gridline", x1: left, x2: width - right, y1: at, y2: at }));
      plot.append(node("text", { x: left - 7, y: at + 4, "text-anchor": "end" }, number(tick)));
    }
    plot.append(node("path", { class: "ns-axis", fill: "none",
      d: `M${left} ${top}V${height - bottom}H${width - right}` }));
    plot.append(node("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, state.label_x));
    const middleHeight = (top + height - bottom) / 2;
    plot.append(node("text", { "text-anchor": "middle", x: 0, y: 0,
      transform: `translate(14 ${middleHeight}) rotate(-90)` }, state.label_y));
    marks = Object.fromEntries(["guess", "wrong", "truth", "own"].map((name) => [name, node("path", STYLES[name])]));
    handles = knots.map((sample, k) => node("circle", { cx: place.x(xAt(sample)), r: 6, role: "slider",
      fill: "var(--ns-c1)", stroke: "var(--ns-c1)", "stroke-width": 2,
      "aria-label": `${state.label_y} at ${state.label_x} = ${number(xAt(sample))}`,
      "aria-valuemin": state.limits[0], "aria-valuemax": state.limits[1], "aria-orientation": "vertical" }));
    plot.append(...Object.values(marks), ...handles);
    handles.forEach((handle, k) => {
      handle.onfocus = () => {
        handles[active].setAttribute("tabindex", -1);
        handles[active = k].setAttribute("tabindex", 0);
      };
      handle.onkeydown = (event) => press(event, k);
    });
    plot.onpointerdown = (event) => {
      if (revealed || event.button) return;
      event.preventDefault();
      plot.setPointerCapture(event.pointerId);
      stroke = null;
      drag(event);
    };
    plot.onpointermove = (event) => { if (plot.hasPointerCapture(event.pointerId)) drag(event); };
    holder.replaceChildren(plot);
    paint();
  }
  function drag(event) {
    const box = holder.firstChild.getBoundingClientRect();
    const ratio = size.width / box.width; // CSS may have shrunk the plot
    const at = Math.round(clamp(unplace.x((event.clientX - box.left) * ratio), [0, SAMPLES - 1]));
    const y = clamp(unplace.y((event.clientY - box.top) * ratio), state.limits);
    const [from, height] = stroke ?? [at, y];
    const step = Math.sign(at - from);
    for (let k = from; k !== at; k += step) drawn[k] = height + ((y - height) * (k - from)) / (at - from);
    drawn[at] = y;
    stroke = [at, y];
    paint();
  }
  function press(event, k) {
    const height = state.limits[1] - state.limits[0];
    const move = { ArrowUp: height / 40, ArrowDown: -height / 40, PageUp: height / 8, PageDown: -height / 8,
      Home: -height, End: height }[event.key];
    const go = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move === undefined && !go) return;
    event.preventDefault();
    event.stopPropagation();
    if (go) handles[k + go]?.focus();
    else if (!revealed) {
      const y = clamp((complete(drawn)?.[knots[k]] ?? middle) + move, state.limits);
      for (let s = knots[k - 1] + 1 || 0; s < (knots[k + 1] ?? SAMPLES); s++) drawn[s] = null;
      drawn[knots[k]] = y;
      paint();
    }
  }
  const point = (x, y) => `${place.x(x).toFixed(1)} ${place.y(y).toFixed(1)}`;
  const path = (xs, ys) => xs.map((x, k) => (k ? "L" : "M") + point(x, ys[k])).join("");
  function paint() {
    const own = complete(drawn);
    const xs = drawn.map((_, k) => xAt(k));
    const known = drawn.flatMap((y, k) => (y === null ? [] : [k]));
    const [from, to] = [known[0], known[known.length - 1] + 1];
    const wrong = revealed && state.distractors.find(({ name }) => name === revealed.nearest);
    marks.guess.setAttribute("d", own ? path(xs, own) : "");
    marks.own.setAttribute("d", own ? path(xs.slice(from, to), own.slice(from, to)) : "");
    marks.truth.setAttribute("d", revealed ? path(state.x, state.curve) : "");
    marks.wrong.setAttribute("d", wrong ? path(state.x, wrong.y) : "");
    handles.forEach((handle, k) => {
      const y = own ? own[knots[k]] : middle;
      handle.setAttribute("cy", place.y(y).toFixed(1));
      handle.setAttribute("fill-opacity", own ? 1 : 0);
      handle.setAttribute("tabindex", k === active ? 0 : -1);
      handle.setAttribute("aria-valuenow", y);
      handle.setAttribute("aria-valuetext", own ? number(y) : "not drawn yet");
      handle.setAttribute("aria-disabled", String(Boolean(revealed)));
    });
    reveal.disabled = !own || Boolean(revealed);
    clear.disabled = !own;
    key.replaceChildren();
    const names = { own: own && "your curve", truth: revealed && "true curve", wrong: wrong?.name };
    for (const [style, text] of Object.entries(names)) {
      if (!text) continue;
      const swatch = node("svg", { width: 34, height: 10, "aria-hidden": "true" });
      swatch.append(node("path", { ...STYLES[style], d: "M2 5H32" }));
      const item = document.createElement("span");
      item.className = "ns-key";
      item.append(swatch, text);
      key.append(item);
    }
    if (!own) key.append("Nothing drawn yet.");
  }
  reveal.onclick = () => {
    revealed = compute({ ...state, drawn });
    let verdict = `Your curve is nearest to “${revealed.nearest}”. ${revealed.explanation}`;
    if (revealed.nearest === "truth")
      verdict = revealed.score >= GOOD ? state.praise : "Where does your curve leave the true one, and why there?";
    answer.textContent = `Score ${Math.round(revealed.score)} of 100. ${verdict} ${state.alt}`;
    paint();
    clear.focus();
  };
  clear.onclick = () => {
    drawn = drawn.fill(null);
    revealed = null;
    answer.textContent = "Cleared. Draw again.";
    paint();
    handles[active].focus({ preventScroll: true });
  };
  build();
  let width = holder.clientWidth;
  new ResizeObserver(() => {
    if (holder.clientWidth === width) return;
    width = holder.clientWidth;
    build();
  }).observe(holder);
}
