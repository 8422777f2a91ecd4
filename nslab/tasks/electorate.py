"""An electorate, for the influence of voters of unequal weight."""

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Electorate:
    """Voters with whole-number weights, decided by a strict majority of the total weight.

    Attributes:
        names: one name a voter.
        postal: one short code a voter, in the same order.
        weights: votes that each voter casts as a block, positive integers.
        source: where the numbers come from.

    Errors: `ValueError` when the lengths differ, there is no voter, or a weight is not positive.
    """

    names: tuple[str, ...]
    postal: tuple[str, ...]
    weights: tuple[int, ...]
    source: str

    def __post_init__(self):
        lengths = {"names": len(self.names), "postal": len(self.postal), "weights": len(self.weights)}
        if len(set(lengths.values())) != 1 or not self.names:
            raise ValueError(f"lengths are {lengths}: give one name, one postal code and one weight for each voter")
        for name, weight in zip(self.names, self.weights, strict=True):
            if weight < 1:
                raise ValueError(f"weights gives {name} {weight}: weights are positive whole numbers")

    @property
    def quota(self) -> int:
        """Votes that win: the smallest whole number above half of the total, floor(total / 2) + 1."""
        return sum(self.weights) // 2 + 1


def electoral_college() -> Electorate:
    """The United States Electoral College of the 2024 and 2028 elections: 51 voters, 538 votes, 270 to win.

    The voters are the 50 states and the District of Columbia; the weights are their electors under the 2020 census.

    This is a model. Each state casts its electors as one block for its state-wide winner. In reality Maine and
    Nebraska split theirs: two go to the state-wide winner and one to the winner of each congressional district. At 269
    to 269 nobody wins: `boolean.threshold_influences` and its companions count that tie as a third value, 0, between
    the two results. In reality the House of Representatives decides.

    Source: National Archives, Distribution of Electoral Votes, based on the 2020 census.

    >>> college = electoral_college()
    >>> len(college.names), sum(college.weights), college.quota
    (51, 538, 270)
    """
    text = files("nslab").joinpath("data", "electoral-college-2024.csv").read_text(encoding="utf-8")
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    return Electorate(
        names=tuple(row["name"] for row in rows),
        postal=tuple(row["postal"] for row in rows),
        weights=tuple(int(row["votes"]) for row in rows),
        source=" ".join(comments),
    )
