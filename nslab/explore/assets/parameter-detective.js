// How many per cent fewer parameters has a network of GPT-2's shape without key matrices? Every way of counting.
// small-plots.js stands before this file. Twin of `compute`: nslab/explore/parameter_detective.py.

const FAMILIES = { symmetric: "no noise", "v1-scalar": "scalar, shared", "v2-scalar": "scalar, per head",
  "v1-key": "key, shared", "v2-key": "key, per head", "v1-relative": "relative, shared",
  "v2-relative": "relative, per head", "v1-amortised": "amortised, shared", "v2-amortised": "amortised, per head",
  pairwise: "pairwise coefficients", "low-rank": "low-rank control" };
const FIGURE = 5.77;

// Parameters that a layer has on top of plain symmetric attention; in a noise the 2 is a mean and a log sigma.
function added({ width, heads, context, rank }, variant) {
  const each = width / heads;
  if (variant === "symmetric") return 0;
  if (variant === "pairwise") return heads * each * each;
  if (variant === "low-rank") return 2 * rank * width * heads;
  const [scope, family] = variant.split("-");
  const groups = scope === "v2" ? heads : 1;
  return { scalar: 2 * groups, key: 2 * groups * each, relative: 2 * groups * context,
    amortised: 2 * rank * (width + groups * each) }[family];
}

// A whole network: embedding (also the output), positions, blocks with `maps` input projections, norms.
function parameters({ width, layers, context, vocabularies }, { padded, positions }, bias, maps) {
  const block = (maps + 1) * width * width + 8 * width * width + 2 * width;
  const biases = layers * ((maps + 1) * width + 5 * width + 2 * width) + width;
  return vocabularies[padded ? 1 : 0] * width + (positions ? context * width : 0) + layers * block + width +
    (bias ? biases : 0);
}

// {padded, base_bias, new_bias, positions, variant, relative_to, and the shape} -> the two counts and the parts.
export function compute(state) {
  const { width, layers, variant } = state;
  const keys = layers * width * width;
  const extra = layers * added(state, variant);
  const matrices = state.relative_to === "matrices";
  const base = matrices ? 12 * keys : parameters(state, state, state.base_bias, 3);
  const plain = matrices ? 11 * keys : parameters(state, state, state.new_bias, 2);
  const saved = base - plain - extra;
  const share = saved / (state.relative_to === "new" ? plain + extra : base);
  return { base, new: plain + extra, saved, percent: 100 * share, keys, biases: base - plain - keys, added: extra,
    rounded: (100 * share).toFixed(2), cut: (Math.floor(10000 * share) / 100).toFixed(2) };
}

