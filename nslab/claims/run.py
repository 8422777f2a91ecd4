"""Running checks: find what a claim names, call it, and hold the answer to the rules."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

from nslab.claims.entries import Claim, ClaimError, load_folder
from nslab.claims.verdicts import State, Verdict, compare
from nslab.records import RecordError, strongest

_QUERY = {"preset", "value", "theirs", "null"}


@dataclass(frozen=True)
class Result:
    """A claim with the verdict of its check, or with the problem that kept the check from giving one."""

    claim: Claim
    verdict: Verdict | None = None
    problem: str | None = None

    def as_dict(self) -> dict:
        """All of it, ready for JSON."""
        told = {key: value for key, value in vars(self.claim).items() if value is not None}
        told["provenance"] = self.claim.provenance.name
        if self.problem:
            return told | {"problem": self.problem}
        verdict = self.verdict
        return told | {"state": str(verdict.state), "evidence": verdict.evidence, "numbers": dict(verdict.numbers)}

    def as_line(self) -> str:
        """One line of text: id, provenance, state."""
        state = self.verdict.state if self.verdict else "no state"
        return f"{self.claim.id:42} {self.claim.provenance.name:14} {state}"


def examine(book: Path | str) -> list[Result]:
    """Run the check of every claim of `book`, the folder that holds `claims/` and `records/`.

    A check that is missing, raises, or returns something else than a `Verdict` becomes the `problem` of its claim,
    which names it; the others still run.

    Errors: `ClaimError` when an entry is wrong.
    """
    return [_examine(claim, Path(book)) for claim in load_folder(Path(book) / "claims")]


def _examine(claim: Claim, book: Path) -> Result:
    try:
        with _one_thread():
            verdict = _find(claim, book)()
        if not isinstance(verdict, Verdict):
            raise ClaimError(f"it returned {type(verdict).__name__}: return a Verdict")
        if verdict.state is State.HOLDS_WITH_CHANGES and claim.changes is None:
            raise ClaimError("it holds with changes: say in `changes` what was changed, and why")
    except Exception as problem:  # a check may fail in any way, and each must reach the author
        return Result(claim, problem=f"claim {claim.id}: check {claim.check}: {type(problem).__name__}: {problem}")
    return Result(claim, verdict)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Checks are small: beside other work a second thread only waits, and waiting costs CPU time too."""
    import torch  # as late as the checks themselves: to list claims needs none

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _find(claim: Claim, book: Path) -> Callable[[], Verdict]:
    module, _, name = claim.check.partition(":")
    if module == "record":
        return lambda: query(name, book / "records")
    check = getattr(importlib.import_module(module), name, None)
    if not callable(check):
        raise ClaimError(f"there is no function {name} in {module}: write it, or correct `check`")
    return check


def query(text: str, records: Path) -> Verdict:
    """The verdict of a record, `<experiment>?preset=full&value=speed_up&theirs=1.36&null=1`.

    `preset` is the one that runs at the paper's setting; `value` is a key of the record's `result.json` that holds
    one number a seed. The strongest record of that preset counts: a fresh one before a stale one. Without a record the
    claim is *open*. From a stale record the evidence says so, and which file has changed since.

    Errors: `ClaimError` when the query has a wrong or missing key, a record of that preset is damaged, or the record
    does not hold the numbers.
    """
    experiment, _, rest = text.partition("?")
    asked = dict(parse_qsl(rest))
    if not set(asked) <= _QUERY or not {"preset", "value", "theirs"} <= set(asked):
        raise ClaimError(f"query {rest!r}: the keys are preset, value and theirs, and null if you like")
    try:
        record = strongest(experiment, asked["preset"], records)
    except RecordError as error:
        raise ClaimError(str(error)) from None
    if record is None:
        return Verdict(State.OPEN, f"Not run yet: there is no record of {experiment} at the preset {asked['preset']}.")
    values = record.result.get(asked["value"])
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise ClaimError(
            f"{record.path / 'result.json'} has no list of numbers {asked['value']!r}: one number a seed is needed"
        )
    null = float(asked["null"]) if "null" in asked else None
    verdict = compare(values, float(asked["theirs"]), null=null)
    if record.stale:
        verdict = replace(verdict, evidence=f"{verdict.evidence} (stale: {record.stale_because})")
    return verdict
