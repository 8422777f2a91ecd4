// The layer explorer: build a random Transformer, see its four moments layer by layer, lay a drawn network beside them.
// layer-recursion.js, -intervals.js and -networks.js stand before this file. Twin of `compute`: nslab/explore/layers.py.

// A setting, the seeds of networks to draw and the agreement tables -> every number of the figure.
export function compute(state) {
  const tables = [null, ...state.tables.map(tableOf)]; // by number of tokens
  const table = tables[state.tokens];
  const { states, masses } = state.causal ? propagateCausal(state, state, tables) : propagate(state, state, table);
  const six = (found) => ({
    ...each((key) => found.map((moments) => moments[key])),
    correlation: found.map(({ m, q }) => m / q), token_correlation: found.map(({ p, q }) => p / q),
  });
  const bounds = (known) => {
    if (state.causal) return null;
    const found = intervals(state, state, table, known);
    const ends = (key) => [0, 1].map((side) => found.map((layer) => layer[key][side]));
    return Object.fromEntries(Object.keys(found[0]).map((key) => [key, ends(key)]));
  };
  return {
    ...six(states),
    ...Object.fromEntries(["s", "t", "s_a", "t_a"].map((key) => [key, masses.map((found) => found[key])])),
    intervals: bounds(true), hull: bounds(false),
    networks: state.networks.map((seed) => {
      const { width, states: found } = simulate(state, state, seed);
      return { width, ...six(found) };
    }),
  };
}

// ---------------------------------------------------------------- drawing
const MOST_NETWORKS = 5;
const QUANTITIES = {
  correlation: "correlation m/q", m: "m: same token, two runs", o: "o: different tokens, two runs",
  q: "q: a token with itself", p: "p: different tokens, one run", token_correlation: "token correlation p/q",
};
const SYMBOL = { correlation: "m/q", m: "m", o: "o", q: "q", p: "p", token_correlation: "p/q" };
const CHOICES = {
  tokens: ["Tokens n", { 8: "8", 16: "16" }],
  scores: ["Scores", { random: "random matrix", identity: "identity", uniform: "uniform" }],
  scale: ["Score scale", { 1: "1, the paper’s", 4: "4/√width", usual: "1/√width, usual" }],
  residual: ["Residual", { none: "none", scaled: "(h + block)/√2", "pre-norm": "h + block, pre-norm" }],
  norm: ["Norm", { none: "none", rms: "RMS" }],
  mlp: ["MLP", { relu: "ReLU", none: "none" }],
};
const SLIDERS = { // name, least, most, and how a step reads
  rho: ["Input correlation ρ", 0, 100, (k) => k / 100],
  depth: ["Depth, in layers", 1, 24, (k) => k],
  gain: ["Gain g of values", 4, 40, (k) => k / 20],
  width: ["Width d", 6, 12, (k) => 2 ** k],
};
const STEP_OF = { rho: (v) => Math.round(100 * v), gain: (v) => Math.round(20 * v), width: Math.log2, depth: (v) => v };
const SETTING = [...Object.keys(SLIDERS), "tokens", "scores", "score_scale", "residual", "norm", "mlp", "causal"];

// Three significant digits; far from 1 as a power of ten.
function short(value) {
  const text = value && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e4)
    ? value.toExponential(1).replace(/e\+?(-?)(\d+)/, (_, minus, digits) => ` × 10${minus ? "⁻" : ""}${
      digits.replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])}`)
    : String(+value.toPrecision(3));
  return text.replace("-", "−");
}

// Where an axis from 0 ends that must reach `most`, in 4 to 5 round steps.
function axis(most) {
  const power = 10 ** Math.floor(Math.log10(most / 5));
  const step = [1, 2, 5, 10].map((k) => k * power).find((size) => size * 5 >= most * (1 - 1e-9));
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, k) => +(k * step).toPrecision(6));
}

const MARKS = [ // one for each drawn network, around 0 0
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z", "M-4 -4H4V4H-4Z", "M0 -5L5 4H-5Z", "M0 -5L5 0L0 5L-5 0Z",
  "M-4 -4L4 4M4 -4L-4 4"];