// ---------------------------------------------------------------- pictures
const grouped = (count) => minus(String(count)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
const isFigure = ({ rounded }) => rounded === FIGURE.toFixed(2);
const same = ({ base_bias, new_bias }) => base_bias === new_bias;
const ROWS = ["biases alike", "base only", "new only"];
const rowOf = ({ base_bias, new_bias }) => (base_bias === new_bias ? 0 : base_bias ? 1 : 2);

// All ways of counting that are shares of a whole network.
function everyWay(state) {
  const ways = [];
  for (const variant of Object.keys(FAMILIES)) for (let bits = 0; bits < 32; bits++) {
    const [padded, base_bias, new_bias, positions, smaller] = [1, 2, 4, 8, 16].map((bit) => (bits & bit) > 0);
    const way = { ...state, variant, padded, base_bias, new_bias, positions, relative_to: smaller ? "new" : "base" };
    ways.push({ way, found: compute(way) });
  }
  return ways;
}

function strip(ways, state, found, width) {
  const spans = [[5.45, 6.2], [2.6, -0.6]]; // what costs more is left of the picture
  const place = axes({ width, height: 186, left: 92, top: 22, spans, names: ["per cent fewer", ""],
    ticks: [[5.5, 5.6, 5.7, 5.8, 5.9, 6, 6.1, 6.2], [[0, ROWS[0]], [1, ROWS[1]], [2, ROWS[2]]]] });
  const [low, high] = [place.x(FIGURE - 0.005), place.x(FIGURE + 0.005)];
  let marks = place.marks + `<rect class="ns-pd-band" x="${low - 1}" y="22" width="${(high - low + 2).toFixed(2)}"
    height="124"/>` + text((low + high) / 2, 15, "5.77", `text-anchor="middle" class="ns-pd-hot"`);
  for (const { way, found: { percent } } of ways) {
    const at = place.x(percent);
    const height = place.y(rowOf(way) + (way.relative_to === "new" ? 0.2 : -0.2));
    if (percent < spans[0][0] || percent > spans[0][1]) continue;
    marks += way.relative_to === "new"
      ? `<path class="ns-pd-new" d="M${at} ${height - 5}L${at + 4} ${height}L${at} ${height + 5}L${at - 4} ${height}Z"/>`
      : `<circle class="ns-pd-base" cx="${at}" cy="${height}" r="3.6"/>`;
  }
  if (state.relative_to !== "matrices" && found.percent >= spans[0][0] && found.percent <= spans[0][1])
    marks += `<circle class="ns-pd-now" cx="${place.x(found.percent)}" cy="${
      place.y(rowOf(state) + (state.relative_to === "new" ? 0.2 : -0.2))}" r="8"/>`;
  const hits = ways.filter(({ found: one }) => isFigure(one)).length;
  return svg(width, 186, `All ${ways.length} ways of counting on a line from 5.45 to 6.2 per cent; ${hits} of them are
    5.77 when rounded. Yours is at ${found.percent.toFixed(3)}.`, marks);
}

function bill(found, state) {
  const whole = state.relative_to === "matrices" ? "matrices of the blocks" : "parameters";
  const rows = [[`base, ${whole}`, found.base, ""], ["key matrices", -found.keys, ""],
    ["biases", -found.biases, same(state) ? "" : "ns-pd-hot"], ["noise, other scores", found.added, ""],
    ["new network", found.new, "ns-pd-total"]];
  return `<table class="ns-barrier-table"><tbody>${rows.map(([name, count, kind]) => `<tr class="${kind}">
    <th scope="row">${name}</th><td>${grouped(count)}</td></tr>`).join("")}</tbody></table>`;
}

function sentence(state, found) {
  const of = { base: "of the base", new: "of the smaller network", matrices: "of the matrices of the blocks" };
  const start = `<b>${minus(found.percent.toFixed(3))} %</b> ${of[state.relative_to]}. `;
  if (state.relative_to === "matrices") return `${start}Biases and tables are not looked at.`;
  const alike = same(state) ? (state.base_bias ? "Both networks have biases." : "Neither network has biases.")
    : state.base_bias ? "The base has biases, the new network has none: dropped biases count as savings."
      : "The new network has biases, the base has none.";
  return `${start}${isFigure(found) || found.cut === FIGURE.toFixed(2)
    ? `<b>Rounded: ${found.rounded}; cut off: ${found.cut}.</b> ` : ""}${alike}`;
}

const STYLE = `<style>${SHARED_STYLE}
.ns-pd-band { fill: var(--ns-c2); fill-opacity: 0.3; }
.ns-pd-base { fill: var(--ns-c1); fill-opacity: 0.55; }
.ns-pd-new { fill: none; stroke: var(--ns-c3); stroke-width: 1.3; }
.ns-pd-now { fill: none; stroke: currentColor; stroke-width: 2.4; }
.ns-module svg text.ns-pd-hot { fill: var(--ns-c2); font-weight: bold; }
.ns-module .ns-stage tr.ns-pd-hot :is(th, td) { font-weight: bold; }
.ns-module .ns-stage tr.ns-pd-total :is(th, td) { border-top: 1px solid currentColor; }
.ns-module .ns-pd-boxes { display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; margin-bottom: 0.6rem; }
.ns-module .ns-pd-boxes label { display: flex; gap: 0.5rem; align-items: center; margin: 0; min-height: 1.7rem; }
.ns-module .ns-stage .ns-pd-said { font-size: 1.05em; }
</style>`;

const box = (name, key, checked) =>
  `<label><input type="checkbox" data-part="${key}"${checked ? " checked" : ""}>${name}</label>`;

export function render({ el, state }) {
  const relative = { base: "the base", new: "the smaller network", matrices: "matrices of the blocks" };
  el.innerHTML = `${STYLE}<div class="ns-pd-boxes">
    ${box("vocabulary padded", "padded", state.padded)}${box("biases in the base", "base_bias", state.base_bias)}
    ${box("biases in the new network", "new_bias", state.new_bias)}
    ${box("position table counts", "positions", state.positions)}</div>
    <div class="ns-barrier-sliders">${choice("Noise", "variant", FAMILIES, state.variant)}
    ${choice("Relative to", "relative_to", relative, state.relative_to)}</div>
    <p class="ns-barrier-said ns-pd-said" role="status" data-part="said"></p>
    <div class="ns-barrier-panels"><div><p class="ns-caption">The bill</p><div data-part="bill"></div></div>
    <div><p class="ns-caption">Every way to count, by who has biases
    ${swatch(`<circle class="ns-pd-base" cx="15" cy="7" r="3.6"/>`, "share of the base")}
    ${swatch(`<path class="ns-pd-new" d="M15 2L19 7L15 12L11 7Z"/>`, "of the smaller network")}
    ${swatch(`<circle class="ns-pd-now" cx="15" cy="7" r="6"/>`, "yours")}</p><div data-part="strip"></div></div></div>`;
  const part = partsOf(el);
  const ways = everyWay(state);

  function paint() {
    const setting = { ...state, variant: part.variant.value, relative_to: part.relative_to.value };
    for (const key of ["padded", "base_bias", "new_bias", "positions"]) setting[key] = part[key].checked;
    const found = compute(setting);
    part.said.innerHTML = sentence(setting, found);
    part.bill.innerHTML = bill(found, setting);
    part.strip.innerHTML = strip(ways, setting, found, Math.max(260, Math.min(part.strip.clientWidth, 440)));
  }
  for (const key of ["padded", "base_bias", "new_bias", "positions", "variant", "relative_to"])
    part[key].oninput = paint;
  paint();
  let width = el.clientWidth;
  new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; paint(); } }).observe(el);
}
