"""A small language for Boolean functions: text to the values at all 2^n inputs, with bits ±1 and -1 as *true*.

======================  =====================================================================================
``x1`` ... ``x12``      the variables (coordinate 0 is written x1); ``1`` or ``false``; ``-1`` or ``true``
``~ ! not -``           the other value; binds tightest
``* & ^ |``             product (the same as xor on ±1), and, xor, or; tightest to loosest; ``and or xor`` also work
``maj(a, b, c)``        majority of an odd number of formulas
``sign(2*x1 + x2 - 1)``  sign of a sum with integer weights; a tie is an error, not a convention
======================  =====================================================================================

Nothing is evaluated as Python. The page has its own parser, ``assets/boolean-formula.js``; a test holds the two
together, messages included.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["FormulaError", "table"]

MOST_BITS, MOST_CHARACTERS, MOST_NESTED, LARGEST_WEIGHT = 12, 400, 32, 999
SPELLINGS = {"and": "&", "or": "|", "xor": "^", "not": "~", "!": "~", "∧": "&", "∨": "|", "⊕": "^", "¬": "~"}
SPELLINGS |= {"·": "*", "−": "-"}
FUNCTIONS = ("maj", "sign", "true", "false")
BINARY = ["|", "^", "&", "*"]  # loosest first
TOKEN = re.compile(r"(?P<space>[ \t\r\n]+)|(?P<number>[0-9]+)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<mark>.)", re.DOTALL)

Values = Callable[[int], Tensor]  # n -> the 2^n values, int64


class FormulaError(ValueError):
    """A formula that does not parse: where (counted from 1), at which token, and what to do."""

    def __init__(self, at: int, token: str, message: str) -> None:
        super().__init__(message)
        self.detail = {"position": at + 1, "token": token, "message": message}


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def table(formula: str, n: int | None = None) -> Int[Tensor, " values"]:
    """The values of ``formula`` at all inputs, entry i at the input whose digit j of i (lowest first) is 1 iff x is -1.

    Args:
        formula: the text.
        n: number of bits, 1 to 12; by default the largest variable used.

    Returns:
        (2^n,) int64 tensor of ±1.

    Raises:
        FormulaError: with the position, the token and a remedy.

    >>> table("x1 & x2").tolist()
    [1, 1, 1, -1]
    """
    tokens = _tokenise(formula)
    values = _Parser(tokens).whole()
    variables = [token for token in tokens if token.kind == "x"]
    largest = max([1, *(int(token.text[1:]) for token in variables)])
    if n is None:
        n = largest
    for token in variables:
        if int(token.text[1:]) > n:
            remedy = f"choose n = {largest}, or use x1 to x{n} only."
            raise FormulaError(token.at, token.text, f'"{token.text}" is beyond n = {n}: {remedy}')
    return values(n)


def _tokenise(formula: str) -> list[_Token]:
    if len(formula) > MOST_CHARACTERS:
        message = f"The formula has {len(formula)} characters: shorten it to {MOST_CHARACTERS}."
        raise FormulaError(MOST_CHARACTERS, "", message)
    tokens = []
    for found in TOKEN.finditer(formula):
        text, at = found.group(), found.start()
        if found.lastgroup == "word":
            tokens.append(_Token(_word(text, at), text, at))
        elif found.lastgroup == "number":
            tokens.append(_Token("number", text, at))
        elif found.lastgroup == "mark":
            kind = SPELLINGS.get(text, text)
            if kind not in "&|^~*-+(),":
                remedy = "use x1 to x12, & | ^ ~ *, parentheses, maj(...) and sign(...)."
                raise FormulaError(at, text, f'"{text}" is not part of the language: {remedy}')
            tokens.append(_Token(kind, text, at))
    if not tokens:
        raise FormulaError(0, "", "The formula is empty: type one, for example maj(x1, x2, x3).")
    return [*tokens, _Token("end", "", len(formula))]


def _word(text: str, at: int) -> str:
    name = text.lower()
    if name in SPELLINGS or name in FUNCTIONS:
        return SPELLINGS.get(name, name)
    if not re.fullmatch("x[0-9]+", name):
        remedy = "use x1 to x12, and, or, xor, not, maj(...), sign(...), true or false."
        raise FormulaError(at, text, f'"{text}" is not known here: {remedy}')
    if not 1 <= int(name[1:]) <= MOST_BITS:
        raise FormulaError(at, text, f'"{text}" is out of range: the variables are x1 to x12.')
    return "x"


class _Parser:
    """Precedence climbing over the tokens; every rule returns a function of n that gives the 2^n values."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens
        self.depth = 0

    def whole(self) -> Values:
        values = self.binary()
        if self.tokens[0].kind != "end":
            _stray(self.tokens[0])
        return values

    def take(self) -> _Token:
        token = self.tokens[0]
        self.tokens = self.tokens[1:]
        return token

    def binary(self, level: int = 0) -> Values:
        if level == len(BINARY):
            return self.unary()
        args = [self.binary(level + 1)]
        while self.tokens[0].kind == BINARY[level]:
            self.take()
            args.append(self.binary(level + 1))
        if len(args) == 1:
            return args[0]
        # -1 is true, so `and` is the largest value and `or` the smallest
        join = {"|": torch.amin, "^": torch.prod, "&": torch.amax, "*": torch.prod}[BINARY[level]]
        return lambda n: join(torch.stack([arg(n) for arg in args]), dim=0)

    def unary(self) -> Values:
        sign = 1
        while self.tokens[0].kind in "~-":
            self.take()
            sign = -sign
        arg = self.atom()
        return lambda n: sign * arg(n)

    def atom(self) -> Values:
        token = self.tokens[0]
        if token.kind == "(":
            return self.parenthesised(token, self.binary)
        if token.kind == "end":
            should = "a variable, 1, ~ or an opening parenthesis should follow."
            _fail(token, f"The formula ends too early: {should}")
        self.take()
        if token.kind == "x":
            bit = int(token.text[1:]) - 1
            return lambda n: 1 - 2 * ((torch.arange(2**n) >> bit) & 1)
        if token.kind in ("true", "false"):
            return lambda n: torch.full((2**n,), -1 if token.kind == "true" else 1)
        if token.kind == "sign":
            return self.threshold(token)
        if token.kind == "maj":
            args = self.parenthesised(token, self.arguments)
            if len(args) % 2 == 0:
                _fail(token, f"maj needs an odd number of arguments, and here are {len(args)}: add or drop one.")
            return lambda n: torch.stack([arg(n) for arg in args]).sum(dim=0).sign()
        if token.kind != "number":
            should = "a variable, 1, ~ or an opening parenthesis should come."
            _fail(token, f'"{token.text}" is not expected here: {should}')
        if int(token.text) != 1:
            remedy = "A weight goes first inside sign(...), as in sign(2*x1 + x2)."
            _fail(token, f'"{token.text}" is not a bit: only 1 (false) and -1 (true) are. {remedy}')
        return lambda n: torch.ones(2**n, dtype=torch.int64)

    def parenthesised(self, token: _Token, inside: Callable) -> object:
        opening = self.tokens[0]
        if opening.kind != "(":
            _fail(token, f'"{token.text}" needs its arguments in parentheses, as in maj(x1, x2, x3).')
        self.take()
        self.depth += 1
        if self.depth > MOST_NESTED:
            _fail(opening, f"Parentheses are nested more than {MOST_NESTED} deep: simplify the formula.")
        result = inside()
        if self.tokens[0].kind != ")":
            _stray(self.tokens[0], opening)
        self.take()
        self.depth -= 1
        return result

    def arguments(self) -> list[Values]:
        args = [self.binary()]
        while self.tokens[0].kind == ",":
            self.take()
            args.append(self.binary())
        return args

    def threshold(self, token: _Token) -> Values:
        terms = self.parenthesised(token, self.sum)

        def values(n: int) -> Tensor:
            total = sum(weight * (arg(n) if arg else torch.ones(2**n, dtype=torch.int64)) for weight, arg in terms)
            ties = (total == 0).nonzero()
            if len(ties):
                signs = " ".join("-" if int(ties[0]) >> j & 1 else "+" for j in range(n))
                _fail(token, f"sign(...) is 0 at x = {signs}: add 1 inside it, which breaks every tie.")
            return total.sign()

        return values

    def sum(self) -> list[tuple[int, Values | None]]:
        terms: list[tuple[int, Values | None]] = []
        while not terms or self.tokens[0].kind in ("+", "-"):
            weight = 1
            while self.tokens[0].kind in ("+", "-"):
                weight *= -1 if self.take().kind == "-" else 1
            if self.tokens[0].kind != "number":
                terms.append((weight, self.binary(BINARY.index("*"))))
                continue
            number = self.take()
            if int(number.text) > LARGEST_WEIGHT:
                _fail(number, f'"{number.text}" is too large: weights go up to {LARGEST_WEIGHT}.')
            weight *= int(number.text)
            if self.tokens[0].kind == "*":
                self.take()
                terms.append((weight, self.binary(BINARY.index("*"))))
            else:
                terms.append((weight, None))
        return terms


def _fail(token: _Token, message: str) -> NoReturn:
    raise FormulaError(token.at, token.text, message)


def _stray(token: _Token, opening: _Token | None = None) -> NoReturn:
    """A token that cannot continue the formula read so far."""
    if token.kind == "end" and opening is not None:
        _fail(token, f'The parenthesis opened at position {opening.at + 1} is not closed: add ")".')
    if token.kind == ")":
        _fail(token, '")" closes nothing: remove it, or open a parenthesis before it.')
    if token.kind == ",":
        _fail(token, '"," separates the arguments of maj(...) only: remove it.')
    if token.kind in "+-":
        remedy = "put the sum inside sign(...), as in sign(x1 + x2 + x3)."
        _fail(token, f'"{token.text}" makes a number, not a bit: {remedy}')
    _fail(token, f'"{token.text}" follows a complete formula: put &, |, ^ or * before it.')
