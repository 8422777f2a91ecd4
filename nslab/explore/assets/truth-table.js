// A Boolean function {-1,1}^n -> {-1,1}, clicked or typed, and its exact Fourier analysis. -1 is true.
// Table index i: binary digit j (least significant first) is 1 iff x_{j+1} = -1. Subset S is the same bitmask.
// boolean-formula.js stands in front of this file. Twin of `compute`: nslab/explore/truthtable.py.

// {n, formula} or {n, table} -> every number of the figure, or {error: {position, token, message}}.
export function compute({ n, formula, table }) {
  try {
    if (table) {
      n = Math.log2(table.length);
      if (!Number.isInteger(n) || n < 1 || n > MOST_BITS || !table.every((value) => value === 1 || value === -1))
        throw new FormulaError(-1, "", "A table needs 2^n entries (n from 1 to 12), each 1 or -1.");
      return measure(n, table);
    }
    const { tree, variables } = parse(formula);
    const largest = Math.max(1, ...variables.map((token) => token.value));
    const beyond = n && variables.find((token) => token.value > n);
    if (beyond)
      throw new FormulaError(beyond.at, beyond.text,
        `"${beyond.text}" is beyond n = ${n}: choose n = ${largest}, or use x1 to x${n} only.`);
    return measure(n ?? largest, evaluate(tree, n ?? largest));
  } catch (error) {
    if (error instanceof FormulaError) return { error: error.detail };
    throw error;
  }
}

function measure(n, table) {
  const size = table.length;
  const spectrum = Float64Array.from(table); // the Walsh-Hadamard butterfly: n passes over 2^n integers, exact
  for (let half = 1; half < size; half *= 2)
    for (let start = 0; start < size; start += 2 * half)
      for (let i = start; i < start + half; i++) {
        const sum = spectrum[i] + spectrum[i + half];
        spectrum[i + half] = spectrum[i] - spectrum[i + half];
        spectrum[i] = sum;
      }
  const coefficients = Array.from(spectrum, (value) => value / size);
  const levelWeights = new Array(n + 1).fill(0);
  coefficients.forEach((value, subset) => { levelWeights[popcount(subset)] += value * value; });
  const influences = new Array(n).fill(0);
  let maxSensitivity = 0;
  for (let i = 0; i < size; i++) {
    let sensitivity = 0;
    for (let j = 0; j < n; j++)
      if (table[i] !== table[i ^ (1 << j)]) { influences[j] += 1 / size; sensitivity++; }
    maxSensitivity = Math.max(maxSensitivity, sensitivity);
  }
  return {
    n,
    mean: coefficients[0],
    total_influence: influences.reduce((a, b) => a + b, 0),
    max_sensitivity: maxSensitivity,
    degree: levelWeights.findLastIndex((weight) => weight > 0),
    influences,
    level_weights: levelWeights,
    coefficients,
    table: Array.from(table),
  };
}

const number = (value) => String(+value.toFixed(4)).replace("-", "−");
const members = (subset) => Array.from({ length: MOST_BITS }, (_, j) => j + 1).filter((j) => (subset >> (j - 1)) & 1);
const subsetName = (subset) => (subset ? `{${members(subset).join(", ")}}` : "∅");
const colour = (degree) =>
  degree ? `var(--ns-c${1 + ((degree - 1) % 4)})` : "var(--ns-quiet)";

// bars: [{value, colour, tip, label?, group?}]; bars of one group stand together above its name.
function barChart({ width, height, bars, low, ticks, title, description }) {
  const grouped = bars[0].group !== undefined;
  const [left, right, top, bottom] = [grouped ? 54 : 34, 6, 8, grouped ? (bars[0].label ? 36 : 26) : 20];
  const groups = new Set(bars.map((bar) => bar.group)).size;
  const gap = 10;
  const step = (width - left - right - gap * (groups - 1)) / bars.length;
  const y = (value) => top + ((1 - value) / (1 - low)) * (height - top - bottom);
  const text = (x, at, content, anchor = "middle") =>
    `<text x="${x.toFixed(1)}" y="${at.toFixed(1)}" text-anchor="${anchor}">${content}</text>`;
  let marks = ticks.map((tick) => `<line class="${tick ? "ns-gridline" : "ns-axis"}" x1="${left}" x2="${width - right}"
    y1="${y(tick)}" y2="${y(tick)}"/>` + text(left - 5, y(tick) + 4, number(tick), "end")).join("");
  let x = left;
  let start = left;
  bars.forEach((bar, k) => {
    const [high, foot] = [y(Math.max(bar.value, 0)), y(Math.min(bar.value, 0))];
    const thick = Math.min(step * 0.8, 44);
    marks += `<g><title>${bar.tip}</title><rect x="${(x + (step - thick) / 2).toFixed(1)}" y="${high.toFixed(1)}"
      width="${thick.toFixed(1)}" height="${Math.max(foot - high, 0).toFixed(1)}" fill="${bar.colour}"/></g>`;
    if (bar.label) marks += text(x + step / 2, height - bottom + 14, bar.label);
    x += step;
    if (grouped && bar.group !== bars[k + 1]?.group) {
      marks += text((start + x) / 2, height - 6, bar.group);
      start = x += gap;
    }
  });
  if (grouped) marks += text(left - 12, height - 6, "degree", "end");
  return `<div class="ns-chart"><p class="ns-caption">${title}</p><svg role="img" aria-label="${description}"
    width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${marks}</svg></div>`;
}

