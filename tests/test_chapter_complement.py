"""What the prose of the chapter on told and untold forgetting says is what the stored experiments, and its own run, found."""

import pytest
from test_chapter_locate import at, rows
from test_chapter_testbed import report

from uniforget_lib.experiments import unlearning


def test_settings():
    found = rows("settings", "method", "value")
    said = {"uce": (0, 0.97), "salun": (0, 0.91), "ablation": (0.03, 0.81), "esd-x": (0.29, 0.59), "esd-u": (0.03, 0.45),
            "fmn": (0.21, 0.27)}  # fmt: skip
    assert said.keys() == unlearning.SETTINGS["flux"].keys()
    for name, (shown, right) in said.items():
        row = found[name, unlearning.SETTINGS["flux"][name]]
        assert at(row["shown"], shown) and at(row["right"], right)


def test_each_removes_its_own_and_both_remove_both():
    found = rows("design", "method", "pruning")
    alone = found["none", "before"]
    assert at(found["none", "never"]["shown"], 0.92) and at(found["none", "never"]["copied"], 1)
    assert at(alone["shown"], 0.88) and at(alone["copied"], 0.33, 0.12, 0.55) and at(alone["right"], 0.79, 0.67, 0.89)
    copied = {"ablation": 1, "uce": 1, "esd-x": 1, "esd-u": 1, "salun": 0.75, "fmn": 0.7}
    assert all(at(found[m, "never"]["copied"], value) for m, value in copied.items())
    both = {key: row for key, row in found.items() if key[0] != "none" and key[1] != "never"}
    assert len(both) == 12
    assert max(r["shown"].mean for r in both.values()) < 0.105 and max(r["copied"].mean for r in both.values()) < 0.335
    right = {
        "uce": (0.86, 0.79, 0.76),
        "ablation": (0.61, 0.59, 0.43),
        "salun": (0.78, 0.63, 0.51),
        "esd-x": (0.60, 0.50, 0.24),
    }
    for name, values in right.items():
        assert all(at(found[name, when]["right"], v) for when, v in zip(("never", "before", "after"), values))
    worse = [m for m in unlearning.GRID if found[m, "after"]["right"].mean < found[m, "before"]["right"].mean]
    assert len(worse) == 6 and at(found["fmn", "never"]["right"], 0.11) and at(found["fmn", "before"]["right"], 0.34)
    apart = {m for m in worse if found[m, "after"]["right"].high < found[m, "before"]["right"].low}
    assert apart == {"esd-x", "fmn"}  # "the intervals are apart"
    lost = {m: -found[m, "after"]["right - uniforget"].mean for m in ("esd-u", "esd-x")}
    assert (
        lost["esd-u"] > lost["esd-x"] and found["esd-u", "after"]["copied - uniforget"].high >= 0
    )  # "but not by rule"


def test_paired_differences():
    found = rows("design", "method", "pruning")
    both = [row for key, row in found.items() if key[0] != "none" and key[1] != "never"]
    assert max(row["shown - method"].mean for row in both) == found["fmn", "before"]["shown - method"].mean
    assert at(found["fmn", "before"]["shown - method"], 0.06, 0, 0.15)
    assert not any(row["copied - uniforget"].low > 0 for row in both)
    assert at(found["uce", "before"]["right - uniforget"], 0, -0.05, 0.04)
    clear = {r["method"] for r in both if r["copied - uniforget"].high < 0}
    assert clear == {"fmn", "esd-x", "salun"}


def test_the_stored_cell_is_found_again():
    kept, now = report("complement_check.json")
    for name in ("shown", "copied", "right"):
        assert now[name].mean == pytest.approx(kept[name].mean, abs=0.08)  # other machines round otherwise


def test_mitigations():
    found = rows("mitigated", "method")
    said = {"uniforget": (0.33, 0.80), "safe guidance, strong": (0.95, 0.82), "wen": (0.97, 0.84), "ren, padding": (0.72, 0.88),
            "wen, half the target": (0.25, 0.34), "random words, 1": (0.30, 0.55), "random words, 4": (0.05, 0.11)}  # fmt: skip
    assert all(at(found[name]["copied"], c) and at(found[name]["right"], r) for name, (c, r) in said.items())
    assert at(found["uniforget"]["copied"], 0.33, 0.12, 0.55) and at(found["uniforget"]["right"], 0.80, 0.70, 0.88)
    assert at(found["wen, half the target"]["copied"], 0.25, 0.07, 0.45)
    assert at(found["ren, padding"]["paper_correct"], 0.88, 0.80, 0.95) and at(
        found["none"]["paper_correct"], 1, 0.94, 1
    )
    assert (
        found["safe guidance, strong"]["evaluations, planted"]
        == found["safe guidance, weak"]["evaluations, planted"]
        == 1.5
    )
    speed = {row["method"]: row["time"] for row in report("complement_speed.json")}
    assert 1.3 < speed["safe guidance, strong"].mean < 1.8 and speed["wen"].mean > 1.3
    assert all(0.8 < speed[name].mean < 1.35 for name in ("ren, padding", "random words, 4"))
    assert speed["uniforget (shrunk)"].mean < 1


def test_a_growing_list():
    found = rows("growth", "method", "n")
    plain, keeping, both = "uce", "uce, keeping neutral", "uniforget, then uce, keeping neutral"
    assert at(found[plain, 5]["right"], 0.48, 0.30, 0.66) and at(found[plain, 5]["paper_correct"], 0.22)
    assert at(found[plain, 10]["right"], 0.14) and at(found[plain, 10]["paper_correct"], 0.01)
    assert found[plain, 20]["right"].mean < 0.05 and all(at(found[plain, n]["told"], 0) for n in unlearning.TOLD)
    others = {1: 0.88, 2: 0.72, 5: 0.31, 10: 0.08, 20: 0}
    assert all(at(found[plain, n]["others"], left) for n, left in others.items())
    assert at(found[keeping, 20]["right"], 0.85, 0.76, 0.93) and at(found[keeping, 20]["paper_correct"], 0.99, 0.97, 1)
    assert all(at(found[keeping, n]["told"], left) for n, left in {1: 1, 2: 0.83, 5: 0.57}.items())
    assert at(found[keeping, 20]["told"], 0.16, 0.05, 0.27) and at(found[keeping, 20]["others"], 0.58)
    for n in unlearning.TOLD:  # "UniForget's lines are flat"; the control leaves nothing
        assert at(found["uniforget", n]["right"], 0.77, 0.66, 0.86) and at(found["uniforget", n]["paper_correct"], 0.97)
        assert (
            at(found["random", n]["told"], 0)
            and at(found["random", n]["others"], 0)
            and at(found["random", n]["right"], 0)
        )
    assert at(found[both, 20]["told"], 0.01, 0, 0.04) and at(found[both, 20]["others"], 0.11, 0.03, 0.22)
    assert at(found[both, 20]["right"], 0.72, 0.61, 0.82) and at(found[both, 20]["paper_correct"], 0.85)
    spared = [key for key, row in found.items() if key[1] == 20 and row["right"].mean > 0.5]
    left = {key[0]: found[key]["told"].mean + found[key]["others"].mean for key in spared}
    assert min(left, key=left.get) == both  # "of all that leave pictures right"
