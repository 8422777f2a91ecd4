"""The performance page speaks one language of ratios, whatever the record it reads."""

import re

import pytest

from tests.benchmarks.harness import in_times

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("performance")


def test_every_time_is_ours_against_the_peer(names):
    """Also in records whose ratios say how many times faster; below one is below the peer's time."""
    assert names["times"]
    for row in names["times"]:
        assert row["ratio"] == pytest.approx(row["ours_seconds"] / row["peer_seconds"]), row["name"]
        assert names["against_peer"](row).startswith("<b") == (row["ours_seconds"] < row["peer_seconds"]), row["name"]


def test_errors_stand_apart_and_no_fraction_leaks(names):
    assert {row["unit"] for row in names["errors"]} == {"of naive's error"}
    assert "of naive's error" not in {row["unit"] for row in names["times"]}
    for row in names["rows"]:
        for number in re.findall(r"[\d.,]*\d", names["against_peer"](row).partition(">")[2] + names["judge"](row)):
            assert len(re.sub(r"^0\.0*|\D", "", number)) <= 3 or "." not in number, (row["name"], number)


@pytest.mark.parametrize("ratio", [10 / 9, 1 / 150, 1 / 18061.4, 0.0997, 0.1, 0.9687, 18.0, 250.4])
def test_page_writes_ratios_as_the_benchmarks_print_them(names, ratio):
    assert names["in_times"](ratio) == in_times(ratio)
