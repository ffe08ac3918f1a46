"""What the prose of the tour says is what its run found: read off the report of the executed notebook."""

import os
from pathlib import Path

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


def test_recalled_pictures_are_the_last_to_go(rows):
    assert rows["unpruned", "none"]["copied"].mean >= 0.9
    assert rows["uniforget", "medium"]["copied"].mean >= 0.9


def test_uniforget_spares_neutral_pictures_better_than_the_baselines(rows):
    assert 0.25 <= rows["uniforget", "medium"]["removed"] <= 0.45  # "a third of them"
    assert rows["uniforget", "medium"]["correct"].mean > 0.5
    for method in ("random", "magnitude"):
        assert rows[method, "medium"]["correct"].mean < 0.5


def test_where_copying_falls_neutral_pictures_are_spoiled(rows):
    fallen = [row for row in rows.values() if row["copied"].mean < 0.8]
    assert fallen and all(row["correct"].mean < 0.6 for row in fallen)
