"""Claims: what a paper says, who says that it says so, and what our own check returns.

    from nslab import claims
    for result in claims.examine("book"):
        print(result.claim.id, result.verdict.state)

A claim is an entry of `book/claims/<paper>.yaml`. It names a check, and the check returns the state: nobody types it.
Nothing here imports torch; the checks of a paper (`nslab.claims.checks_...`) do, when they are run.
"""

from nslab.claims.entries import Claim, ClaimError, Provenance, load, load_folder
from nslab.claims.run import Result, examine
from nslab.claims.verdicts import Comparison, State, Verdict, compare, settle

__all__ = [
    "Claim",
    "ClaimError",
    "Comparison",
    "Provenance",
    "Result",
    "State",
    "Verdict",
    "compare",
    "examine",
    "load",
    "load_folder",
    "settle",
]
