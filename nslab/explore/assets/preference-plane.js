// Two queries in the plane: which of them scores the other higher than itself? Score of i for j: q_i · W q_j.
// Twin of `compute`: nslab/explore/preference_plane.py.

const REACH = 2; // the plane shown is a square from -REACH to REACH
const ROOT = Math.sqrt(2); // of the head width

const dot = ([a, b], [c, d]) => a * c + b * d;
const apply = ([first, second], vector) => [dot(first, vector), dot(second, vector)];

function between(kind, turn) {
  if (kind === "mirror") return [[1, 0], [0, -1]];
  const angle = kind === "turn" ? (turn * Math.PI) / 180 : 0;
  return [[Math.cos(angle), -Math.sin(angle)], [Math.sin(angle), Math.cos(angle)]];
}

// {a, b, kind, turn, grid} -> scores and weights of the two, who prefers the other, and where b could stand.
export function compute({ a, b, kind, turn, grid }) {
  const matrix = between(kind, turn);
  const score = (from, to) => dot(from, apply(matrix, to));
  const prefers = (from, to) => score(from, to) > score(from, from);
  const scores = [a, b].map((from) => [a, b].map((to) => score(from, to)));
  const weights = scores.map(([one, two]) => {
    const share = 1 / (1 + Math.exp((two - one) / ROOT));
    return [share, 1 - share];
  });
  const place = (k) => (2 * REACH * k) / (grid - 1) - REACH;
  const map = Array.from({ length: grid }, (_, row) => Array.from({ length: grid }, (_, column) => {
    const other = [place(column), place(row)];
    return Number(prefers(a, other)) + 2 * Number(prefers(other, a));
  }));
  const all = map.flat();
  const [[p, q], [r, s]] = matrix;
  return {
    matrix, scores, weights,
    lengths: [a, b].map((vector) => Math.hypot(...vector)),
    prefers: [prefers(a, b), prefers(b, a)],
    lowest: (p + s) / 2 - Math.hypot((p - s) / 2, (q + r) / 2), // eigenvalue of the symmetric part of W
    shares: [1, 2, 3].map((code) => all.filter((each) => each === code).length / all.length),
    map,
  };
}

// ---------------------------------------------------------------- drawing
const SHADES = [[0, 0, 0, 0], [0, 114, 178, 0.5], [213, 94, 0, 0.55], [0, 158, 115, 0.9]]; // on white and on black
const REGIONS = [, "a prefers b", "b prefers a", "both"];
const colour = (code) => `rgba(${SHADES[code]})`;
const fixed = (value, digits = 2) => value.toFixed(digits).replace(/^-0(\.0*)?$/, "0$1").replace("-", "−");
const pair = ([x, y]) => `(${fixed(x)}, ${fixed(y)})`;

function shade(canvas, map) {
  const grid = map.length;
  const small = document.createElement("canvas");
  small.width = small.height = grid;
  const image = new ImageData(grid, grid);
  map.forEach((row, j) => row.forEach((code, i) => {
    const [red, green, blue, alpha] = SHADES[code];
    image.data.set([red, green, blue, 255 * alpha], 4 * ((grid - 1 - j) * grid + i));
  }));
  small.getContext("2d").putImageData(image, 0, 0);
  const size = canvas.width;
  const cell = size / (grid - 1);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, size, size);
  context.drawImage(small, -cell / 2, -cell / 2, grid * cell, grid * cell);
}

