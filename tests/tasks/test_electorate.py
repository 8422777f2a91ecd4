"""The inputs are what their sources say."""

import pytest

from nslab.tasks import Electorate, electoral_college


def test_the_electoral_college_is_the_one_of_the_2020_census():
    college = electoral_college()
    votes = dict(zip(college.postal, college.weights, strict=True))
    assert len(votes) == len(set(college.names)) == 51
    assert sum(college.weights) == 538
    assert college.quota == 270
    # Each state has two senators and at least one representative; the 435 seats of the House are shared out, and the
    # District of Columbia has as many electors as the smallest state.
    assert sum(weight - 2 for code, weight in votes.items() if code != "DC") == 435
    assert min(votes.values()) == votes["DC"] == 3
    # The 13 seats that moved after the 2020 census, as changes from the electors of 2012 to 2020.
    electors_2020 = {"TX": 38, "FL": 29, "NC": 15, "CO": 9, "MT": 3, "OR": 7}
    electors_2020 |= {"CA": 55, "NY": 29, "PA": 20, "OH": 18, "MI": 16, "IL": 20, "WV": 5}
    change = {code: votes[code] - before for code, before in electors_2020.items()}
    assert change == {**dict.fromkeys(electors_2020, -1), "TX": 2, "FL": 1, "NC": 1, "CO": 1, "MT": 1, "OR": 1}
    assert dict(zip(college.postal, college.names, strict=True))["DC"] == "District of Columbia"
    assert "National Archives" in college.source
    assert "2020 census" in college.source


@pytest.mark.parametrize(("weights", "quota"), [((1, 1, 1), 2), ((1, 1), 2), ((5, 2, 2), 5), ((4, 2, 2), 5)])
def test_the_quota_is_the_smallest_strict_majority(weights, quota):
    names = tuple("abc"[: len(weights)])
    assert Electorate(names, names, weights, "made up").quota == quota


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [(("a", "b"), (1,), "lengths are"), ((), (), "lengths are"), (("a", "b"), (1, 0), "weights gives b 0")],
)
def test_an_electorate_refuses_voters_that_do_not_fit(names, weights, message):
    with pytest.raises(ValueError, match=message):
        Electorate(names, names, weights, "made up")
