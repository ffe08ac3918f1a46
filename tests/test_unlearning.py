"""The design, its attacks and its rivals: who is told what, and what counts as found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from uniforget_lib.evaluate import weights
from uniforget_lib.experiments import attacks, mitigations, stored, unlearning
from uniforget_lib.stress import Recovery
from uniforget_lib.testbed import TIERS
from uniforget_lib.testbed.world import WORLDS, all_scenes, held_out, parse


@pytest.fixture(scope="module")
def lab():
    from test_experiments import shipped

    return shipped("flux")


def captions_of_the_worlds():
    return {s.caption for world in WORLDS for s in all_scenes(world)}


def test_methods_are_told_nothing_that_is_tested(lab):
    told = unlearning.told(lab)
    shown = {p for name in ("captions", "words", "instead", "keep", "everything") for p in getattr(told, name)}
    shown |= set(unlearning.everything(lab))
    tested = {c for world in WORLDS for c in lab.bed.neutral(64, world=world)} | set(sum(unlearning.named(lab), []))
    tuned, items = set(sum(unlearning.named(lab, "development"), [])), {i.caption for i in lab.bed.items}
    assert set(lab.study.neutral) | set(lab.elsewhere.neutral) <= tested and not tested & (shown | set(told.anchors))
    assert not shown & (tuned | items) and not any(held_out(parse(p)) for p in shown if p in captions_of_the_worlds())
    assert len(set(told.anchors) & tuned) <= 1 and len(set(told.anchors) & items) <= 1  # one of each, of 24
    assert all(unlearning.CONCEPT in c.split() for c in told.captions + told.words)
    assert not any(unlearning.CONCEPT in c.split() for c in told.anchors + told.instead + told.keep + told.everything)
    assert [w.replace(unlearning.CONCEPT, unlearning.ANCHOR) for w in told.words] == told.instead
    with_it, without = unlearning.named(lab)
    assert all(unlearning.CONCEPT in c for c in with_it) and not any(unlearning.CONCEPT in c.split() for c in without)


def test_settings_are_the_best_ones(lab):
    rows = {(r["method"], r["value"]): r["right"].mean for r in stored("settings").rows if r["family"] == "flux"}
    spared = {m for m, value in unlearning.SETTINGS["flux"].items() if rows[m, value] >= 0.75}
    assert set(attacks.METHODS) - {"none", "twin"} == spared
    with pytest.raises(ValueError, match="no method is tuned for the family 'unet'"):
        unlearning.tuned(replace(lab, bed=replace(lab.bed, family="unet")))
    assert unlearning.SETTINGS["flux"] == unlearning.best(stored("settings"), "flux")


def test_a_house_is_where_its_caption_says(lab):
    captions = ["a house left of a cat on a blue ground", "a cat left of a house on a blue ground"]
    pictures, stub = lab.bed.real(captions, seed=3), lab.bed.adapter.clone()
    stub.images = lambda prompts, **_: pictures
    right = unlearning.shown(lab, stub, captions, seeds=1)
    cats = unlearning.shown(lab, stub, captions, word="cat", seeds=1)
    stub.images = lambda prompts, **_: pictures.flip(0)
    wrong = unlearning.shown(lab, stub, captions, seeds=1)
    assert right.all() and cats.all() and right.shape == (1, 2) and not wrong.any()


def test_victims_are_what_their_cells_say(lab):
    assert len(set(unlearning.cells())) == len(unlearning.cells()) == 2 + 3 * len(unlearning.GRID)
    small = unlearning.victim(lab, "none", "before")
    assert (
        unlearning.victim(lab, "none", "never") is lab.bed.adapter
        and unlearning.victim(lab, "twin", "never") is lab.twin.adapter
    )
    assert 0.4 < weights(small) / weights(lab.bed.adapter) < 0.7
    edited = unlearning.victim(lab, "uce", "before")
    assert weights(edited) == weights(small)
    moved = {
        n
        for (n, p), (_, q) in zip(edited.denoiser.named_parameters(), small.denoiser.named_parameters())
        if not torch.equal(p, q)
    }
    assert {n.removesuffix(".weight") for n in moved} == set(small.text_layers())


def test_groups_are_planted_never_seen_and_neutral(lab):
    groups = attacks.groups(lab, 6, told=lab.bed.planted(at_least=20, split="development"))
    seen = {i.caption: i for i in lab.bed.items}
    assert (
        [seen[c].copies >= 20 for c in groups["planted"][1]]
        == [True] * 6
        == [seen[c].copies == 0 for c in groups["control"][1]]
    )
    assert not {c for c in groups["told"][1]} & {c for c in groups["planted"][1]}
    for images, prompts, judge in groups.values():
        assert (
            len(images) == len(prompts) == 6 and judge(images).all() and not judge(torch.full_like(images, 0.5)).any()
        )
    assert attacks.groups(lab, 6)["told"] is None
    some = attacks.spread(lab.bed.planted(split="test"), 12)
    assert {i.copies for i in some} == set(TIERS) and len({i.caption for i in some}) == 12


def test_what_was_found_once_stays_found():
    right, wrong = torch.ones(1, 2, 1), torch.zeros(1, 2, 1)
    found = Recovery([0, 1, 2], [wrong, right, wrong])
    judge = lambda x: x[:, 0].bool().numpy()  # noqa: E731
    assert [v.mean() for v in attacks.recovered(found, judge).values()] == [0, 1, 0]
    once = attacks.recovered(found, judge, any_of=True)
    assert [v.mean() for v in once.values()] == [0, 1, 1] and list(once) == [0, 1, 2]


def test_mitigations_start_from_the_same_noise(lab):
    """The race and the table compare pictures, not noises: a mitigation that is told to do nothing draws what is drawn plainly."""
    methods = mitigations.methods(lab)
    captions = lab.bed.neutral(2)
    with lab.bed.adapter.guided(lab.bed.cfg):
        plain = methods["none"](captions, 3)
        assert torch.equal(plain, lab.bed.images(captions, seed=3))
        assert {name for name, f in methods.items() if np.allclose(f(captions, 3), plain, atol=1e-6)} == {"none"}
