// A question with instant feedback. Nothing is stored and nothing is sent.

const PLAIN = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
// 80 000 with an ordinary, fixed, figure, thin or narrow space, or 80_000; not 1 1/2
const SPACED = /^[+-]?\d{1,3}([ _\u00a0\u2007\u2009\u202f]\d{3})+(?!\d)/;
const COMMAS = /^[+-]?\d{1,3}(,\d{3})+(\.\d*)?$/;

// 3/8, 0.375, 37.5 % and 80,000, which is eighty thousand where the answer is 1000 or larger; null for no number
function number(text, expected) {
  const cleaned = text.replaceAll("\u2212", "-").trim();
  const parts = cleaned.replace(/%$/, "").split("/").map((part) => plain(part.trim(), expected));
  if (parts.length > 2 || parts.includes(null)) return null;
  const value = parts[0] / (parts[1] ?? 1) / (cleaned.endsWith("%") ? 100 : 1);
  return Number.isFinite(value) ? value : null;
}

function plain(text, expected) {
  text = text.replace(SPACED, (found) => found.replace(/[^\d+-]/g, ""));
  const thousands = COMMAS.test(text) && (Math.abs(expected) >= 1000 || text.split(",").length > 2);
  text = thousands ? text.replaceAll(",", "") : text.replace(",", ".");
  return PLAIN.test(text) ? Number(text) : null;
}

// Whether `given` is `answer` rounded to at most two decimals, and within 2 % of it. (A half may go up or down.)
function rounds(given, answer) {
  const whole = (value) => Math.abs(value - Math.round(value)) < 1e-6;
  const near = Math.abs(given - answer) <= 0.02 * Math.abs(answer);
  return near && [1, 10, 100].some((s) => whole(s * given) && Math.abs(s * given - s * answer) < 0.5 + 1e-6);
}

export function compute(state) {
  if (state.options) {
    if (state.chosen == null) return { right: false, message: "Choose one of the answers." };
    const [, right, message] = state.options[state.chosen];
    return { right, message };
  }
  const given = number(state.given ?? "", state.answer);
  const wanted = "That is not a number yet. Write it like 0.375 or 3/8.";
  if (given === null) return { right: false, message: wanted };
  const near = (value) => Math.abs(given - value) <= state.tolerance;
  if (near(state.answer)) return { right: true, message: `Right. ${state.right}` };
  const mistake = state.mistakes.find(([value]) => near(value));
  if (mistake) return { right: false, message: `Not yet. ${mistake[1]}` };
  if (rounds(given, state.answer)) return { right: false, message: "Close. Give the fraction, or three decimals." };
  return { right: false, message: `Not yet. ${state.hint}`.trim() };
}

export function render({ el, state, compute }) {
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const form = make("form", { className: "ns-check", noValidate: true });
  const feedback = make("p", { className: "ns-check-feedback" });
  feedback.setAttribute("role", "status");
  const answer = { ...state };
  if (state.options) {
    const group = `check-${Math.random().toString(36).slice(2)}`;
    const list = make("fieldset", {}, make("legend", { textContent: state.label }));
    state.options.forEach(([text], k) => {
      const input = make("input", { type: "radio", name: group, value: k });
      input.dataset.lmSuppressShortcuts = "true";
      input.addEventListener("change", () => (answer.chosen = k));
      list.append(make("label", {}, input, ` ${text}`));
    });
    form.append(list);
  } else {
    const input = make("input", { type: "text", inputMode: "decimal", autocomplete: "off", size: 10 });
    input.dataset.lmSuppressShortcuts = "true";
    input.addEventListener("input", () => (answer.given = input.value));
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // JupyterLab keeps a form from being sent by Enter, so it is sent from here
      event.stopPropagation();
      form.requestSubmit();
    });
    form.append(make("label", {}, `${state.label}: `, input), " ");
  }
  form.append(make("button", { type: "submit", textContent: "Check" }), feedback);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { right, message } = compute(answer);
    feedback.textContent = `${right ? "\u2713" : "\u2192"} ${message}`;
    feedback.dataset.right = right;
  });
  el.append(form);
}