const STYLE = `<style>
.ns-module .ns-want { display: flex; flex-wrap: wrap; gap: 0.6rem 1.4rem; align-items: flex-start; }
.ns-module .ns-want > div { flex: 1 1 15rem; min-width: 0; }
.ns-module .ns-want > .ns-want-plane { flex: 0 0 auto; position: relative; border: 1px solid var(--ns-edge); }
.ns-module .ns-want-plane > * { position: absolute; inset: 0; }
.ns-module .ns-want-plane svg { overflow: hidden; }
.ns-module .ns-want-plane [role=slider] { cursor: grab; touch-action: none; }
.ns-module .ns-want-plane [role=slider]:focus-visible { outline: none; } /* the ring is it */
.ns-want-hit { fill: transparent; }
.ns-module .ns-want-ring { fill: none; stroke: none; }
.ns-module :focus-visible > .ns-want-ring { stroke: var(--ns-c2); stroke-width: 4; }
.ns-want-tip { fill: white; stroke: #222; stroke-width: 2; }
.ns-module .ns-want-plane [role=slider] text { fill: #222; font-size: 13px; font-weight: 600; pointer-events: none; }
.ns-want-arrow { stroke: currentColor; stroke-width: 2.5; }
.ns-module .ns-inputs label { display: flex; gap: 0.4rem; align-items: center; margin: 0; }
.ns-module .ns-inputs input[type=range] { border: 0; padding: 0; accent-color: var(--ns-c1); }
.ns-module .ns-inputs b { min-width: 2.6em; font-variant-numeric: tabular-nums; }
.ns-module .ns-stage .ns-want-table { border-collapse: collapse; border: 0; margin: 0.2rem 0; font-size: 0.92em;
  font-variant-numeric: tabular-nums; }
.ns-module .ns-stage .ns-want-table :is(thead, tr) { background: none; border: 0; }
.ns-module .ns-stage .ns-want-table :is(th, td) { text-align: right; padding: 0.15rem 0 0.15rem 1.1rem; border: 0;
  background: none; font-weight: normal; }
.ns-module .ns-stage .ns-want-table :is(th, td):first-child { text-align: left; padding-left: 0; }
.ns-module .ns-want-table thead th { color: var(--ns-quiet); }
.ns-want-swatch { display: inline-block; width: 1.6em; height: 0.9em; vertical-align: middle; margin-right: 0.4em;
  border: 1px solid currentColor; }
.ns-module .ns-stage .ns-want-said { min-height: 4.2em; font-variant-numeric: tabular-nums; }
.ns-module .ns-inputs label:has(:disabled) { opacity: 0.6; }
</style>`;
const node = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

function words({ prefers: [ab, ba], weights, lengths, shares, lowest }) {
  const now = ab && ba ? "Both prefer the other." : ab ? "a prefers b, and b prefers itself."
    : ba ? "b prefers a, and a prefers itself." : "Neither prefers the other.";
  const region = shares[2] ? `With this W there is room for both, on ${fixed(100 * shares[2], 0)} % of the plane shown.`
    : "Nowhere in the plane could b stand so that both prefer the other.";
  return `${now} a is ${fixed(lengths[0])} long and gives ${fixed(100 * weights[0][1], 0)} % to b; b is ${
    fixed(lengths[1])} long and gives ${fixed(100 * weights[1][0], 0)} % to a. ${region}`;
}

