"""The ``{claim}`` card and the ``{claims-table}``: what a paper says, who says so, and what our check returned.

The checks need torch and the builder must not, so they run in a process of their own, once for a set of sources.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from nslab import records
from nslab.claims import ClaimError, Provenance, State, load
from nslab.sphinxext import cache

logger = logging.getLogger(__name__)
SECONDS = 120
PART = "ns-claim-part"
TABLE = "table"
SHARED = "_records"  # how files end through which several checks ask for records


class ClaimCard(nodes.General, nodes.Element):
    """The card: an aside in HTML, its paragraphs one after the other everywhere else."""


def claims_key(root: Path, files: list[Path]) -> str:
    """Hash of the claims, of the nslab files that their checks import (transitively), and of the records they ask."""
    texts, checks = [], []
    for path in files:
        texts.append(path.read_text(encoding="utf-8"))
        with contextlib.suppress(ClaimError):  # the process that runs the checks says what is wrong
            checks += [claim.check for claim in load(path)]
    modules = {check.partition(":")[0] for check in checks} - {"record"}
    names = [name for name in modules if all(part.isidentifier() for part in name.split("."))]
    read = cache.sources("\n".join(f"import {name}" for name in ["nslab.claims", *names]))
    read += [path for name in names if (path := root.joinpath(*name.split(".")).with_suffix(".py")).is_file()]
    experiments = {check.partition(":")[2].partition("?")[0] for check in checks if check.startswith("record:")}
    asked = [cache.records_key(name, root / "book" / "records") for name in sorted(experiments)]
    stems = {name.rpartition(".")[2] for name in names}
    for path in sorted(path for path in read if path.stem in stems or path.stem.endswith(SHARED)):
        of = cache.asked(path.read_text(encoding="utf-8"))
        asked += [cache.records_key(name, records.root(root)) for name in of]
    digest = hashlib.sha256("\0".join([sys.version, version("torch"), version("numpy"), *texts, *asked]).encode())
    for path in sorted(set(read)):
        digest.update(f"{path}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run_checks(root: Path, key: str) -> dict:
    """All results and problems, from the cache of this key or from `nslab claims` in a new process."""
    path = root / "_build" / "claims" / f"{key}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "nslab", "claims", "--json", "--book", str(root / "book")]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False)
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"claims": [], "problems": [f"the checks took over {SECONDS} s: make them quick, or query a record"]}
    except json.JSONDecodeError:
        return {"claims": [], "problems": [f"`nslab claims` failed: {done.stderr.strip()[-2000:]}"]}
    if not found["problems"]:  # what went wrong may be mended elsewhere, so it is tried again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    return found


def collect(app: Sphinx, env: BuildEnvironment, added: set, changed: set, removed: set) -> list[str]:
    """Before pages are read: results for today's sources, a warning for each problem; the pages that show old ones."""
    root = Path(app.srcdir)
    files = sorted((root / "book" / "claims").glob("*.yaml"))
    key = claims_key(root, files) if files else ""
    found = run_checks(root, key) if files else {"claims": [], "problems": []}
    for problem in found["problems"]:
        logger.warning("claims: %s", problem)
    env.nslab_claims = {claim["id"]: claim for claim in found["claims"]}
    stale = getattr(env, "nslab_claims_key", key) != key
    env.nslab_claims_key = key
    return [docname for docname in _shown(env) if docname in env.all_docs] if stale else []


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """A page is read again, or gone: it shows no claims for now."""
    _shown(env).pop(docname, None)


