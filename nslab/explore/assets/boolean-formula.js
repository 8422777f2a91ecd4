// A small language for Boolean functions, without eval: text -> tree -> the values at all 2^n inputs. -1 is true.
// Joined in front of truth-table.js, which exports. Twin: nslab/explore/formula.py, messages included.
//
//   x1 ... x12, 1 (false), -1 (true), true, false      ~ ! not - (flip), then * (product = xor), &, ^, | in that order
//   maj(a, b, c)  odd count                            sign(2*x1 + x2 - x3 + 1)  integer weights, no ties

const MOST_BITS = 12;
const MOST_CHARACTERS = 400;
const MOST_NESTED = 32;
const OPERATORS = {
  and: "&", or: "|", xor: "^", not: "~", "!": "~", "∧": "&", "∨": "|", "⊕": "^", "¬": "~", "·": "*", "−": "-",
};

class FormulaError extends Error {
  constructor(at, token, message) {
    super(message);
    this.detail = { position: at + 1, token, message };
  }
}

function tokenise(formula) {
  const characters = Array.from(formula);
  const tokens = [];
  let at = 0;
  const run = (pattern) => {
    let end = at;
    while (end < characters.length && pattern.test(characters[end])) end++;
    return characters.slice(at, end).join("");
  };
  if (characters.length > MOST_CHARACTERS)
    throw new FormulaError(
      MOST_CHARACTERS, "", `The formula has ${characters.length} characters: shorten it to ${MOST_CHARACTERS}.`);
  while (at < characters.length) {
    const c = characters[at];
    let text = c;
    if (/[0-9]/.test(c)) {
      text = run(/[0-9]/);
      tokens.push({ kind: "number", text, at, value: Number(text) });
    } else if (/[A-Za-z_]/.test(c)) {
      text = run(/[A-Za-z0-9_]/);
      tokens.push(word(text, at));
    } else if (OPERATORS[c] || "&|^~*-+(),".includes(c)) {
      tokens.push({ kind: OPERATORS[c] ?? c, text, at });
    } else if (!" \t\r\n".includes(c)) {
      throw new FormulaError(
        at, c, `"${c}" is not part of the language: use x1 to x12, & | ^ ~ *, parentheses, maj(...) and sign(...).`);
    }
    at += Array.from(text).length;
  }
  if (!tokens.length) throw new FormulaError(0, "", "The formula is empty: type one, for example maj(x1, x2, x3).");
  tokens.push({ kind: "end", text: "", at: characters.length });
  return tokens;
}

function word(text, at) {
  const name = text.toLowerCase();
  if (["and", "or", "xor", "not"].includes(name)) return { kind: OPERATORS[name], text, at };
  if (["maj", "sign", "true", "false"].includes(name)) return { kind: name, text, at };
  if (!/^x[0-9]+$/.test(name))
    throw new FormulaError(
      at, text, `"${text}" is not known here: use x1 to x12, and, or, xor, not, maj(...), sign(...), true or false.`);
  const value = Number(name.slice(1));
  if (value < 1 || value > MOST_BITS)
    throw new FormulaError(at, text, `"${text}" is out of range: the variables are x1 to x12.`);
  return { kind: "x", text, at, value };
}