export function render({ el, state, compute }) {
  const setting = structuredClone({ ...state, places: null });
  const kinds = { tied: "none: tied", mirror: "mirror", turn: "turn" };
  el.innerHTML = `${STYLE}<div class="ns-inputs"><label>Pairwise W <select data-part="kind" aria-label="Pairwise W">${
    Object.entries(kinds).map(([key, name]) => `<option value="${key}">${name}</option>`).join("")}</select></label>
    <label>angle <input type="range" data-part="turn" aria-label="Turn of W in degrees" min="0" max="180"
    step="5"><b></b></label></div>
    <div class="ns-inputs" role="group" aria-label="Start from" style="margin-top: 0.5rem">${Object.keys(state.places)
    .map((name) => `<button type="button" data-place="${name}">${name}</button>`).join("")}</div>
    <p class="ns-caption">Shaded, where b could stand: ${[1, 2, 3].map((code) => `<span class="ns-key">
    <span class="ns-want-swatch" style="background: ${colour(code)}"></span>${REGIONS[code]}</span>`).join("")}</p>
    <div class="ns-want"><div class="ns-want-plane"><canvas aria-hidden="true"></canvas></div><div>
    <table class="ns-want-table"><thead><tr><th>row</th><th>for a</th><th>for b</th></tr></thead><tbody></tbody></table>
    <p class="ns-want-said" role="status"></p>
    <p class="ns-help">Drag the tips, or Tab to one and use the arrow keys (with Shift in small steps).</p></div></div>`;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  const [plane, canvas, body, said] = [".ns-want-plane", "canvas", "tbody", ".ns-want-said"]
    .map((name) => el.querySelector(name));
  const svg = node("svg", { role: "group" });
  const marks = node("g", {});
  let size;
  const x = (value) => ((value + REACH) / (2 * REACH)) * size;
  const y = (value) => size - x(value);

  const handles = ["a", "b"].map((name) => {
    const handle = node("g", { tabindex: 0, role: "slider", "aria-valuemin": -REACH, "aria-valuemax": REACH,
      "aria-label": `Query of ${name}` });
    handle.innerHTML = `<circle class="ns-want-hit" r="20"/><circle class="ns-want-ring" r="16"/>
      <circle class="ns-want-tip" r="11"/><text text-anchor="middle" y="4.5">${name}</text>`;
    const move = (to) => {
      setting[name] = to.map((value) => Math.round(100 * Math.max(-REACH, Math.min(REACH, value))) / 100);
      update();
    };
    handle.onpointerdown = (event) => {
      if (event.button) return;
      event.preventDefault();
      handle.focus({ preventScroll: true });
      handle.setPointerCapture(event.pointerId);
    };
    handle.onpointermove = (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = svg.getBoundingClientRect();
      const unit = (2 * REACH) / box.width;
      move([(event.clientX - box.left) * unit - REACH, REACH - (event.clientY - box.top) * unit]);
    };
    handle.onkeydown = (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault();
      event.stopPropagation();
      move(setting[name].map((value, axis) => value + (event.shiftKey ? 0.01 : 0.1) * way[axis]));
    };
    return handle;
  });
  svg.append(marks, ...handles);
  plane.append(svg);

  function measure() {
    size = Math.max(240, Math.min(el.clientWidth - 2, 340));
    plane.style.width = plane.style.height = `${size + 2}px`;
    const sharp = Math.min(3, window.devicePixelRatio || 1);
    canvas.width = canvas.height = Math.round(size * sharp);
    canvas.style.width = canvas.style.height = `${size}px`;
    for (const [key, value] of Object.entries({ width: size, height: size, viewBox: `0 0 ${size} ${size}` }))
      svg.setAttribute(key, value);
  }
  function update() {
    const { a, b, kind, turn, grid } = setting;
    const result = compute({ a, b, kind, turn, grid });
    shade(canvas, result.map);
    const axes = `<line class="ns-gridline" x1="0" x2="${size}" y1="${y(0)}" y2="${y(0)}"/>
      <line class="ns-gridline" y1="0" y2="${size}" x1="${x(0)}" x2="${x(0)}"/>`;
    marks.innerHTML = axes + [a, b].map(([px, py]) => `<line class="ns-want-arrow" x1="${x(0)}" y1="${y(0)}"
      x2="${x(px)}" y2="${y(py)}"/>`).join("");
    [a, b].forEach((point, k) => {
      handles[k].setAttribute("transform", `translate(${x(point[0])} ${y(point[1])})`);
      handles[k].setAttribute("aria-valuenow", point[0]);
      handles[k].setAttribute("aria-valuetext", `at ${pair(point)}`);
    });
    body.innerHTML = ["a", "b"].map((name, k) => `<tr><th scope="row">${name}: score</th>${result.scores[k]
      .map((value) => `<td>${fixed(value)}</td>`).join("")}</tr><tr><th scope="row">${name}: weight</th>${
      result.weights[k].map((value) => `<td>${fixed(value, 3)}</td>`).join("")}</tr>`).join("");
    said.textContent = words(result);
    svg.setAttribute("aria-label", `A plane with two queries. ${said.textContent}`);
    part.kind.value = kind;
    part.turn.disabled = kind !== "turn";
    part.turn.value = turn;
    part.turn.setAttribute("aria-valuetext", `${turn}°`);
    part.turn.nextElementSibling.textContent = `${turn}°`;
  }
  part.kind.onchange = () => {
    setting.kind = part.kind.value;
    update();
  };
  part.turn.oninput = () => {
    setting.turn = +part.turn.value;
    update();
  };
  for (const button of el.querySelectorAll("[data-place]")) button.onclick = () => {
    [setting.a, setting.b] = structuredClone(state.places[button.dataset.place]);
    update();
  };
  measure();
  update();
  let width = el.clientWidth;
  new ResizeObserver(() => {
    if (el.clientWidth === width) return;
    width = el.clientWidth;
    measure();
    update();
  }).observe(el);
}