// The subsets of the largest coefficients; a sort of all 2^n of them would be the slowest step of an update.
function leading(coefficients, most) {
  const best = [];
  coefficients.forEach((value, subset) => {
    const size = Math.abs(value);
    if (!size || (best.length === most && size <= Math.abs(coefficients[best[most - 1]]))) return;
    const place = best.findIndex((other) => size > Math.abs(coefficients[other]));
    best.splice(place < 0 ? best.length : place, 0, subset);
    best.length = Math.min(best.length, most);
  });
  return best;
}

function charts(result, width) {
  const { n, influences, coefficients, level_weights: weights } = result;
  const largest = leading(coefficients, 8).map((subset) => `${subsetName(subset)}: ${number(coefficients[subset])}`);
  const first = barChart({
    width, height: 150, low: 0, ticks: [0, 0.5, 1], title: "Influence: how often the bit decides f",
    description: "Influences: " + influences.map((value, j) => `x${j + 1} ${number(value)}`).join(", "),
    bars: influences.map((value, j) => ({
      value, colour: colour(1), label: (n > 8 ? "" : "x") + (j + 1), tip: `x${j + 1}: ${number(value)}`,
    })),
  });
  if (n > 6)
    return first + barChart({
      width, height: 170, low: 0, ticks: [0, 0.5, 1], title: "Fourier weight at each degree",
      description: "Weights by degree: " + weights.map((value, k) => `${k}: ${number(value)}`).join(", "),
      bars: weights.map((value, k) => (
        { value, colour: colour(k), label: `${k}`, tip: `degree ${k}: ${number(value)}` })),
    }) + `<p class="ns-caption">Largest coefficients</p><p class="ns-list">${
      largest.map((text) => `<span>${text}</span>`).join(" ")}</p>`;
  const order = coefficients.map((_, subset) => subset).sort((a, b) => popcount(a) - popcount(b) || a - b);
  return first + barChart({
    width, height: 210, low: -1, ticks: [-1, -0.5, 0, 0.5, 1], title: "Fourier coefficients, grouped by degree",
    description: `Fourier coefficients, largest first: ${largest.join(", ")}`,
    bars: order.map((subset) => ({
      value: coefficients[subset], colour: colour(popcount(subset)),
      tip: `${subsetName(subset)}: ${number(coefficients[subset])}`,
      label: n <= 3 ? members(subset).join("") || "∅" : "",
      group: popcount(subset),
    })),
  });
}

const TEMPLATE = `
  <div class="ns-inputs">
    <span><label>Example</label> <select data-part="preset"><option value="">your own</option></select></span>
    <span><label>Bits</label> <select data-part="n"><option value="">as used</option></select></span>
    <span class="ns-wide"><label>f(x) =</label> <input type="text" data-part="formula" spellcheck="false"
      autocapitalize="off" autocomplete="off" placeholder="your own table"></span>
  </div>
  <p class="ns-error" data-part="error" aria-live="polite"></p>
  <p class="ns-help" data-part="help">Bits are +1 (false) and −1 (true). Write <code>&amp;</code> and,
    <code>|</code> or, <code>^</code> xor, <code>~</code> not, <code>*</code> product,
    <code>maj(x1, x2, x3)</code>, <code>sign(2*x1 + x2 - x3 + 1)</code>.</p>
  <div class="ns-panels">
    <div class="ns-panel"><div data-part="table"></div><dl class="ns-numbers" data-part="numbers"></dl></div>
    <div class="ns-panel ns-grow" data-part="charts"></div>
  </div>
  <p class="ns-sr" role="status" data-part="status"></p>`;