// Loosest to tightest: | ^ & * and the signs ~ and -. Each rule returns a tree of {op, args}.
function parse(formula) {
  const tokens = tokenise(formula);
  let next = 0;
  let depth = 0;
  const peek = () => tokens[next];
  const fail = (token, message) => { throw new FormulaError(token.at, token.text, message); };
  const joined = (symbol, op, tighter) => () => {
    const args = [tighter()];
    while (peek().kind === symbol) { next++; args.push(tighter()); }
    return args.length === 1 ? args[0] : { op, args };
  };
  function unary() {
    let flips = 0;
    while (["~", "-"].includes(peek().kind)) { next++; flips++; }
    const arg = atom();
    return flips % 2 ? { op: "not", args: [arg] } : arg;
  }
  const product = joined("*", "xor", unary);
  const conjunction = joined("&", "and", product);
  const exclusive = joined("^", "xor", conjunction);
  const expression = joined("|", "or", exclusive);

  function parenthesised(token, inside) {
    if (peek().kind !== "(") fail(token, `"${token.text}" needs its arguments in parentheses, as in maj(x1, x2, x3).`);
    const open = tokens[next++];
    if (++depth > MOST_NESTED)
      fail(open, `Parentheses are nested more than ${MOST_NESTED} deep: simplify the formula.`);
    const value = inside();
    if (peek().kind !== ")") stray(peek(), open);
    next++;
    depth--;
    return value;
  }
  function list() {
    const args = [expression()];
    while (peek().kind === ",") { next++; args.push(expression()); }
    return args;
  }
  function sum() {
    const terms = [];
    do {
      let weight = 1;
      while (["+", "-"].includes(peek().kind)) if (tokens[next++].kind === "-") weight = -weight;
      if (peek().kind !== "number") { terms.push([weight, product()]); continue; }
      const number = tokens[next++];
      if (number.value > 999) fail(number, `"${number.text}" is too large: weights go up to 999.`);
      weight *= number.value;
      if (peek().kind !== "*") { terms.push([weight, null]); continue; }
      next++;
      terms.push([weight, product()]);
    } while (["+", "-"].includes(peek().kind));
    return terms;
  }
  function atom() {
    const token = peek();
    if (token.kind === "(") return parenthesised(token, expression);
    if (token.kind === "end")
      fail(token, "The formula ends too early: a variable, 1, ~ or an opening parenthesis should follow.");
    next++;
    if (token.kind === "x") return { op: "x", args: [], token };
    if (token.kind === "true") return { op: "bit", args: [], value: -1 };
    if (token.kind === "false") return { op: "bit", args: [], value: 1 };
    if (token.kind === "sign") return { op: "sign", terms: parenthesised(token, sum), args: [], token };
    if (token.kind === "maj") {
      const args = parenthesised(token, list);
      if (args.length % 2) return { op: "maj", args };
      fail(token, `maj needs an odd number of arguments, and here are ${args.length}: add or drop one.`);
    }
    if (token.kind !== "number")
      fail(token, `"${token.text}" is not expected here: a variable, 1, ~ or an opening parenthesis should come.`);
    if (token.value === 1) return { op: "bit", args: [], value: 1 };
    return fail(token, `"${token.text}" is not a bit: only 1 (false) and -1 (true) are. ` +
      "A weight goes first inside sign(...), as in sign(2*x1 + x2).");
  }
  function stray(token, open) {
    if (token.kind === "end") fail(token, `The parenthesis opened at position ${open.at + 1} is not closed: add ")".`);
    if (token.kind === ")") fail(token, '")" closes nothing: remove it, or open a parenthesis before it.');
    if (token.kind === ",") fail(token, '"," separates the arguments of maj(...) only: remove it.');
    if (token.kind === "+" || token.kind === "-")
      fail(token, `"${token.text}" makes a number, not a bit: put the sum inside sign(...), as in sign(x1 + x2 + x3).`);
    fail(token, `"${token.text}" follows a complete formula: put &, |, ^ or * before it.`);
  }
  const tree = expression();
  if (peek().kind !== "end") stray(peek());
  return { tree, variables: tokens.filter((token) => token.kind === "x") };
}

// The values of a tree at all 2^n inputs at once.
function evaluate(node, n) {
  const size = 2 ** n;
  const out = new Int32Array(size);
  if (node.op === "bit") return out.fill(node.value);
  if (node.op === "x") return out.map((_, i) => 1 - 2 * ((i >> (node.token.value - 1)) & 1));
  if (node.op === "sign") {
    for (const [weight, arg] of node.terms) {
      const values = arg && evaluate(arg, n);
      for (let i = 0; i < size; i++) out[i] += weight * (values ? values[i] : 1);
    }
    const tie = out.indexOf(0);
    if (tie >= 0)
      throw new FormulaError(node.token.at, node.token.text,
        `sign(...) is 0 at x = ${signs(tie, n)}: add 1 inside it, which breaks every tie.`);
    return out.map(Math.sign);
  }
  const args = node.args.map((arg) => evaluate(arg, n));
  const join = { not: (a) => -a, and: Math.max, or: Math.min, xor: (a, b) => a * b, maj: (a, b) => a + b }[node.op];
  if (node.op === "not") return args[0].map(join);
  for (let i = 0; i < size; i++) {
    let value = args[0][i];
    for (let k = 1; k < args.length; k++) value = join(value, args[k][i]);
    out[i] = value;
  }
  return node.op === "maj" ? out.map(Math.sign) : out;
}

const signs = (i, n) => Array.from({ length: n }, (_, j) => ((i >> j) & 1 ? "-" : "+")).join(" ");
const popcount = (i) => { let count = 0; for (; i; i &= i - 1) count++; return count; };
