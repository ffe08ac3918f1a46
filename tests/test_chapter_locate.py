"""What the prose of the chapter on locating says is what the stored experiments, and its own run, found."""

import pytest
from test_chapter_testbed import report

from uniforget_lib import experiments


def rows(name, *keys, family="flux", **conditions):
    """Rows of a stored experiment by the columns ``keys``."""
    found = [r for r in experiments.stored(name).rows if r["family"] == family]
    found = [r for r in found if all(r[k] == v for k, v in conditions.items())]
    return {tuple(r[k] for k in keys) if len(keys) > 1 else r[keys[0]]: r for r in found}


def at(estimate, *numbers):
    """The estimate reads as ``mean [low, high]``, or as its mean alone, with two decimals."""
    found = (estimate.mean, estimate.low, estimate.high)[: len(numbers)]
    assert [round(f, 2) for f in found] == list(numbers), str(estimate)
    return True


def test_the_stored_table_is_what_the_code_finds_today():
    stored, now, trained, again = report("locate_again.json")
    for name in ("copied", "correct", "detail", "neutral_change"):
        assert now[name].mean == pytest.approx(stored[name].mean, abs=0.03)
        assert again[name].mean == pytest.approx(
            trained[name].mean, abs=0.15
        )  # trained anew; other machines may differ
    assert (
        again["copied"].mean < 0.8 and again["correct"].mean > 0.65
    )  # a mask that did nothing, or broke the model, fails


def test_how_a_mask_is_learned():
    history = report("locate_mask.json")
    first = next(row["step"] for row in history if row["off"] > 0)
    assert 12 <= first <= 16 and history[10]["reconstruction"] > 0.05 * max(r["reconstruction"] for r in history)
    early, middle, late = (
        sum(r["reconstruction"] for r in history[a:b]) / (b - a) for a, b in ((10, 20), (30, 50), (60, 80))
    )
    assert early < 0.7 * middle and late < 1.05 * middle and history[-1]["off"] > 1.2 * history[30]["off"]


def test_equal_sparsity_flatters_who_picks_harmless_units():
    found = rows("locators", "method", "ratio", scope="all")
    mask = found["uniforget", 0.45]
    assert at(mask["correct"], 0.82, 0.73, 0.91) and at(mask["copied"], 0.55, 0.35, 0.75)
    assert at(mask["paper_correct"], 0.66, 0.53, 0.77)
    for name, right in (("random", 0.03), ("magnitude", 0), ("activation", 0.02)):
        assert at(found[name, 0.45]["correct"], right)
    assert at(found["random", 0.2]["copied"], 0.47) and at(found["random", 0.2]["correct"], 0.07)
    assert all(found["uniforget", r]["copied"].mean > 0.9 for r in (0.05, 0.1, 0.2))  # "copies included"
    for name in ("gradient", "integrated"):
        assert found[name, 0.05]["correct"].mean < 0.045  # "at most .04"
    for ratio in (0.05, 0.1, 0.2, 0.3, 0.45, 0.6):  # "more right than every other method"
        others = [r["correct"].mean for (m, s), r in found.items() if s == ratio and m != "uniforget"]
        assert found["uniforget", ratio]["correct"].mean > max(others)


def test_the_distance_to_the_twin_is_a_trap():
    found = rows("locators", "method", "ratio", scope="all")
    assert found["unpruned", 0.0]["to_twin"].mean == pytest.approx(2, abs=0.1)
    low = min(found.values(), key=lambda r: r["to_twin"].mean)
    assert low["correct"].mean < 0.05 and 0.9 < low["to_twin"].mean < 1.3
    other = rows("locators", "method", "ratio", scope="all", family="unet").values()
    assert all(1.9 < r["to_twin"].mean < 2.3 for r in other)


def test_at_equal_price_one_line():
    found = rows("locators", "method", "ratio", scope="all")
    told = found["activation", 0.2]
    assert at(told["copied"], 0.35, 0.15, 0.55) and at(told["correct"], 0.64, 0.53, 0.75)
    a, b = found["uniforget", 0.45], found["uniforget", 0.6]
    assert at(b["copied"], 0.25) and at(b["correct"], 0.42)
    share = (told["correct"].mean - b["correct"].mean) / (a["correct"].mean - b["correct"].mean)
    between = b["copied"].mean + share * (a["copied"].mean - b["copied"].mean)
    assert told["copied"].low < between < told["copied"].high
    for name in ("random", "magnitude"):  # "clearly above": no mask of theirs forgets half and keeps half
        assert not any(r["copied"].mean < 0.5 and r["correct"].mean > 0.5 for (m, _), r in found.items() if m == name)
    assert told["forwards"] == 336 and a["forwards"] == 6144
    assert rows("locators", "method", family="unet", scope="all", ratio=0.85)["integrated"]["forwards"] == 6048


