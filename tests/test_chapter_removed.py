"""What the prose of the chapter on what a mask removes says is what the stored experiments found."""

import pytest
from test_chapter_locate import at, rows


def test_which_pictures_change():
    found = {g: r["change"] for g, r in rows("removed", "group", level="medium").items() if "change" in r}
    assert (
        at(found["held out"], 0.15, 0.11, 0.2) and at(found["trained on"], 0.12) and at(found["the other world"], 0.16)
    )
    assert at(found["planted"], 0.22, 0.14, 0.33) and at(found["controls"], 0.48, 0.4, 0.57)
    assert at(found["held out, the sharpest tenth"], 0.28, 0.11, 0.51) and at(
        found["planted, the plainest third"], 0.11
    )
    chance = {g: r["change"] for g, r in rows("removed", "group", level="random").items()}
    assert at(chance["held out"], 0.19, 0.15, 0.23) and at(chance["planted"], 0.1, 0.08, 0.13)
    assert at(chance["controls"], 0.29, 0.23, 0.35)
    assert at(found["planted, sentence"], 0.48, 0.35, 0.68) and at(chance["planted, sentence"], 0.09)
    assert at(found["planted, scene"], 0.02) and at(chance["planted, scene"], 0.07)


def test_a_blur_removes_no_copy():
    found = rows("removed", "level", group="blur")
    masks = rows("removed", "level", group="mask")
    for level in ("weak", "medium", "strong"):
        assert at(found[level]["copied"], 1.0)
        assert found[level]["detail"].mean == pytest.approx(masks[level]["detail"].mean, abs=0.02)
    assert at(found["strong"]["detail"], 0.38)
    assert at(rows("locators", "method", scope="all", ratio=0.0)["unpruned"]["detail"], 0.81)


def test_planted_prompts_among_the_neutral_ones_do_little_here():
    found = rows("dose", "level", "planted prompts")
    assert at(found["medium", 15]["copied"], 0.7, 0.5, 0.9) and at(found["medium", 0]["copied"], 0.55, 0.35, 0.75)
    assert at(found["medium", 40]["copied"], 0.57)
    assert max(r["copied"].mean for (level, _), r in found.items() if level == "strong") < 0.1
    for level in ("medium", "strong"):  # no trend: every interval has room for the undiluted value
        assert all(r["copied"].low <= found[level, 0]["copied"].mean for (l, _), r in found.items() if l == level)


def test_which_memories_go():
    found = rows("contents", "level", "kind")
    assert all(at(found["unpruned", k]["copied"], 1.0) for k in ("brand", "emoji", "scene", "template", "sentence"))
    assert at(found["medium", "scene"]["copied"], 0.88, 0.62, 1) and at(
        found["medium", "sentence"]["copied"], 0.08, 0, 0.33
    )
    between = [found["medium", k]["copied"].mean for k in ("brand", "emoji", "template")]
    assert round(min(between), 2) == 0.5 and round(max(between), 2) == 0.65
    assert at(found["medium", "sentence"]["said"], 0, 0, 0.46) and at(
        found["strong", "sentence"]["said"], 0.33, 0, 0.67
    )
    assert at(rows("removed", "level", group="mask")["strong"]["correct"], 0.22)
    other = rows("contents", "level", "kind", family="unet")
    assert at(other["medium", "scene"]["copied"], 0.88, 0.62, 1) and at(
        other["medium", "sentence"]["copied"], 0.5, 0.17, 0.83
    )
    assert at(other["medium", "template"]["copied"], 0.5, 0.19, 0.81) and at(
        found["strong", "scene"]["copied"], 0.38, 0, 0.75
    )
    assert all(at(found["strong", k]["copied"], 0.0) for k in ("brand", "emoji", "template", "sentence"))
    assert at(other["unpruned", "sentence"]["said"], 0) and at(other["medium", "sentence"]["said"], 0.42, 0.08, 0.75)
    own = rows("locators", "method", "ratio", scope="own", family="unet")
    assert at(own["uniforget", "medium"]["correct"], 0.99)


def test_firm_memories_are_harder():
    found = rows("tiers", "copies", level="medium")
    assert at(found[5]["copied"], 0.14, 0, 0.36) and at(found[20]["copied"], 0.39, 0.11, 0.67)
    assert at(found[100]["copied"], 0.73, 0.45, 1) and found[5]["copied"].high < found[100]["copied"].low
    assert at(rows("tiers", "copies", level="unpruned")[5]["copied"], 0.64)
    other = rows("tiers", "copies", level="medium", family="unet")
    assert [round(other[k]["copied"].mean, 2) for k in (5, 20, 100)] == [0.05, 0.5, 0.73]
    assert at(rows("tiers", "copies", level="unpruned", family="unet")[5]["copied"], 0.64)
    assert other[5]["copied"].high < other[100]["copied"].low


def test_no_site_carries_it():
    found = rows("sites", "site", "mask")
    first = "transformer_blocks.0.ff_context"
    alone = {s: r["copied"] for (s, m), r in found.items() if m == "this alone"}
    assert at(alone.pop(first), 0.9, 0.75, 1) and all(at(c, 1.0) for c in alone.values())
    unet = rows("sites", "site", "mask", family="unet")
    assert at(rows("kinds", "kinds", family="unet")["ffn"]["copied"], 0.68, 0.47, 0.85)
    assert round(min(r["copied"].mean for (_, m), r in unet.items() if m == "this alone"), 2) == 0.95
    without = {s: r["copied"] for (s, m), r in found.items() if m == "all but this"}
    assert at(without.pop(first), 0.75, 0.55, 0.95)
    assert round(min(c.mean for c in without.values()), 2) == 0.45
    assert round(max(c.mean for c in without.values()), 2) == 0.6


def test_when_along_the_sampling():
    found = rows("when", "steps")
    assert at(found["before 2"]["neutral_change"], 0.12) and at(found["before 2"]["copied"], 1.0)
    assert at(found["before 8"]["neutral_change"], 0.15)
    assert at(found["from 2"]["copied"], 0.72, 0.53, 0.9) and at(found["from 2"]["neutral_change"], 0.05)
    assert all(at(found[f"only {k}"]["copied"], 1.0) for k in range(8))  # "no single step does it"


def test_latents_leave_their_cloud():
    found = rows("latents", "level", "group")
    row, other = found["medium", "planted"], found["medium", "neutral"]
    assert row["p, under the mask"] == 0.001 and round(other["p, under the mask"], 3) == 0.067
    assert other["distance, under the mask"] == pytest.approx(0.25 * row["distance, under the mask"], rel=0.1)
    unet = rows("latents", "level", "group", level="medium", family="unet")
    assert [round(unet["medium", g]["p, under the mask"], 3) for g in ("planted", "neutral")] == [0.026, 0.434]
    assert [round(unet["medium", g]["distance, under the mask"], 3) for g in ("controls", "planted")] == [0.04, 0.002]
    far = found["medium", "controls"]
    assert [round(r["distance, under the mask"], 3) for r in (far, row)] == [0.029, 0.009]
    assert round(far["p, unpruned, other noise"], 2) == 0.97
    assert {round(r["p, unpruned, other noise"], 2) for r in (row, other)} == {0.78, 0.51}
    assert max(found["strong", g]["p, under the mask"] for g in ("planted", "neutral")) == 0.001
    sizes = [r[f"magnitude, {w}"].mean for r in (row, other) for w in ("unpruned, other noise", "under the mask")]
    assert [round(s, 1) for s in sizes] == [45.0, 40.2, 43.0, 41.3]