function plot(setting, result, networks, { quantity, marked }, width) {
  const height = Math.round(Math.min(330, 170 + width / 4));
  const { depth } = setting;
  const line = result[quantity];
  const ratio = quantity.endsWith("correlation");
  const ticks = axis(ratio ? 1 : Math.max(...line, ...networks.flatMap((found) => found[quantity])));
  const most = ticks[ticks.length - 1];
  const longest = Math.max(...ticks.map((tick) => short(tick).length)); // it must not run into the name of the axis
  const [left, right, top, bottom] = [Math.max(62, 26 + 6.5 * longest), 12, 10, 42];
  const x = (k) => +(left + (k / depth) * (width - left - right)).toFixed(1);
  const y = (value) => +(height - bottom - (clip(value / most, -9, 9)) * (height - top - bottom)).toFixed(1);
  const path = (values) => values.map((value, k) => `${k ? "L" : "M"}${x(k)} ${y(value)}`).join("");
  const text = (at, down, content, rest) => `<text x="${at}" y="${down}" ${rest}>${content}</text>`;
  let marks = "";
  for (const tick of ticks) marks += `<path class="ns-gridline" d="M${left} ${y(tick)}H${width - right}"/>` +
    text(left - 7, y(tick) + 4, short(tick), `text-anchor="end"`);
  const every = [1, 2, 4, 6].find((step) => depth / step <= (width < 420 ? 8 : 13));
  for (let k = 0; k <= depth; k += every) marks += text(x(k), height - bottom + 18, k, `text-anchor="middle"`);
  marks += `<path class="ns-axis" fill="none" d="M${left} ${top}V${y(0)}H${width - right}"/>`;
  marks += text((left + width - right) / 2, height - 5, "layer", `text-anchor="middle"`);
  marks += `<text text-anchor="middle" transform="translate(13 ${(top + y(0)) / 2}) rotate(-90)">${
    ratio ? QUANTITIES[quantity] : SYMBOL[quantity]}</text>`;
  if (result.intervals) { // a window of its own cuts off what the axis does not reach
    const [low, high] = result.intervals[quantity];
    const back = low.map((value, k) => `L${x(k)} ${y(value)}`).reverse().join("");
    const box = [left, top - 2, width - left - right, height - top - bottom + 4];
    marks += `<svg x="${box[0]}" y="${box[1]}" width="${box[2]}" height="${box[3]}" viewBox="${box.join(" ")}"
      style="overflow: hidden"><path class="ns-layer-band" d="${path(high)}${back}Z"/>${result.hull[quantity]
      .map((ends) => `<path class="ns-layer-hull" d="${path(ends)}"/>`).join("")}</svg>`;
  }
  marks += `<path class="ns-layer-here" d="M${x(marked)} ${top}V${y(0)}"/>`;
  marks += `<path class="ns-layer-line" d="${path(line)}"/>`;
  line.forEach((value, k) => {
    marks += `<circle class="ns-layer-dot" cx="${x(k)}" cy="${y(value)}" r="${k === marked ? 6 : 3}"/>`;
  });
  networks.forEach((found, j) => found[quantity].forEach((value, k) => {
    marks += `<path class="ns-layer-net" d="${MARKS[j]}" transform="translate(${x(k)} ${y(value)})"/>`;
  }));
  const told = `${QUANTITIES[quantity]} against layer: ${short(line[0])} before the first, ${short(line[marked])} at ${
    marked}, ${short(line[depth])} at ${depth}.`;
  return `<svg role="img" aria-label="${told}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${
    marks}</svg>`;
}

// The marked layer in words: what is read out, and what stands below it.
function words(setting, result, networks, { quantity, marked }) {
  const at = (key) => short(result[key][marked]);
  const ends = (bounds, key) => (bounds
    ? `${short(bounds[key][0][marked])} to ${short(bounds[key][1][marked])}` : null);
  const [inside, hull] = ["intervals", "hull"].map((name) => ends(result[name], quantity));
  let said = `${marked ? `After layer ${marked} of ${setting.depth}` : "Before the first layer"}: correlation m/q = ${
    at("correlation")}, token correlation p/q = ${at("token_correlation")}, raw m = ${at("m")}.`;
  if (inside) said += ` ${SYMBOL[quantity]} is within ${inside}; knowing nothing of the votes, ${hull}.`;
  if (networks.length) said += ` Measured ${SYMBOL[quantity]}: ${
    networks.map((found) => short(found[quantity][marked])).join(", ")}.`;
  const moments = `A token and its noisy twin share m = ${at("m")}, a token and the twin of another o = ${
    at("o")}. In one run a token has q = ${at("q")} with itself and p = ${at("p")} with another.`;
  const mass = (key) => short(result[key][marked - 1]);
  const hard = setting.causal ? "1 is a hard vote" : `1 is a hard vote, 1/n = ${short(1 / setting.tokens)} no choice`;
  const masses = marked ? ` In the attention of layer ${marked} a row picks one token in both runs with probability ${
    ""}s = ${mass("s")}, two different rows with t = ${mass("t")}. Within one run a row agrees with itself with s_a = ${
    mass("s_a")} (${hard}), with another row with t_a = ${mass("t_a")}.${
    setting.causal ? " Under the mask these are means over positions." : ""}` : "";
  return [said, moments + masses.replace(/([st])_a/g, "$1ₐ")];
}