def test_most_is_taken_from_the_text_stream():
    off = {site: row["site off"] for site, row in rows("sites", "site").items()}
    for block in (0, 1):
        assert 0.85 < off[f"transformer_blocks.{block}.ff_context"] < 0.9  # "nearly nine in ten"
        assert 0.28 < off[f"transformer_blocks.{block}.ff"] < 0.38  # "about a third"


def test_the_strictest_control():
    for family, wanted in (
        ("flux", {"medium": ((0.55, 0.81), (0.0, 0.02), (0.03, 0.04))}),
        ("unet", {"medium": ((0.68, 0.99), (0.65, 0.82), (0.85, 0.93)), "strong": ((0.35, 0.72), (0.28, 0.22), (0.38, 0.27))}),
    ):  # fmt: skip
        found = rows("locators", "ratio", "method", scope="own", family=family)
        for level, numbers in wanted.items():
            for name, (copied, right) in zip(("uniforget", "random", "magnitude"), numbers):
                assert at(found[level, name]["copied"], copied) and at(found[level, name]["correct"], right)


def test_the_unet_can_spare_nearly_all():
    found = rows("locators", "method", "ratio", scope="all", family="unet")
    assert at(found["random", 0.5]["correct"], 0.92) and at(found["random", 0.5]["copied"], 0.97)
    wanted = {("uniforget", 0.85): (0.98, 0.65), ("integrated", 0.85): (0.99, 0.55),
              ("uniforget", 0.95): (0.81, 0.45), ("integrated", 0.95): (0.78, 0.3)}  # fmt: skip
    for key, (right, copied) in wanted.items():
        assert at(found[key]["correct"], right) and at(found[key]["copied"], copied)
    assert (
        min(r["copied"].mean for (m, s), r in found.items() if s == 0.85) > 0.5
    )  # "more than half of the copies survive"


def test_chavhan_among_feed_forward_neurons():
    found = rows("locators", "method", "ratio", scope="ffn")
    assert at(found["chavhan", 0.2]["copied"], 0.8, 0.6, 0.95) and at(
        found["chavhan", 0.2]["correct"], 0.69, 0.59, 0.78
    )
    assert at(found["uniforget", 0.2]["copied"], 0.95, 0.85, 1) and at(
        found["uniforget", 0.2]["correct"], 0.88, 0.8, 0.95
    )
    assert at(found["random", 0.2]["copied"], 1.0) and at(found["random", 0.2]["correct"], 0.67, 0.56, 0.77)


def test_which_modules():
    found = rows("kinds", "kinds")
    copied = {name: row["copied"] for name, row in found.items()}
    assert min(copied, key=lambda k: copied[k].mean) == "ffn" and at(copied["ffn"], 0.45, 0.25, 0.65)
    assert max(copied, key=lambda k: copied[k].mean) == "head" and at(copied["head"], 0.7, 0.5, 0.9)
    assert copied["ffn"].high > copied["head"].low  # "cannot be told apart"
    right = [row["correct"].mean for row in found.values()]
    assert round(min(right), 2) == 0.77 and round(max(right), 2) == 0.84
    assert at(found["ffn + norm"]["paper_correct"], 0.7) and at(found["ffn + norm + head"]["paper_correct"], 0.92)
    other = rows("kinds", "kinds", family="unet")
    for name, copied, paper in (("head", (0.6, 0.4, 0.8), 1.0), ("ffn", (0.68, 0.47, 0.85), 0.77)):
        assert at(other[name]["copied"], *copied) and at(other[name]["correct"], 0.99)
        assert at(other[name]["paper_correct"], paper)
    assert at(found["ffn"]["detail"], 0.49) and found["ffn"]["detail"].mean == min(
        r["detail"].mean for r in found.values()
    )


def test_how_strong_and_relaxed_or_not():
    found = rows("strength", "times", "relaxed")
    assert at(found[0.1, True]["copied"], 1.0) and at(found[10.0, True]["correct"], 0.0)
    assert at(found[3.0, True]["copied"], 0.07, 0.0, 0.2) and at(found[3.0, True]["correct"], 0.36, 0.26, 0.46)
    plain, relaxed = found[0.3, False], found[1.0, True]
    assert [round(r["off"], 2) for r in (plain, relaxed)] == [0.39, 0.44]
    assert at(plain["copied"], 0.65) and at(plain["correct"], 0.82) and at(relaxed["copied"], 0.55)
    assert all(row["rises"] == 0 for row in found.values())
    assert at(relaxed["selectivity"], 1.46) and at(
        rows("locators", "method", "ratio", scope="all")["random", 0.1]["selectivity"], 0.49
    )


