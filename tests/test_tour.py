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


def test_at_medium_most_of_both_stands_and_at_strong_most_of_both_is_gone(rows):
    assert rows["unpruned", "none"]["copied"].mean >= 0.9
    for column in ("copied", "correct"):
        assert rows["uniforget", "medium"][column].mean > 0.6 and rows["uniforget", "strong"][column].mean < 0.5


def test_uniforget_spares_neutral_pictures_better_than_the_baselines(rows):
    assert 0.25 <= rows["uniforget", "medium"]["removed"] <= 0.45  # "a third of all units"
    for method in ("random", "magnitude"):
        assert rows[method, "medium"]["correct"].mean < 0.5


def test_uniforget_forgets_more_for_the_same_price(rows):
    for method in ("random", "magnitude"):
        points = sorted(
            (row["correct"].mean, row["copied"].mean) for (m, _), row in rows.items() if m in (method, "unpruned")
        )
        for level in ("medium", "strong"):
            mine = rows["uniforget", level]
            assert mine["copied"].mean < np.interp(mine["correct"].mean, *zip(*points))


def test_no_curve_goes_straight_down_on_the_right(rows):
    forgotten = [row for row in rows.values() if row["copied"].mean < 0.5]
    assert forgotten and all(row["correct"].mean < 0.5 for row in forgotten)


def test_selectivity_sets_in_with_the_strong_mask(rows):
    found = {key: row["selectivity"].mean for key, row in rows.items() if "selectivity" in row}
    assert found["uniforget", "weak"] < 1 < found["uniforget", "strong"]
    assert found["uniforget", "strong"] > found["random", "strong"]
