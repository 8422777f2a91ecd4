// A question with instant feedback. Nothing is stored and nothing is sent.

function number(text) {
  const [top, bottom, ...rest] = text.trim().replace("\u2212", "-").replace(",", ".").split("/");
  const plain = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i;
  if (rest.length || !plain.test(top) || (bottom !== undefined && !plain.test(bottom))) return null;
  const value = bottom === undefined ? Number(top) : Number(top) / Number(bottom);
  return Number.isFinite(value) ? value : null;
}

export function compute(state) {
  if (state.options) {
    if (state.chosen == null) return { right: false, message: "Choose one of the answers." };
    const [, right, message] = state.options[state.chosen];
    return { right, message };
  }
  const given = number(state.given ?? "");
  const wanted = "That is not a number yet. Write it like 0.375 or 3/8, without a % sign.";
  if (given === null) return { right: false, message: wanted };
  const near = (value) => Math.abs(given - value) <= state.tolerance;
  if (near(state.answer)) return { right: true, message: `Right. ${state.right}` };
  const mistake = state.mistakes.find(([value]) => near(value));
  if (mistake) return { right: false, message: `Not yet. ${mistake[1]}` };
  return { right: false, message: "Not yet. Try a smaller case by hand, or open the solution below." };
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