def test_more_training_is_what_helps():
    found = rows("budget", "times", "ratio")
    assert at(found[4, 0.6]["copied"], 0.3, 0.1, 0.5) and at(found[4, 0.6]["correct"], 0.88, 0.8, 0.95)
    assert at(found[1, 0.6]["copied"], 0.25) and at(found[1, 0.6]["correct"], 0.42)
    last = found[16, "own"]
    assert at(last["copied"], 0.05, 0, 0.15) and at(last["correct"], 0.55, 0.44, 0.66) and round(last["off"], 2) == 0.8
    assert at(found[16, 0.6]["correct"], 0.7, 0.59, 0.79)
    assert at(found[4, 0.6]["paper_correct"], 0.53, 0.41, 0.66) and at(last["paper_correct"], 0.05, 0, 0.11)
    table = rows("locators", "method", "ratio")
    assert at(table["uniforget", "strong"]["copied"], 0.07) and at(table["uniforget", "strong"]["correct"], 0.22)
    for copied, right in ((0.3, 0.88), (0.05, 0.55)):  # "no other locator came near"
        others = [r for (m, _), r in table.items() if m not in ("uniforget", "unpruned")]
        assert not any(r["copied"].mean <= copied + 0.1 and r["correct"].mean >= right - 0.1 for r in others)


def test_the_same_mask_twice():
    found = rows("agreement", "mask")
    again = [found[name] for name in ("another seed", "a third seed")]
    halves = [found[name] for name in ("one half of the prompts", "the other half")]
    assert all(round(r["iou"], 1) == 0.6 and round(r["chance"], 2) in (0.37, 0.38) for r in again + halves)
    assert {round(r["iou"], 2) for r in halves} == {0.61, 0.63}
    same = [found["the first"], *again, *halves]
    assert [round(f(r["copied"].mean for r in same), 2) for f in (min, max)] == [0.47, 0.62]
    assert [round(f(r["correct"].mean for r in same), 2) for f in (min, max)] == [0.73, 0.84]
    seeds = [r["paper_correct"].mean for r in same[:3]]
    assert round(min(seeds), 2) == 0.7 and round(max(seeds), 2) == 0.89
    other = found["prompts of the other world"]
    assert at(other["paper_correct"], 0.97, 0.92, 1) and at(other["correct"], 0.3, 0.2, 0.41)


def test_which_units_are_shared():
    found = rows("overlap", "method", "other", ratio=0.2)
    for pair, iou, chance in (
        (("uniforget", "activation"), 0.23, 0.15),
        (("gradient", "integrated"), 0.33, 0.13),
        (("uniforget", "gradient"), 0.04, 0.08),
    ):
        assert [round(found[pair][k], 2) for k in ("iou", "chance")] == [iou, chance]
    unet = rows("overlap", "method", "other", ratio=0.2, family="unet")
    for other, iou, chance in (("magnitude", 0.43, 0.2), ("gradient", 0.03, 0.08)):
        assert [round(unet["uniforget", other][k], 2) for k in ("iou", "chance")] == [iou, chance]
    assert max((r["iou"], o) for (m, o), r in unet.items() if m == "uniforget")[1] == "magnitude"


def test_a_mask_protects_what_it_is_calibrated_on():
    found = rows("prompts", "prompts")
    assert found["4 captions"]["off"] > 0.7 and found["4 captions"]["correct"].mean < 0.1
    assert at(found["4 captions"]["correct"], 0.07) and at(found["64 captions"]["correct"], 0.72, 0.62, 0.82)
    assert at(found["256 captions"]["correct"], 0.81, 0.72, 0.9)
    off = [found[f"{n} captions"]["off"] for n in (4, 16, 64, 256)]
    assert off == sorted(off, reverse=True)  # fewer prompts, a stronger mask
    assert found["single objects only"]["n"] == 11 and found["single objects only"]["correct"].mean < 0.1
    both = found["both worlds"]
    assert at(both["correct"], 0.73, 0.62, 0.83) and at(both["paper_correct"], 0.98, 0.95, 1)
    assert at(both["copied"], 0.35, 0.15, 0.55)
    assert at(found["random words"]["correct"], 0.12) and at(found["the empty prompt"]["correct"], 0.05)
    with_names, without = (found[n]["copied"] for n in ("random words", "random words, items' names left out"))
    assert at(with_names, 0.5) and at(without, 0.33) and without.high > with_names.mean


def test_a_mask_for_each_step():
    found = rows("steps", "masks")
    one, each = found["one for all steps"], found["one for each step"]
    assert at(each["copied"], 0.42, 0.2, 0.65) and at(one["copied"], 0.55, 0.35, 0.75)
    assert at(each["correct"], 0.84) and at(one["correct"], 0.81) and each["detail"].mean > one["detail"].mean
    assert at(each["selectivity"], 1.93, 1.27, 2.83) and at(one["selectivity"], 1.46, 0.86, 2.34)
    assert round(each["off in every step"], 2) == 0.21


def test_nemo_told_of_other_items():
    found = rows("locators", "method", scope="value", family="unet")
    assert round(found["nemo"]["off"], 2) == 0.49
    assert at(found["nemo"]["copied"], 0.38, 0.17, 0.57) and at(found["nemo"]["correct"], 0.15, 0.08, 0.23)
    assert at(found["random"]["copied"], 0.38) and at(found["random"]["correct"], 0.16)
