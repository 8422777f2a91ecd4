// Plots with linear axes, and controls: what the modules about the barrier share. Stands before them.

const line = (x1, y1, x2, y2, rest) => `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" ${rest}/>`;
const text = (x, y, content, rest = "") => `<text x="${x}" y="${y}" ${rest}>${content}</text>`;
const svg = (width, height, label, content) => `<svg role="img" aria-label="${label}" width="${width}"
  height="${height}" viewBox="0 0 ${width} ${height}">${content}</svg>`;
const swatch = (content, name) =>
  `<span class="ns-key"><svg width="30" height="14" aria-hidden="true">${content}</svg>${name}</span>`;
const minus = (told) => String(told).replace("-", "−");

const slider = (name, key, most, at) => `<label>${name}<input type="range" min="0" max="${most}" value="${at}"
  data-part="${key}"><span aria-hidden="true"></span></label>`;
const choice = (name, key, options, at) => `<label>${name}<select data-part="${key}">${Object.entries(options).map(
  ([value, told]) => `<option value="${value}"${value === String(at) ? " selected" : ""}>${told}</option>`).join("")}
  </select></label>`;
const partsOf = (el) =>
  Object.fromEntries([...el.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));

// Says the value of a slider, to the eye and to a screen reader.
function shown(node, value) {
  node.setAttribute("aria-valuetext", value);
  node.nextElementSibling.textContent = value;
}

// Axes with grid and names. `spans` are [from, to] of x and y, `ticks` lists of numbers or of [number, name].
function axes({ width, height, left = 46, right = 12, top = 10, bottom = 40, spans, ticks, names }) {
  const x = (value) => +(left + ((value - spans[0][0]) / (spans[0][1] - spans[0][0])) * (width - left - right))
    .toFixed(2);
  const y = (value) => +(height - bottom - ((value - spans[1][0]) / (spans[1][1] - spans[1][0])) *
    (height - top - bottom)).toFixed(2);
  const [floor, ceiling] = [height - bottom, top];
  const named = (tick) => (Array.isArray(tick) ? tick : [tick, minus(tick)]);
  let marks = "";
  for (const [at, told] of ticks[0].map(named))
    marks += line(x(at), floor, x(at), ceiling, `class="ns-gridline"`) +
      text(x(at), floor + 16, told, `text-anchor="middle"`);
  for (const [at, told] of ticks[1].map(named))
    marks += line(left, y(at), width - right, y(at), `class="ns-gridline"`) +
      text(left - 6, y(at) + 4, told, `text-anchor="end"`);
  marks += `<path class="ns-axis" fill="none" d="M${left} ${ceiling}V${floor}H${width - right}"/>`;
  marks += text((left + width - right) / 2, height - 6, names[0], `text-anchor="middle"`) + text(0, 0, names[1],
    `text-anchor="middle" transform="translate(12 ${(floor + ceiling) / 2}) rotate(-90)"`);
  return { x, y, marks, inside: ([at, value]) => at >= spans[0][0] && at <= spans[0][1] && value >= spans[1][0] &&
    value <= spans[1][1] };
}

// A path through points [x, y]; it breaks where one is missing or outside.
function path(points, place) {
  let [d, pen] = ["", false];
  for (const point of points) {
    const drawn = point.every(Number.isFinite) && place.inside(point);
    if (drawn) d += `${pen ? "L" : "M"}${place.x(point[0])} ${place.y(point[1])}`;
    pen = drawn;
  }
  return d;
}

const SHARED_STYLE = `
.ns-module .ns-barrier-sliders { display: flex; flex-wrap: wrap; gap: 0.4rem 1.4rem; margin-bottom: 0.5rem; }
.ns-module .ns-barrier-sliders label { flex: 1 1 8rem; display: block; margin: 0; }
.ns-module .ns-barrier-sliders label:has(select) { flex-grow: 0; }
.ns-module .ns-barrier-sliders label:has([type="checkbox"]) {
  display: flex; gap: 0.5rem; align-items: center; flex: 0 1 auto;
}
.ns-module .ns-barrier-sliders :is(input[type="range"], select) { display: block; width: 100%; }
.ns-module .ns-barrier-sliders span { display: block; font-variant-numeric: tabular-nums; }
.ns-module input[type="range"] { border: 0; padding: 0; accent-color: var(--ns-c1); }
.ns-module input[type="checkbox"] { min-height: 0; margin: 0; }
.ns-module button[data-part="go"] { min-width: 5.2rem; }
.ns-module .ns-stage .ns-barrier-said { /* room for two lines */
  line-height: 1.4; min-height: 2.8em; margin: 0.6rem 0 0.2rem; font-variant-numeric: tabular-nums;
}
.ns-module .ns-barrier-panels { display: flex; flex-wrap: wrap; gap: 0.4rem 1.6rem; }
.ns-module .ns-barrier-panels > div { flex: 1 1 19rem; min-width: 0; }
.ns-module .ns-stage .ns-barrier-table { /* JupyterLab has a style of its own for tables */
  border-collapse: collapse; border: 0; margin: 0.6rem 0; font-size: 0.9em; font-variant-numeric: tabular-nums;
}
.ns-module .ns-stage .ns-barrier-table :is(thead, tr) { background: none; border: 0; }
.ns-module .ns-stage .ns-barrier-table :is(th, td) {
  text-align: right; padding: 0.1rem 0 0.1rem 1.1rem; font-weight: normal; border: 0; background: none;
}
.ns-module .ns-stage .ns-barrier-table :is(th, td):first-child { text-align: left; padding-left: 0; }
.ns-module .ns-stage .ns-barrier-table thead th { color: var(--ns-quiet); vertical-align: bottom; }
.ns-module .ns-barrier-table svg { display: inline-block; vertical-align: middle; margin-right: 0.5em; }
@media (max-width: 40rem) {
  .ns-module .ns-barrier-sliders label:not(:has([type="checkbox"])) {
    display: grid; grid-template-columns: auto 1fr; column-gap: 0.6rem;
  }
  .ns-module .ns-barrier-sliders :is(input[type="range"], select) { grid-area: 2 / 1 / 3 / 3; }
  .ns-module .ns-barrier-sliders span { text-align: right; }
  .ns-module .ns-stage .ns-barrier-table :is(th, td) { padding-left: 0.5rem; }
  .ns-module .ns-stage .ns-barrier-said { min-height: 4.2em; font-size: 0.94em; } /* three */
}`;