def with_tables(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Tables link to cards, and cards may have moved: write the pages with tables again."""
    return [docname for docname, names in sorted(_shown(env).items()) if TABLE in names]


def one_card_each(app: Sphinx, env: BuildEnvironment) -> None:
    """When all pages are read: a claim has one card, so that a reference to it has one target."""
    first: dict[str, str] = {}
    for docname, names in sorted(_shown(env).items()):
        for name in names:
            if name != TABLE and name in first:
                refer = f"{{ref}}`{anchor(name)}`"
                logger.warning(
                    "claim %s has a card on %s: refer to it with %s", name, first[name], refer, location=docname
                )
            first.setdefault(name, docname)


def _shown(env: BuildEnvironment) -> dict[str, list[str]]:
    """What each page shows: the ids of its cards, and `TABLE` for a table."""
    env.nslab_claims_shown = getattr(env, "nslab_claims_shown", {})
    return env.nslab_claims_shown


def anchor(name: str) -> str:
    """The link target of a claim's card, also for ``{ref}``: `2602.08287-relu` to `claim-2602-08287-relu`."""
    return nodes.make_id(f"claim-{name}")


class ClaimDirective(SphinxDirective):
    """``{claim} 2602.08287-relu-formula``: the card of one claim, on the page where the book makes it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Look the claim up among this build's results."""
        name = self.arguments[0]
        claim = self.env.nslab_claims.get(name)
        if claim is None:
            raise self.error(f"claim {name} is in no file of book/claims, or its file has a mistake")
        target = anchor(name)
        _shown(self.env).setdefault(self.env.docname, []).append(name)
        labels = self.env.domains["std"]  # its own method would take a card that moved between pages for two
        labels.labels[target] = self.env.docname, target, name
        labels.anonlabels[target] = self.env.docname, target
        if "problem" in claim:  # said once, when the checks ran
            return [nodes.paragraph("", f"Claim {name}: its check gave no state.")]
        card = ClaimCard("", ids=[target], label=f"Claim {name}: {claim['state']}")
        head = nodes.paragraph(classes=["ns-claim-head"])
        link = nodes.reference(name, name, refid=target, internal=True, classes=["ns-claim-id"])
        head += [nodes.inline("", "Claim "), link, nodes.Text(" "), badge(claim["state"])]
        card += [head, *self.parse_text_to_nodes(claim["statement"])]
        card += self.labelled("Where", claim["where"])
        said = nodes.inline("", claim["provenance"], classes=["ns-provenance"])
        words = nodes.Text(f": {Provenance[claim['provenance']].value}")
        card += nodes.paragraph("", "", nodes.strong("", "Provenance"), nodes.Text(" "), said, words, classes=[PART])
        for label, key in (("Theirs", "theirs"), ("Evidence", "evidence"), ("Changed", "changes"), ("Remark", "ours")):
            if key in claim:
                card += self.labelled(label, claim[key])
        return [card]

    def labelled(self, label: str, text: str) -> list[nodes.Node]:
        """A paragraph with its label in front; the text is MyST."""
        parsed = self.parse_text_to_nodes(text)
        parsed[0].insert(0, [nodes.strong("", label), nodes.Text(" ")])
        parsed[0]["classes"] += [PART]
        return parsed


class ClaimsTable(SphinxDirective):
    """``{claims-table}``: all claims, or with ``:paper:`` those of one; each links to its card."""

    option_spec = {"paper": directives.unchanged_required}  # noqa: RUF012 (docutils' protocol)

    def run(self) -> list[nodes.Node]:
        """A line that counts the states, then the table."""
        paper = self.options.get("paper", "")
        claims = [c for c in self.env.nslab_claims.values() if c["id"].startswith(f"{paper}-" if paper else "")]
        claims = [claim for claim in claims if "state" in claim]
        if not claims:
            raise self.error(f"claims-table has nothing to show: no claims{f' of {paper}' if paper else ''}")
        _shown(self.env).setdefault(self.env.docname, []).append(TABLE)
        counts = {str(state): sum(claim["state"] == state for claim in claims) for state in State}
        counted = ", ".join(f"{state} {count}" for state, count in counts.items())
        table = nodes.table(classes=["ns-claims", "colwidths-given"])
        group = nodes.tgroup(cols=4)
        group += [nodes.colspec(colwidth=width) for width in (37, 14, 15, 34)]
        heads = ("Claim", "Provenance", "State", "Evidence")
        group += nodes.thead("", nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in heads)))
        group += nodes.tbody("", *map(self.row, claims))
        table += group
        return [nodes.paragraph("", f"{len(claims)} claims: {counted}."), table]

    def row(self, claim: dict) -> nodes.row:
        """One claim."""
        name = claim["id"]
        link = addnodes.pending_xref(
            "",
            nodes.inline("", name, classes=["ns-claim-id"]),
            refdomain="std",
            reftype="ref",
            reftarget=anchor(name),
            refexplicit=True,
            refwarn=False,
            refdoc=self.env.docname,
        )
        cells = (
            [nodes.paragraph("", "", link), *self.parse_text_to_nodes(claim["statement"])],
            [nodes.paragraph("", "", nodes.inline("", claim["provenance"], classes=["ns-provenance"]))],
            [nodes.paragraph("", "", badge(claim["state"]))],
            self.parse_text_to_nodes(claim["evidence"]),
        )
        return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def badge(state: str) -> nodes.inline:
    """The state in words; colour and sign are the style sheet's, and say nothing more."""
    return nodes.inline("", state, classes=["ns-state", f"ns-state-{state.replace(' ', '-')}"])


def setup(app: Sphinx) -> None:
    """Register directives, the card's writers, and the bookkeeping."""

    def enter(translator, node: ClaimCard) -> None:
        label = translator.attval(node["label"])
        translator.body.append(f'<aside class="ns-claim" role="note" id="{node["ids"][0]}" aria-label="{label}">\n')

    def leave(translator, node: ClaimCard) -> None:
        translator.body.append("</aside>\n")

    def nothing(translator, node: ClaimCard) -> None:
        pass

    app.add_node(ClaimCard, html=(enter, leave), **dict.fromkeys(("latex", "text", "man"), (nothing, nothing)))
    app.add_directive("claim", ClaimDirective)
    app.add_directive("claims-table", ClaimsTable)
    app.connect("env-get-outdated", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-updated", with_tables)
    app.connect("env-check-consistency", one_card_each)
