"""Claims as they are written down: `book/claims/<paper>.yaml`, read strictly.

    paper: "2602.08287"
    claims:
      - id: 2602.08287-relu-formula
        statement: "what is claimed, in MyST: $...$ is mathematics"
        where: "Theorem 5.1"
        provenance: digest
        check: "nslab.claims.checks_2602_08287:relu_formula"

`theirs` (the paper's number, in its words), `ours` (a remark of ours) and `changes` (what was changed, and why) may be
left out. There is no key for the state.
"""

import re
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path

_CHECK = re.compile(r"(?!record:)[a-zA-Z_][\w.]*:[a-zA-Z_]\w*|record:[\w-]+\?\S+")
_REMEDIES = {
    "id": "give <paper>-<slug>, for example 2602.08287-relu-formula",
    "statement": "say what is claimed, in one or two sentences",
    "where": "name the section or theorem as far as it is known",
    "check": "name a function as module:function, or a record as record:<experiment>?preset=...&value=...&theirs=...",
    "state": "the state is what the check returns; it is never written down",
}


class ClaimError(ValueError):
    """A claim that cannot be used; the message names the file, the claim, the key and the remedy."""


class Provenance(Enum):
    """Who says that the paper says so. The value is what a reader is told."""

    source = "the paper itself, its abstract or conference page, or a reviewer who had it"
    digest = "a third-party summary of the full text says so; we have not seen it in the paper"
    reconstructed = "derived here; not seen in the paper"
    ours = "our own statement about the paper or beside it"
    open = "found nowhere; what stands here is a proposal"


@dataclass(frozen=True)
class Claim:
    """One claim. Texts are MyST.

    Attributes:
        id: <paper>-<slug>, unique in the book.
        statement: what is claimed.
        where: section or theorem, as far as known.
        provenance: who says so.
        check: `module:function` without arguments that returns a `Verdict`, or a record query.
        theirs: the paper's number or words, copied.
        ours: a remark of ours.
        changes: what was changed and why; a check that returns *holds with changes* requires it.
    """

    id: str
    statement: str
    where: str
    provenance: Provenance
    check: str
    theirs: str | None = None
    ours: str | None = None
    changes: str | None = None


KEYS = [field.name for field in fields(Claim)]
REQUIRED = KEYS[:5]


def load_folder(folder: Path | str) -> list[Claim]:
    """The claims of all files of a folder, in the order of file names.

    Errors: `ClaimError` when a file is wrong, or an id is used twice.
    """
    claims: dict[str, Claim] = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        for claim in load(path):
            if claim.id in claims:
                raise ClaimError(f"{path}: claim {claim.id}: the id is taken; give each claim its own")
            claims[claim.id] = claim
    return list(claims.values())


def load(path: Path | str) -> list[Claim]:
    """The claims of one file.

    Errors: `ClaimError` when it is no YAML, or has a wrong, missing or repeated key.
    """
    path = Path(path)
    content = _read(path)
    if not isinstance(content, dict) or sorted(content) != ["claims", "paper"]:
        raise ClaimError(f"{path}: the file has the keys `paper` and `claims`, and no others")
    paper, entries = content["paper"], content["claims"]
    if paper != path.stem:
        raise ClaimError(f"{path}: paper is {paper!r}: write the name of the file, {path.stem!r}, in quotes")
    if not isinstance(entries, list):
        raise ClaimError(f"{path}: claims is {entries!r}: give a list of entries, `- id: ...`")
    claims = [_claim(path, paper, entry, number) for number, entry in enumerate(entries, 1)]
    seen = [claim.id for claim in claims]
    for name in seen:
        if seen.count(name) > 1:
            raise ClaimError(f"{path}: claim {name}: the id is taken; give each claim its own")
    return claims


def _claim(path: Path, paper: str, entry: object, number: int) -> Claim:
    if not isinstance(entry, dict):
        raise ClaimError(f"{path}: entry {number} is {entry!r}: give a mapping that starts with `id:`")
    here = f"{path}: claim {entry.get('id', f'number {number}')}"
    for key in entry:
        if key not in KEYS:
            raise ClaimError(f"{here}: unknown key {key!r}: {_REMEDIES.get(key, 'use ' + ', '.join(KEYS))}")
    for key in REQUIRED:
        if key not in entry:
            raise ClaimError(f"{here}: no key {key!r}: {_REMEDIES.get(key, _provenances())}")
    for key, value in entry.items():
        if not isinstance(value, str) or not value.strip():
            raise ClaimError(f"{here}: {key} is {value!r}: write text, in quotes where YAML reads something else")
    if not re.fullmatch(re.escape(paper) + r"-[a-z0-9]+(-[a-z0-9]+)*", entry["id"]):
        raise ClaimError(f"{here}: id: {_REMEDIES['id']}, in small letters, digits and single hyphens")
    if entry["provenance"] not in Provenance.__members__:
        raise ClaimError(f"{here}: provenance is {entry['provenance']!r}: {_provenances()}")
    if not _CHECK.fullmatch(entry["check"]):
        raise ClaimError(f"{here}: check is {entry['check']!r}: {_REMEDIES['check']}")
    texts = {key: value.strip() for key, value in entry.items()}
    return Claim(**texts | {"provenance": Provenance[texts["provenance"]]})


def _provenances() -> str:
    return f"say who says so: {', '.join(Provenance.__members__)}"


def _read(path: Path) -> object:
    try:
        import yaml  # an extra: only the book has claims
    except ImportError:
        raise ImportError("claims are written in YAML: install the extra `book` of nslab, or PyYAML") from None

    class Strict(yaml.SafeLoader):
        """YAML keeps the last of two equal keys without a word; here the second is an error."""

        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    where = f"{path}:{node.start_mark.line + 1}"
                    raise ClaimError(f"{where}: the key {key!r} is written twice: keep one")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=Strict)
    except yaml.YAMLError as problem:
        raise ClaimError(f"{path}: not YAML: {problem}") from None
