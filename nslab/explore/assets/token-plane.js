// Tokens in the plane: past tokens and a query can be dragged; where is the block J = I - Sigma A singular?
// A is β times a rotation. Joined after plane-blocks.js. Twin of `compute`: nslab/explore/token_plane.py.

// {past, query, strength, turn, noise, grid} -> the block at the query, and its determinant at a grid of queries.
export function compute({ past, query, strength, turn, noise, grid }) {
  const angle = (turn * Math.PI) / 180;
  const scores = [[Math.cos(angle), -Math.sin(angle)], [Math.sin(angle), Math.cos(angle)]].map((row) =>
    row.map((value) => strength * value));
  const { weights, mean, covariance } = attend(past, query, scores);
  const block = blockOf(covariance, scores);
  const det = determinant(block);
  const { small, direction } = singular(block);
  const spread = Math.max(...past.flatMap((a) => past.map((b) => Math.hypot(...less(a, b)))));
  const [[a, b], [c, d]] = block;
  const place = (k) => (2 * REACH * k) / (grid - 1) - REACH;
  const determinants = Array.from({ length: grid }, (_, row) => Array.from({ length: grid }, (_, column) =>
    determinant(blockOf(attend(past, [place(column), place(row)], scores).covariance, scores))));
  const all = determinants.flat();
  return {
    weights, mean, block, determinant: det, spectral: small, direction,
    follows: direction && less(direction, apply(block, direction)),
    ellipse: small < SINGULAR ? null : [[d, -b], [-c, a]].map((row) => row.map((value) => (noise * value) / det)),
    certified: spread ? (4 * small) / (strength * strength * spread ** 3) : null,
    load: (strength * spread * spread) / 4,
    street: past.length === 2 ? streetOf(past, scores) : null,
    determinants,
    lowest: all.reduce((low, value) => Math.min(low, value), Infinity),
    beyond: all.filter((value) => value < 0).length / all.length,
  };
}

// ---------------------------------------------------------------- drawing
const SHADES = { beyond: [213, 94, 0], near: [0, 114, 178], above: [0, 158, 115] }; // strong enough on white and black
const fixed = (value, digits = 2) => value.toFixed(digits).replace(/^-0(\.0*)?$/, "0$1").replace("-", "−");
const pair = ([x, y]) => `(${fixed(x)}, ${fixed(y)})`;

// det J as colour: blue towards 0, nothing at 1, green above; orange below 0.
function shade(value) {
  if (value < 0) return [...SHADES.beyond, 0.5 + 0.4 * Math.min(1, -value)];
  if (value <= 1) return [...SHADES.near, 0.75 * (1 - value)];
  return [...SHADES.above, 0.6 * Math.min(1, (value - 1) / 2)];
}

