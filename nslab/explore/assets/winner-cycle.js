// Three tokens, six scores, three arrows: can each choose the next one, round and round? With a lock the scores are
// symmetric. Joined after seeded-gaussians.js. Twin of `compute`: nslab/explore/winner_cycle.py.

const OTHERS = [[1, 2], [0, 2], [0, 1]]; // in the row of a, b, c
const NAMES = ["a", "b", "c"];

// The others that a row may choose from, and which of them it chooses (null: it cannot decide).
function chosen(scores, row) {
  const [first, second] = OTHERS[row];
  if (scores[row][first] === scores[row][second]) return null;
  return scores[row][first] > scores[row][second] ? first : second;
}
const codeOf = (choices) => choices.reduce((sum, choice, row) => sum + 2 ** row * OTHERS[row].indexOf(choice), 0);

// {scores, locked, draws, seed} -> what each row chooses, and a count of the patterns of that many random score sets.
export function compute({ scores, locked, draws, seed }) {
  const choices = scores.map((_, row) => chosen(scores, row));
  const decided = choices.every((choice) => choice !== null);
  const pairs = [[0, 1], [0, 2], [1, 2]].filter(([i, j]) => choices[i] === j && choices[j] === i);
  const counts = Array(8).fill(0);
  const start = mixed(seed);
  for (let draw = 0; draw < draws; draw++) {
    const [[ab, ac], [bc, ba], [ca, cb]] = [0, 1, 2].map((k) => gaussianPair(start, 3 * draw + k));
    const drawn = locked ? [[0, ab, ac], [ab, 0, bc], [ac, bc, 0]] : [[0, ab, ac], [ba, 0, bc], [ca, cb, 0]];
    counts[codeOf(drawn.map((_, row) => chosen(drawn, row)))]++;
  }
  return { choices, pattern: decided ? codeOf(choices) : null, cycle: decided && !pairs.length, pairs, counts };
}

// ---------------------------------------------------------------- drawing
const PLACES = [[100, 30], [172, 154], [28, 154]]; // of a, b, c in a picture 200 wide and 184 high
const RADIUS = 19;
const fixed = (value) => value.toFixed(1).replace(/^-0\.0$/, "0.0").replace("-", "−");
const choicesOf = (code) => OTHERS.map((others, row) => others[Math.floor(code / 2 ** row) % 2]);
const isCycle = (choices) => choices.every((choice, row) => choices[choice] !== row);

const STYLE = `<style>
.ns-module .ns-cycle { display: flex; flex-wrap: wrap; gap: 0.6rem 1.6rem; align-items: center; }
.ns-module .ns-cycle > div { flex: 0 0 auto; }
.ns-module .ns-cycle > .ns-cycle-rows { flex: 1 1 15rem; min-width: 0; }
.ns-module .ns-cycle-rows label { display: grid; grid-template-columns: 5.4em 1fr 2.6em; gap: 0.6rem; margin: 0.15rem 0;
  align-items: center; font-variant-numeric: tabular-nums; }
.ns-module .ns-cycle-rows input { width: 100%; min-width: 0; border: 0; padding: 0; accent-color: var(--ns-c1); }
.ns-module .ns-cycle-rows b { text-align: right; }
.ns-module .ns-inputs label { display: flex; gap: 0.4rem; align-items: center; margin: 0; }
.ns-module input[type="checkbox"] { min-height: 0; margin: 0; }
.ns-cycle-token { fill: none; stroke: currentColor; stroke-width: 2; }
.ns-cycle-arrow { fill: none; stroke: var(--ns-c1); stroke-width: 4; }
.ns-cycle-head { fill: var(--ns-c1); stroke: none; }
.ns-cycle-closed .ns-cycle-arrow { stroke: var(--ns-c2); }
.ns-cycle-closed .ns-cycle-head { fill: var(--ns-c2); }
.ns-module .ns-cycle svg text { font-size: 17px; font-weight: 600; }
.ns-module .ns-cycle-patterns { display: grid; grid-template-columns: repeat(auto-fill, minmax(4.9rem, 1fr));
  gap: 0.5rem; max-width: 44rem; margin: 0.4rem 0; }
.ns-module .ns-cycle-patterns > div { border: 1px solid var(--ns-edge); border-radius: 4px; padding: 0.2rem;
  text-align: center; font-size: 0.82em; font-variant-numeric: tabular-nums; line-height: 1.3; }
.ns-module .ns-cycle-patterns > .ns-cycle-found { border: 2px solid var(--ns-c3); padding: calc(0.2rem - 1px); }
.ns-module .ns-cycle-patterns svg { margin: 0 auto; }
.ns-module .ns-cycle-patterns .ns-cycle-arrow { stroke-width: 9; }
.ns-module .ns-stage .ns-cycle-said { min-height: 2.8em; }
@media (max-width: 480px) { .ns-module .ns-stage .ns-cycle-said { min-height: 4.2em; } }
</style>`;

