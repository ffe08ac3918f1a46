"""What the prose of the tour says is what its run found: read off the report of the executed notebook."""

import os
from pathlib import Path

import numpy as np
import pytest

from uniforget_lib import Report

REPORT = Path(__file__).parents[1] / "_build" / "executed" / "out" / "report.json"


@pytest.fixture(scope="module")
def rows():
    if not REPORT.is_file():
        if os.environ.get("UNIFORGET_REQUIRE_BOOK"):
            pytest.fail(f"{REPORT} is missing: the tour was not executed")
        pytest.skip("the tour was not executed: run `make book`")
    return {(row["method"], row["level"]): row for row in Report.from_json(REPORT).rows}


def test_methods_are_compared_at_the_same_sparsity(rows):
    for level in ("weak", "medium", "strong"):
        assert len({rows[method, level]["removed"] for method in ("uniforget", "random", "magnitude")}) == 1


def test_at_medium_half_of_the_copies_go_and_at_strong_most_of_both(rows):
    assert rows["unpruned", "none"]["copied"].mean >= 0.9
    medium, strong = rows["uniforget", "medium"], rows["uniforget", "strong"]
    assert 0.35 <= medium["copied"].mean <= 0.65
    assert medium["correct"].mean > 0.7 and medium["detail"].mean < 0.9 * rows["unpruned", "none"]["detail"].mean
    assert strong["copied"].mean < 0.25 and strong["correct"].mean < 0.5


def test_uniforget_spares_neutral_pictures_better_than_the_baselines(rows):
    assert 0.4 <= rows["uniforget", "medium"]["removed"] <= 0.5  # "more than two fifths of all units"
    for method in ("random", "magnitude"):
        assert rows[method, "medium"]["correct"].mean < 0.15


def test_uniforget_forgets_more_for_the_same_price(rows):
    for method in ("random", "magnitude"):
        points = sorted(
            (row["correct"].mean, row["copied"].mean) for (m, _), row in rows.items() if m in (method, "unpruned")
        )
        for level in ("medium", "strong"):
            mine = rows["uniforget", level]
            assert mine["copied"].mean < np.interp(mine["correct"].mean, *zip(*points))


def test_no_curve_goes_straight_down_on_the_right(rows):
    forgotten = [row for row in rows.values() if row["copied"].mean < 0.25]
    assert forgotten and all(row["correct"].mean < 0.5 for row in forgotten)


def test_selectivity_turns_round_with_the_strength(rows):
    found = {key: row["selectivity"].mean for key, row in rows.items() if "selectivity" in row}
    assert found["uniforget", "weak"] < 1
    for level in ("medium", "strong"):
        assert found["uniforget", level] > 1 and found["uniforget", level] > found["random", level]
