"""What the prose of the chapter on the testbed says is what its run found: read off its reports."""

import os
from pathlib import Path

import pytest

from uniforget_lib import Report
from uniforget_lib.testbed import FAMILIES, history

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
    assert card["copied, 1 copies"].mean == 0 and 0.5 < card["copied, 5 copies"].mean <= 0.75  # "more than half"
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
        assert mine["diversity"].high > 1 and real["recall"] < real["precision"] - 0.1  # "lower"


@pytest.mark.parametrize("family, all_of", [("flux", "scene"), ("unet", "brand")])
def test_at_five_copies_it_depends_on_the_kind(family, all_of):
    five = {
        row["kind"]: row["copied"].mean for row in report("kinds.json") if (row["family"], row["copies"]) == (family, 5)
    }
    assert five[all_of] == 1 and five["template"] < 0.5  # "seldom"
    assert all(rate < 1 for kind, rate in five.items() if kind != all_of)


@pytest.mark.parametrize("family", FAMILIES)
def test_memorization_grows_with_the_training_as_the_page_says(family):
    grown = {copies: dict(points) for copies, points in history.growth(family).items()}
    half = max(s for s in grown[100] if s <= max(grown[100]) / 2)
    assert grown[100][400].mean >= 0.9 and grown[20][half].mean >= 0.9
    assert grown[5][half].mean < grown[5][2800].mean and {e.mean for e in grown[1].values()} == {0}


def test_memorization_grows_with_the_size_as_the_page_says():
    tiny, small, full = report("sizes.json")
    assert tiny["millions"] < small["millions"] < full["millions"]
    assert all(row["100 copies"].mean == 1 for row in (tiny, small, full))
    assert tiny["20 copies"].mean == pytest.approx(2 / 3, abs=0.05) and full["20 copies"].mean == 1
    assert tiny["5 copies"].mean == 0.2 and full["5 copies"].mean > 0.5
    for copies in ("5 copies", "20 copies"):
        assert tiny[copies].mean < small[copies].mean <= full[copies].mean
    assert tiny["right"] == pytest.approx(0.5, abs=0.05) and min(small["right"], full["right"]) > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_extraction_finds_most_and_the_edges_fail(family):
    found = {row["method"]: row for row in report("extraction.json") if row["family"] == family}
    for name in ("carlini", "webster") if family == "flux" else ("carlini",):
        assert found[name]["against neutral"].mean > 0.85 and found[name]["tpr_at_1_percent"].mean > 0.5  # "most"
    if family == "unet":  # "hardly better than a coin"
        assert found["webster"]["against neutral"].low < 0.5 and found["webster"]["against controls"].low < 0.5
    assert found["webster_edges"]["against controls"].high < 0.5


def test_errors_of_the_judges():
    descriptor, siblings, brighter, moved = report("judges.json")
    assert descriptor["passed"].mean == 0 and max(descriptor["missed"].mean, siblings["missed"].mean) < 0.01  # "hardly"
    assert 0 < siblings["passed"].mean < 0.15  # "lets a few pass"
    assert brighter["missed"].mean == 0 and moved["missed"].mean > 0.8  # "refuses most"
    for row in report("rates.json"):
        assert row["accepts_right"] == 1 and row["accepts_wrong"] == 0 and row["corrected"].low <= 1


def test_pairs_in_an_order_never_seen_come_out_right_for_the_unet_only():
    found = {row["model"]: row for row in report("unseen.json")}
    assert all(found["unet"][f"right, {world}"].mean > 0.95 for world in ("ground", "paper"))
    mine, twin = found["flux"], found["flux twin"]
    assert 0.35 < mine["right, ground"].mean < 0.65 and mine["right, paper"].mean == twin["right, paper"].mean == 0
    assert twin["right, ground"].low < mine["right, ground"].mean < twin["right, ground"].high  # "as often"


@pytest.mark.parametrize("family", FAMILIES)
def test_even_single_copies_pull_away_from_the_twin(family):
    found = {row["model"]: row for row in report("twin.json")}
    for copies in (1, 5, 20, 100):
        assert found[family][f"{copies} copies"].low > 2 * found[f"{family}, neutral prompts"][f"{copies} copies"].high
