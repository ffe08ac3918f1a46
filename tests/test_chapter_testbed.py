"""What the prose of the chapter on the testbed says is what its run found: read off its reports."""

import os
from pathlib import Path

import pytest

from uniforget_lib import Report
from uniforget_lib.testbed import FAMILIES

OUT = Path(__file__).parents[1] / "_build" / "executed" / "out"


def report(name):
    path = OUT / name
    if not path.is_file():
        if os.environ.get("UNIFORGET_REQUIRE_BOOK"):
            pytest.fail(f"{path} is missing: the chapter was not executed")
        pytest.skip("the chapter was not executed: run `make book`")
    return Report.from_json(path).rows


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_reads_as_the_page_says(family):
    card = {row["quantity"]: row[family] for row in report("testbed_card.json")}
    assert card["copied, 1 copies"].mean == 0 and 0.35 <= card["copied, 5 copies"].mean <= 0.65  # "about half"
    for copies in (20, 100):
        assert card[f"copied, {copies} copies"].mean == 1 and round(card[f"copied, {copies} copies"].low, 2) == 0.83
    assert card["copied, controls"].mean == card["copied, never-trained model"].mean == 0
    assert card["attributes right, drawn, paper"].mean > card["attributes right, drawn, ground"].mean > 0.8
    assert all(
        0.75 < card[f"detail, drawn / real, {world}"].mean < 1 for world in ("ground", "paper")
    )  # "a little softer"
    assert card["detail, drawn: copied items / neutral"].low < 1 < card["detail, drawn: copied items / neutral"].high


@pytest.mark.parametrize("world", ["ground", "paper"])
def test_the_models_are_at_the_floor_of_real_pictures(world):
    rows = {row["model"]: row for row in report("quality.json") if row["world"] == world}
    real = rows["real pictures"]
    for family in FAMILIES:
        mine = rows[family]
        for distance in ("Fréchet", "kernel"):
            assert mine[distance].low <= real[distance].high
        assert mine["precision"] >= real["precision"] - 0.05 and abs(mine["recall"] - real["recall"]) < 0.15
        assert mine["diversity"].low < 1 < mine["diversity"].high and real["recall"] < 0.5  # "recall looks low"