// Arrows between the tokens: each a little to its left, so that two in opposite directions stay apart.
function picture(choices, size, small) {
  const closed = choices.every((choice) => choice !== null) && isCycle(choices) ? " ns-cycle-closed" : "";
  const arrows = choices.map((choice, row) => {
    if (choice === null) return "";
    const [[x1, y1], [x2, y2]] = [PLACES[row], PLACES[choice]];
    const length = Math.hypot(x2 - x1, y2 - y1);
    const [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
    const [ox, oy] = [9 * dy, -9 * dx];
    const [gap, head] = small ? [12, 30] : [RADIUS + 5, 15];
    const at = (along) => [x1 + ox + along * dx, y1 + oy + along * dy].map((value) => value.toFixed(1));
    const tip = length - gap;
    const [nx, ny] = [-dy * head * 0.5, dx * head * 0.5];
    const [bx, by] = at(tip - head).map(Number);
    return `<path class="ns-cycle-arrow" d="M${at(gap)}L${at(tip - head)}"/><path class="ns-cycle-head" d="M${at(tip)}L${
      (bx + nx).toFixed(1)} ${(by + ny).toFixed(1)}L${(bx - nx).toFixed(1)} ${(by - ny).toFixed(1)}Z"/>`;
  }).join("");
  const tokens = small ? "" : PLACES.map(([cx, cy], k) => `<circle class="ns-cycle-token" cx="${cx}" cy="${cy}"
    r="${RADIUS}"/><text x="${cx}" y="${cy + 6}" text-anchor="middle">${NAMES[k]}</text>`).join("");
  return `<svg class="${closed.trim()}" role="img" aria-label="${told(choices)}" width="${size}"
    height="${Math.round(0.95 * size)}" viewBox="0 0 200 190">${tokens}${arrows}</svg>`;
}
const told = (choices) => choices.map((choice, row) =>
  `${NAMES[row]} ${choice === null ? "cannot decide" : `chooses ${NAMES[choice]}`}`).join(", ");

export function render({ el, state, compute }) {
  const setting = structuredClone(state);
  let found = new Set();
  const cells = OTHERS.flatMap((others, row) => others.map((column) => [row, column]));
  el.innerHTML = `${STYLE}<div class="ns-inputs"><label><input type="checkbox" data-part="lock"> symmetric lock</label>
    <button type="button" data-part="some">Draw 1000 at random</button>
    <button type="button" data-part="forget">Forget what was found</button></div>
    <div class="ns-cycle"><div data-part="picture"></div><div class="ns-cycle-rows">${cells.map(([row, column]) =>
    `<label>${NAMES[row]} scores ${NAMES[column]}<input type="range" min="-3" max="3" step="0.1"
    aria-label="${NAMES[row]} scores ${NAMES[column]}"><b></b></label>`).join("")}</div></div>
    <p class="ns-cycle-said" role="status"></p>
    <p class="ns-caption">The eight patterns, framed once you have made them, and how often chance made each:</p>
    <div class="ns-cycle-patterns"></div>`;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  const sliders = [...el.querySelectorAll(".ns-cycle-rows input")];
  const [said, patterns] = [".ns-cycle-said", ".ns-cycle-patterns"].map((name) => el.querySelector(name));

  function update() {
    const { scores, locked, draws, seed } = setting;
    const result = compute({ scores, locked, draws, seed });
    if (result.pattern !== null) found.add(result.pattern);
    part.lock.checked = locked;
    part.picture.innerHTML = picture(result.choices, 190, false);
    cells.forEach(([row, column], k) => {
      sliders[k].value = scores[row][column];
      sliders[k].setAttribute("aria-valuetext", fixed(scores[row][column]));
      sliders[k].nextElementSibling.textContent = fixed(scores[row][column]);
    });
    const pairs = result.pairs.map(([i, j]) => `${NAMES[i]} and ${NAMES[j]} choose each other`).join(", ");
    const drawn = draws ? ` Of ${draws} random sets ${result.counts.filter(Boolean).length} patterns came up.` : "";
    said.textContent = `Now ${told(result.choices)}: ${
      result.cycle ? "the cycle is closed" : pairs || "undecided"}. You have made ${found.size} of 8 patterns${
      locked ? " with the lock on" : ""}.${drawn}`;
    patterns.innerHTML = result.counts.map((count, code) => {
      const made = found.has(code);
      return `<div class="${made ? "ns-cycle-found" : ""}">${picture(choicesOf(code), 52, true)}${
        made ? "✓ " : ""}${draws ? `${count}×` : "&nbsp;"}</div>`;
    }).join("");
  }
  function forget() {
    found = new Set();
    setting.draws = 0;
    update();
  }
  sliders.forEach((slider, k) => {
    const [row, column] = cells[k];
    slider.oninput = () => {
      setting.scores[row][column] = +slider.value;
      if (setting.locked) setting.scores[column][row] = +slider.value;
      update();
    };
  });
  part.lock.onchange = () => {
    setting.locked = part.lock.checked;
    const middle = (i, j) => Math.round(5 * (setting.scores[i][j] + setting.scores[j][i])) / 10;
    if (setting.locked) setting.scores = setting.scores.map((row, i) => row.map((_, j) => middle(i, j)));
    forget();
  };
  part.some.onclick = () => {
    setting.draws += 1000;
    part.some.disabled = setting.draws >= 20000;
    update();
  };
  part.forget.onclick = () => {
    part.some.disabled = false;
    setting.seed += 1;
    forget();
  };
  update();
}