function heat(canvas, determinants) {
  const grid = determinants.length;
  const small = document.createElement("canvas");
  small.width = small.height = grid;
  const image = new ImageData(grid, grid);
  determinants.forEach((row, j) => row.forEach((value, i) => {
    const [red, green, blue, alpha] = shade(value);
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
.ns-module .ns-plane-sliders { display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; margin: 0.5rem 0; }
.ns-module .ns-plane-sliders label { flex: 1 1 12rem; display: block; margin: 0; }
.ns-module .ns-plane-sliders :is(input, select) { display: block; width: 100%; accent-color: var(--ns-c1); }
.ns-module .ns-plane-sliders input { border: 0; padding: 0; }
.ns-module .ns-plane { position: relative; margin: 0.3rem auto; border: 1px solid var(--ns-edge); }
.ns-module .ns-plane > * { position: absolute; inset: 0; }
.ns-module .ns-plane svg { overflow: hidden; }
.ns-module .ns-plane [role=slider] { cursor: grab; touch-action: none; }
.ns-module .ns-plane [role=slider]:focus-visible { outline: none; } /* the ring is it */
.ns-module .ns-plane .ns-plane-ring { fill: none; stroke: none; }
.ns-module .ns-plane :focus-visible .ns-plane-ring { stroke: var(--ns-c2); stroke-width: 4; }
.ns-plane-hit { fill: transparent; }
.ns-plane-token { fill: white; stroke: #222; stroke-width: 2; }
.ns-plane-asked { fill: #f0e442; stroke: #222; stroke-width: 2; }
.ns-module .ns-plane [role=slider] text { fill: #222; font-size: 13px; font-weight: 600; pointer-events: none; }
.ns-plane-zero { fill: none; stroke: currentColor; stroke-width: 2.5; }
.ns-plane-kerb { stroke: var(--ns-c2); stroke-width: 2; stroke-dasharray: 7 5; }
.ns-plane-link { stroke: currentColor; stroke-opacity: 0.55; stroke-linecap: round; }
.ns-plane-ball { fill: none; stroke: currentColor; stroke-width: 1.6; stroke-dasharray: 2 3; }
.ns-plane-image { fill: currentColor; fill-opacity: 0.12; stroke: currentColor; stroke-width: 2; }
.ns-plane-safe { fill: none; stroke: var(--ns-c3); stroke-width: 2.5; stroke-dasharray: 8 4; }
.ns-plane-arrow { stroke: currentColor; stroke-width: 2; fill: none; }
.ns-plane-mean { fill: none; stroke: currentColor; stroke-width: 2.5; }
.ns-plane-bar { height: 0.8rem; border: 1px solid var(--ns-edge); }
.ns-plane-scale { max-width: min(22rem, 86%); margin: 0.5rem auto 1.6rem; font-size: 0.85em; position: relative; }
.ns-plane-scale i { position: absolute; top: 100%; transform: translateX(-50%); white-space: nowrap; }
.ns-module .ns-stage [hidden] { display: none; }
.ns-module .ns-stage .ns-plane-said { font-variant-numeric: tabular-nums; min-height: 2.8em; }
.ns-module .ns-stage .ns-plane-asks { font-variant-numeric: tabular-nums; min-height: 4.2em; }
@media (max-width: 480px) { .ns-module .ns-stage .ns-plane-said { min-height: 4.2em; }
  .ns-module .ns-stage .ns-plane-asks { min-height: 7em; } }
</style>`;
const swatch = (content, name) =>
  `<span class="ns-key"><svg width="30" height="14" aria-hidden="true">${content}</svg>${name}</span>`;
const node = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
const SHAPE = { token: "M-10 0A10 10 0 1 0 10 0A10 10 0 1 0 -10 0Z", asked: "M0 -13L13 0L0 13L-13 0Z" };

// The figure in words: what the map shows, and what the query sees.
function words(setting, result, asked) {
  const { street, lowest, beyond, load } = result;
  let map = beyond ? `det J is negative at ${fixed(100 * beyond, beyond < 0.1 ? 1 : 0)} % of the queries shown; the ${
    ""}lowest value is ${fixed(lowest)}.` : `det J is nowhere negative; the lowest value shown is ${fixed(lowest)}.`;
  if (street) map = `κ = ${fixed(street.kappa)}: ${street.width === null ? "not above 4, so there is no street" :
    `a street of width ${fixed(street.width)}`}. Where both logits are equal det J = 1 − κ/4 = ${
    fixed(1 - street.kappa / 4)}.`;
  const safe = load < 1 ? "below 1, so that no query can be on the boundary." : "not below 1: it promises nothing.";
  map += ` ‖A‖D²/4 = ${fixed(load)}, ${safe}`;
  if (!asked) return [map, ""];
  const { determinant: det, spectral, direction, follows, certified } = result;
  const move = direction ? `, in the direction v = ${pair(direction)}. When the query sets out along v, its mean ${
    ""}follows with ${pair(follows)}` : "";
  const gain = spectral < SINGULAR ? "without limit" : `up to 1/s = ${fixed(1 / spectral)} times`;
  const radius = certified === null ? "anywhere" : `within ${fixed(certified, certified < 0.1 ? 3 : 2)}`;
  return [map, `At the query det J = ${fixed(det)}, and the smallest singular value is s = ${fixed(spectral)}. Small ${
    ""}noise is magnified ${gain}${move}. Certified: no boundary ${radius}.`];
}

export function render({ el, state, compute }) {
  const [, few, many, strongest] = state.limits;
  let setting = structuredClone({ ...state, places: null });
  const ranges = { strength: ["Inverse temperature β", 0.1, strongest, 0.1],
    turn: ["Turn of the scores", 0, 180, 5] };
  el.innerHTML = `${STYLE}<div class="ns-inputs" role="group" aria-label="Start from">${Object.keys(state.places)
    .map((name) => `<button type="button" data-place="${name}">${name}</button>`).join("")}
    <button type="button" data-part="more">Add a token</button>
    <button type="button" data-part="fewer">Remove one</button></div><div class="ns-plane-sliders">${
    Object.entries(ranges).map(([key, [name, low, high, step]]) => `<label>${name}:
      <b></b><input type="range" data-part="${key}" aria-label="${name}" min="${low}" max="${high}" step="${step}">
      </label>`).join("")}<label ${state.asked ? "" : "hidden"}>Around the query
      <select data-part="around" aria-label="Around the query">
      <option value="noise">ball of noise, image</option><option value="safe">certified radius</option>
      <option value="none">nothing</option></select></label></div>
    <div class="ns-plane"><canvas aria-hidden="true"></canvas></div>
    <p class="ns-caption"></p>
    <div class="ns-plane-scale"><div class="ns-plane-bar"></div>
      ${["≤ −1", "det J = 0", "1", "2", "≥ 3"].map((name, k) => `<i style="left: ${25 * k}%">${name}</i>`).join("")}
    </div>
    <p class="ns-plane-said" role="status"></p><p class="ns-plane-asks"${state.asked ? "" : " hidden"}></p>
    <p class="ns-help">Drag a token, or Tab to it and move it with the arrow keys (with Shift in small steps).</p>`;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  const [plane, canvas, caption, said, asks] = [".ns-plane", "canvas", ".ns-caption", ".ns-plane-said", ".ns-plane-asks"]
    .map((name) => el.querySelector(name));
  const stops = [-1, -1e-9, 0, 1, 3].map((value) => `rgba(${shade(value)}) ${25 * (value + 1)}%`);
  el.querySelector(".ns-plane-bar").style.background = `linear-gradient(90deg, ${stops})`;
  const svg = node("svg", { role: "group" });
  const [marks, over] = [node("g", {}), node("g", { "pointer-events": "none" })]; // below and above the handles
  plane.append(svg);
  let size, handles;

  const x = (value) => ((value + REACH) / (2 * REACH)) * size;
  const y = (value) => size - x(value);
  const points = () => (state.asked ? [...setting.past, setting.query] : setting.past);

  function measure() {
    size = Math.max(240, Math.min(el.clientWidth - 2, 480));
    plane.style.width = plane.style.height = `${size + 2}px`;
    const sharp = Math.min(3, window.devicePixelRatio || 1);
    canvas.width = canvas.height = Math.round(size * sharp);
    canvas.style.width = canvas.style.height = `${size}px`;
    for (const [key, value] of Object.entries({ width: size, height: size, viewBox: `0 0 ${size} ${size}` }))
      svg.setAttribute(key, value);
  }
  function build() { // handles stay while they are dragged; only their places change
    handles = points().map((_, k) => {
      const asked = k === setting.past.length;
      const handle = node("g", { tabindex: 0, role: "slider", "aria-valuemin": -REACH, "aria-valuemax": REACH,
        "aria-label": asked ? "Query" : `Past token ${k + 1}` });
      handle.innerHTML = `<circle class="ns-plane-hit" r="20"/><circle class="ns-plane-ring" r="16"/><path class="${
        asked ? "ns-plane-asked" : "ns-plane-token"}" d="${asked ? SHAPE.asked : SHAPE.token}"/>
        <text text-anchor="middle" y="4.5">${asked ? "u" : k + 1}</text>`;
      const move = ([px, py]) => {
        const clip = (value) => Math.round(100 * Math.max(-REACH, Math.min(REACH, value))) / 100;
        points()[k].splice(0, 2, clip(px), clip(py));
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
        const step = event.shiftKey ? 0.01 : 0.1;
        move(points()[k].map((value, axis) => value + step * way[axis]));
      };
      return handle;
    });
    svg.replaceChildren(marks, ...handles, over);
    update();
  }
  function drawn(result) {
    const { street, mean, weights, ellipse, direction, follows } = result;
    let content = `<path class="ns-plane-zero" d="${contour(result.determinants, x, y)}"/>`;
    const line = (name, [ax, ay], [bx, by], rest = "") => `<line class="${name}" x1="${x(ax).toFixed(1)}" y1="${
      y(ay).toFixed(1)}" x2="${x(bx).toFixed(1)}" y2="${y(by).toFixed(1)}" ${rest}/>`;
    if (street?.offset) for (const side of [-1, 1]) {
      const [nx, ny] = street.normal;
      const square = nx * nx + ny * ny;
      const foot = [nx, ny].map((value) => (side * street.offset * value) / square);
      const along = [-ny, nx].map((value) => (3 * REACH * value) / Math.sqrt(square));
      content += line("ns-plane-kerb", less(foot, along), [foot[0] + along[0], foot[1] + along[1]]);
    }
    if (!state.asked) return content;
    const { query, past } = setting;
    past.forEach((token, s) => {
      content += line("ns-plane-link", query, token, `stroke-width="${(7 * weights[s]).toFixed(2)}"`);
    });
    content += `<path class="ns-plane-mean" d="M-6 -6L6 6M-6 6L6 -6" transform="translate(${x(mean[0])} ${
      y(mean[1])})"/>`;
    const unit = size / (2 * REACH);
    if (part.around.value === "noise") {
      content += `<circle class="ns-plane-ball" cx="${x(query[0])}" cy="${y(query[1])}" r="${setting.noise * unit}"/>`;
      if (ellipse) content += `<path class="ns-plane-image" d="${Array.from({ length: 97 }, (_, k) => {
        const [px, py] = apply(ellipse, [Math.cos((k * Math.PI) / 48), Math.sin((k * Math.PI) / 48)]);
        return `${k ? "L" : "M"}${x(query[0] + px).toFixed(1)} ${y(query[1] + py).toFixed(1)}`;
      }).join("")}Z"/>`;
      if (direction) for (const [from, way] of [[query, direction], [mean, follows]]) {
        const to = from.map((value, axis) => value + 0.7 * way[axis]);
        const [px, py] = less([x(to[0]), y(to[1])], [x(from[0]), y(from[1])]);
        const angle = (Math.atan2(py, px) * 180) / Math.PI;
        content += line("ns-plane-arrow", from, to) + (Math.hypot(px, py) < 4 ? "" : `<path class="ns-plane-arrow"
          d="M-8 -5L0 0L-8 5" transform="translate(${x(to[0])} ${y(to[1])}) rotate(${angle})"/>`);
      }
    }
    return content;
  }
  function certain({ certified }) { // often smaller than the handle of the query
    const [qx, qy] = setting.query;
    return !state.asked || part.around.value !== "safe" ? "" : `<circle class="ns-plane-safe" cx="${x(qx)}" cy="${
      y(qy)}" r="${(Math.min(certified ?? Infinity, 9 * REACH) * size) / (2 * REACH)}"/>`;
  }
  function update() {
    const { past, query, strength, turn, noise, grid } = setting;
    const result = compute({ past, query, strength, turn, noise, grid });
    heat(canvas, result.determinants);
    [marks.innerHTML, over.innerHTML] = [drawn(result), certain(result)];
    points().forEach((point, k) => {
      handles[k].setAttribute("transform", `translate(${x(point[0])} ${y(point[1])})`);
      handles[k].setAttribute("aria-valuenow", point[0]);
      handles[k].setAttribute("aria-valuetext", `at ${pair(point)}`);
    });
    const [map, query_] = words(setting, result, state.asked);
    said.textContent = map;
    asks.textContent = query_;
    const who = `${past.length} past tokens${state.asked ? " and a query" : ""}`;
    svg.setAttribute("aria-label", `A plane with ${who}. ${map} ${query_}`);
    for (const key of Object.keys(ranges)) {
      part[key].value = setting[key];
      const told = key === "turn" ? `${turn}°` : fixed(strength, 1);
      part[key].setAttribute("aria-valuetext", told);
      part[key].previousElementSibling.textContent = told;
    }
    part.more.disabled = past.length >= many;
    part.fewer.disabled = past.length <= few;
    const keys = [[`<path class="ns-plane-zero" d="M2 7H28"/>`, "det J = 0: the boundary"]];
    if (result.street?.offset) keys.push([`<path class="ns-plane-kerb" d="M2 7H28"/>`, "the two hyperplanes"]);
    if (state.asked) keys.push([`<path class="ns-plane-mean" d="M9 1L21 13M9 13L21 1"/>`, "mean of the query u"]);
    if (state.asked && part.around.value === "noise") keys.push(
      [`<circle class="ns-plane-ball" cx="15" cy="7" r="6"/>`, "ball of noise"],
      [`<ellipse class="ns-plane-image" cx="15" cy="7" rx="13" ry="5"/>`, "its image"],
      [`<path class="ns-plane-arrow" d="M2 7H28M20 2L28 7L20 12"/>`, "v, and how the mean follows"]);
    if (state.asked && part.around.value === "safe")
      keys.push([`<circle class="ns-plane-safe" cx="15" cy="7" r="6"/>`, "certified: no boundary inside"]);
    caption.innerHTML = keys.map(([content, name]) => swatch(content, name)).join("");
  }
  for (const key of Object.keys(ranges)) part[key].oninput = () => {
    setting[key] = +part[key].value;
    update();
  };
  part.around.onchange = update;
  part.more.onclick = () => {
    const angle = 2.4 * setting.past.length; // spread around, by the golden angle
    setting.past.push([1.6 * Math.cos(angle), 1.6 * Math.sin(angle)].map((value) => Math.round(100 * value) / 100));
    build();
  };
  part.fewer.onclick = () => {
    setting.past.pop();
    build();
  };
  for (const button of el.querySelectorAll("[data-place]")) button.onclick = () => {
    setting.past = structuredClone(state.places[button.dataset.place]);
    build();
  };
  measure();
  build();
  let width = el.clientWidth;
  new ResizeObserver(() => {
    if (el.clientWidth === width) return;
    width = el.clientWidth;
    measure();
    update();
  }).observe(el);
}