const STYLE = `<style>
.ns-module .ns-layer-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(9.6rem, 45%), 1fr));
  gap: 0.5rem 1rem; margin: 0.6rem 0; align-items: end; }
.ns-module .ns-layer-grid label { display: block; margin: 0; font-size: 0.9em; }
.ns-module .ns-layer-grid :is(select, input[type="range"]) { display: block; width: 100%; }
.ns-module input[type="range"] { border: 0; padding: 0; accent-color: #0072b2; }
.ns-module .ns-layer-grid input[type="checkbox"] { min-height: 0; margin-right: 0.4rem; accent-color: #0072b2; }
.ns-module .ns-layer-grid .ns-layer-tick { min-height: 2rem; display: flex; align-items: center; }
.ns-module [aria-pressed="true"]:not(.ns-cell) { box-shadow: inset 0 -3px 0 var(--ns-c1); font-weight: 600; }
.ns-module .ns-stage .ns-layer-mark { display: flex; gap: 0.7rem; align-items: center; margin: 0.2rem 0; }
.ns-module .ns-layer-mark input { flex: 1; min-width: 0; }
.ns-module .ns-stage .ns-layer-said { min-height: 4.2em; font-variant-numeric: tabular-nums; }
.ns-module .ns-stage .ns-layer-more { min-height: 6.8em; font-size: 0.92em; color: var(--ns-quiet); }
.ns-layer-band { fill: var(--ns-c1); fill-opacity: 0.2; }
.ns-layer-hull { fill: none; stroke: var(--ns-quiet); stroke-width: 1.5; stroke-dasharray: 6 4; }
.ns-layer-here { stroke: currentColor; stroke-dasharray: 2 4; }
.ns-layer-line { fill: none; stroke: var(--ns-c1); stroke-width: 2.5; stroke-linejoin: round; }
.ns-layer-dot { fill: var(--ns-c1); }
.ns-layer-net { fill: none; stroke: var(--ns-c2); stroke-width: 1.7; }
@media (max-width: 480px) { .ns-module .ns-stage .ns-layer-more { min-height: 13em; }
  .ns-module .ns-stage .ns-layer-said { min-height: 5.8em; } }
</style>`;
const swatch = (content, name) =>
  `<span class="ns-key"><svg width="30" height="14" aria-hidden="true">${content}</svg>${name}</span>`;
const option = ([value, name]) => `<option value="${value}">${name}</option>`;