export function render({ el, state, compute }) {
  el.innerHTML = TEMPLATE;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  const id = `ns-${Math.random().toString(36).slice(2)}`; // two copies of a figure may share a page
  for (const name of ["preset", "n", "formula"])
    part[name].previousElementSibling.htmlFor = part[name].id = `${id}-${name}`;
  part.error.id = `${id}-error`;
  part.help.id = `${id}-help`;
  part.formula.setAttribute("aria-describedby", `${part.error.id} ${part.help.id}`);
  part.preset.append(...state.presets.map((preset, k) => new Option(preset.name, k)));
  part.n.append(...Array.from({ length: MOST_BITS }, (_, k) => new Option(String(k + 1), k + 1)));

  let chosen = { n: state.n, formula: state.formula, table: state.table };
  let result = null; // the last good one
  let cells = [];
  let active = 0; // the one cell that Tab reaches; arrows move it
  let patience = 0;

  function update({ forgive = false } = {}) {
    const fresh = compute(chosen);
    clearTimeout(patience);
    if (fresh.error && forgive) patience = setTimeout(() => show(fresh), 700); // a half-typed formula is no mistake yet
    else show(fresh);
  }
  function show(fresh) {
    part.formula.setAttribute("aria-invalid", String(Boolean(fresh.error)));
    part.error.replaceChildren();
    if (fresh.error) {
      const { position, token, message } = fresh.error;
      const characters = Array.from(part.formula.value);
      const length = Array.from(token).length || 1;
      const mark = document.createElement("mark");
      mark.textContent = characters.slice(position - 1, position - 1 + length).join("") || " ";
      const quote = document.createElement("code");
      quote.append(characters.slice(0, position - 1).join(""), mark, characters.slice(position - 1 + length).join(""));
      part.error.append(quote, ` Position ${position}: ${message} The figure keeps the last good function.`);
      return;
    }
    if (result?.n !== fresh.n) buildCells(fresh);
    result = fresh;
    paint();
  }
  function buildCells({ n }) {
    active = 0;
    cells = [];
    if (n > 6) {
      part.table.innerHTML = `<p class="ns-caption">The truth table has ${2 ** n} entries; up to 6 bits it stands
        here to be clicked.</p>`;
      return;
    }
    const low = Math.ceil(n / 2);
    const names = (from, to) => Array.from({ length: to - from }, (_, j) => `x${from + j + 1}`).join(" ");
    const heading = (i, bits) =>
      `<span aria-hidden="true">${signs(i, bits).replace(/ /g, "").replace(/-/g, "−")}</span>`;
    let html = `<span aria-hidden="true"></span>`;
    for (let column = 0; column < 2 ** low; column++) html += heading(column, low);
    for (let i = 0; i < 2 ** n; i++) {
      if (i % 2 ** low === 0) html += heading(i >> low, n - low);
      html += `<button type="button" class="ns-cell" tabindex="-1"></button>`;
    }
    part.table.innerHTML = `<p class="ns-caption">Truth table: click to flip f. Columns ${names(0, low)}${
      n > low ? `, rows ${names(low, n)}` : ""}</p>
      <div class="ns-cells" role="group" aria-label="Truth table" style="--ns-columns: ${2 ** low}">${html}</div>`;
    cells = [...part.table.querySelectorAll("button")];
    cells.forEach((cell, i) => {
      cell.onclick = () => {
        chosen = { table: result.table.with(i, -result.table[i]) };
        part.preset.value = part.formula.value = ""; // no formula stands for a clicked table
        update();
      };
      cell.onfocus = () => { cells[active].tabIndex = -1; cells[active = i].tabIndex = 0; };
      cell.onkeydown = (event) => {
        const columns = 2 ** low;
        const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -i,
          End: cells.length - 1 - i }[event.key];
        if (move === undefined) return;
        event.preventDefault();
        event.stopPropagation();
        cells[i + move]?.focus();
      };
    });
    cells[0].tabIndex = 0;
  }
  function paint() {
    cells.forEach((cell, i) => {
      const value = result.table[i];
      cell.textContent = value < 0 ? "−" : "+";
      cell.setAttribute("aria-pressed", String(value < 0));
      cell.setAttribute("aria-label", `x = ${signs(i, result.n)}, f = ${value}`);
    });
    part.charts.innerHTML = charts(result, Math.max(240, Math.min(part.charts.clientWidth, 560)));
    const rows = {
      Mean: number(result.mean), "Total influence = average sensitivity": number(result.total_influence),
      "Maximum sensitivity": result.max_sensitivity, Degree: result.degree,
    };
    part.numbers.innerHTML = Object.entries(rows)
      .map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join("");
    part.status.textContent = `${chosen.table ? "The table as clicked" : chosen.formula}: ` +
      Object.entries(rows).map(([name, value]) => `${name} ${value}`).join(", ");
    part.n.value = chosen.table ? result.n : chosen.n ?? "";
  }

  let fixed = false; // whether the reader chose the number of bits
  part.preset.onchange = () => {
    const preset = state.presets[part.preset.value];
    if (!preset) return;
    fixed = false;
    chosen = { n: preset.n, formula: preset.formula };
    part.formula.value = preset.formula;
    update();
  };
  part.n.onchange = () => {
    const n = Number(part.n.value) || null;
    fixed = n !== null;
    if (!chosen.table) chosen = { n, formula: part.formula.value };
    else if (n) chosen = { table: Array.from({ length: 2 ** n }, (_, i) => result.table[i % result.table.length]) };
    update();
  };
  const typed = (forgive) => () => {
    part.preset.value = "";
    if (!fixed) part.n.value = ""; // the number of bits was the table's or the preset's, not the reader's
    chosen = { n: Number(part.n.value) || null, formula: part.formula.value };
    update({ forgive });
  };
  part.formula.oninput = typed(true);
  part.formula.onchange = typed(false);
  part.formula.value = state.formula ?? "";
  update();
  const preset = state.presets.findIndex((each) => each.formula === state.formula && (each.n ?? result.n) === result.n);
  part.preset.value = preset < 0 ? "" : preset;
  let width = el.clientWidth;
  new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; paint(); } }).observe(el);
}