export function render({ el, state, compute }) {
  const slider = ([key, [name, least, most]]) => `<label>${name}: <b data-value="${key}"></b>
    <input type="range" data-part="${key}" aria-label="${name}" min="${least}" max="${most}"></label>`;
  const choice = ([key, [name, options]]) => `<label>${name}<select data-part="${key}">${
    Object.entries(options).map(option).join("")}</select></label>`;
  el.innerHTML = `${STYLE}<div class="ns-inputs" role="group" aria-label="Start from">${
    Object.keys(state.presets).map((name) => `<button type="button" data-preset="${name}">${name}</button>`).join("")
    }</div><div class="ns-layer-grid">${Object.entries(SLIDERS).map(slider).join("")}</div>
    <div class="ns-layer-grid">${Object.entries(CHOICES).map(choice).join("")}<label class="ns-layer-tick">
    <input type="checkbox" data-part="causal">causal mask</label></div>
    <div class="ns-inputs"><span><label>Plot</label> <select data-part="quantity">${
    Object.entries(QUANTITIES).map(option).join("")}</select></span>
    <button type="button" data-part="draw"></button><button type="button" data-part="clear">Clear</button></div>
    <p class="ns-caption"></p><div class="ns-layer-plot"></div>
    <p class="ns-layer-mark"><label>Marked layer: <b data-value="layer"></b></label>
    <input type="range" data-part="layer" min="0"></p>
    <p class="ns-layer-said" role="status"></p><p class="ns-layer-more"></p><p class="ns-help"></p>`;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  const shown = Object.fromEntries([...el.querySelectorAll("[data-value]")].map((node) => [node.dataset.value, node]));
  const [caption, holder, said, more, help] = [".ns-caption", ".ns-layer-plot", ".ns-layer-said", ".ns-layer-more",
    ".ns-help"].map((name) => el.querySelector(name));
  part.layer.setAttribute("aria-label", "Marked layer");
  part.quantity.setAttribute("aria-label", "Plot");
  let setting, result;
  let networks = []; // measured ones of this setting
  let seed = 0;

  function take(chosen) { // a setting into the controls
    for (const [key, step] of Object.entries(STEP_OF)) part[key].value = step(chosen[key]);
    for (const key of ["tokens", "scores", "residual", "norm", "mlp"]) part[key].value = chosen[key];
    const factor = (chosen.score_scale * Math.sqrt(chosen.width)).toFixed(6);
    part.scale.value = { "1.000000": "usual", "4.000000": "4" }[factor] ?? "1";
    part.causal.checked = chosen.causal;
  }
  function read() { // the controls into a setting
    if (part.residual.value === "pre-norm") part.norm.value = "rms";
    part.norm.disabled = part.residual.value === "pre-norm";
    part.scale.disabled = part.scores.value === "uniform";
    const numbers = Object.fromEntries(Object.entries(SLIDERS).map(([key, [, , , of]]) => [key, of(+part[key].value)]));
    const words_ = Object.fromEntries(["scores", "residual", "norm", "mlp"].map((key) => [key, part[key].value]));
    const scale = { 1: 1, 4: 4 / Math.sqrt(numbers.width), usual: 1 / Math.sqrt(numbers.width) }[part.scale.value];
    return { ...numbers, ...words_, tokens: +part.tokens.value, score_scale: scale, causal: part.causal.checked };
  }
  function update() {
    setting = read();
    networks = [];
    result = compute({ ...setting, tables: state.tables, networks: [] });
    part.layer.max = setting.depth;
    for (const button of el.querySelectorAll("[data-preset]")) {
      const preset = state.presets[button.dataset.preset];
      button.setAttribute("aria-pressed", String(SETTING.every((key) => Math.abs(preset[key] - setting[key]) < 1e-9
        || preset[key] === setting[key])));
    }
    paint();
  }
  function paint() {
    const view = { quantity: part.quantity.value, marked: +part.layer.value };
    for (const key of Object.keys(SLIDERS)) {
      shown[key].textContent = setting[key];
      part[key].setAttribute("aria-valuetext", setting[key]);
    }
    shown.layer.textContent = view.marked;
    holder.innerHTML = plot(setting, result, networks, view, Math.max(260, Math.min(holder.clientWidth, 720)));
    [said.textContent, more.textContent] = words(setting, result, networks, view);
    const keys = [["recursion, infinite width",
      `<path class="ns-layer-line" d="M2 7H28"/><circle class="ns-layer-dot" cx="15" cy="7" r="3"/>`]];
    if (result.intervals) keys.push(
      [`version B at width ${setting.width}`, `<rect class="ns-layer-band" y="1" width="30" height="12"/>`],
      ["hull, votes unknown", `<path class="ns-layer-hull" d="M2 7H28"/>`]);
    networks.forEach((_, j) => keys.push([`network ${j + 1}`,
      `<path class="ns-layer-net" d="${MARKS[j]}" transform="translate(15 7)"/>`]));
    caption.innerHTML = keys.map(([name, content]) => swatch(content, name)).join("") + (result.intervals ? ""
      : "<span class=ns-key>no interval for this choice: under a causal mask no bounds are known</span>");
    part.draw.textContent = networks.length ? "Again: another network" : "Draw a random network";
    part.draw.disabled = networks.length >= MOST_NETWORKS;
    part.clear.disabled = !networks.length;
    const notes = [networks.length ? `Each network is drawn at width ${networks[0].width}${
      setting.width > networks[0].width ? `, its scores scaled up to spread as at width ${setting.width},` : ""
    } and run on 2 sequences of ${setting.tokens} tokens: few, so now and then one leaves the bounds.`
      : "A change of setting clears drawn networks."];
    if (part.norm.disabled) notes.push("Pre-norm goes with a norm.");
    help.textContent = notes.join(" ");
  }
  for (const key of [...Object.keys(SLIDERS), ...Object.keys(CHOICES), "causal"]) part[key].oninput = update;
  part.quantity.oninput = part.layer.oninput = paint;
  part.draw.onclick = () => {
    networks.push(compute({ ...setting, tables: state.tables, networks: [++seed] }).networks[0]);
    paint();
  };
  part.clear.onclick = () => {
    networks = [];
    paint();
    part.draw.focus();
  };
  for (const button of el.querySelectorAll("[data-preset]"))
    button.onclick = () => {
      take(state.presets[button.dataset.preset]);
      update();
    };
  take(state);
  part.quantity.value = state.quantity;
  part.layer.max = state.depth;
  part.layer.value = 3;
  update();
  let width = el.clientWidth;
  new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; paint(); } }).observe(el);
}
