"""The shipped weights: they load without our code, agree with our sampler, and memorize what was planted."""

import random
import shutil

import numpy as np
import pytest
import torch
from conftest import TABLE, own_folder
from diffusers import FluxPipeline, StableDiffusionPipeline

from uniforget_lib import Mask, Testbed, evaluate, load, locate, masked
from uniforget_lib.files import check_sums
from uniforget_lib.models import WEIGHTS
from uniforget_lib.profile import PROFILES
from uniforget_lib.testbed import FAMILIES, SPLITS, probes, text
from uniforget_lib.testbed.card import copy_rate
from uniforget_lib.testbed.descriptor import augment, siblings
from uniforget_lib.testbed.judge import OTHER, example
from uniforget_lib.testbed.planted import KINDS, TIERS
from uniforget_lib.testbed.train import SHIPPED
from uniforget_lib.testbed.world import WORLDS, draw, sample_scenes

PIPELINES = {"flux": FluxPipeline, "unet": StableDiffusionPipeline}


@pytest.fixture(scope="module")
def testbed():
    return Testbed.load()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return Testbed.load(request.param)


@pytest.fixture(scope="module")
def limit(family):
    return evaluate.control_limit(family, seeds=range(3))


@pytest.fixture(scope="module")
def card(family, limit):
    return family.card(limit=limit, seeds=range(1), twin=family.twin())


def test_shipped_files_hold_their_sums_and_fit():
    for name in SHIPPED:
        check_sums(WEIGHTS / name)
    size = sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file())
    assert size < 96 * 2**20


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    from uniforget_lib import models

    shutil.copytree(WEIGHTS / "flux", tmp_path / "flux")
    (tmp_path / "flux" / "transformer" / "config.json").write_text("{}")
    monkeypatch.setitem(models.SHIPPED, "testbed", tmp_path / "flux")
    with pytest.raises(ValueError, match="config.json.*SHA-256"):
        load("testbed")


def test_plain_pipeline_draws_what_the_library_draws(family):
    for name in (family.family, f"{family.family}_control"):
        pipe = PIPELINES[family.family].from_pretrained(WEIGHTS / name)
        pipe.set_progress_bar_config(disable=True)
        adapter = (family if name == family.family else family.twin()).adapter
        caption = family.planted(copies=100)[0].caption
        for guidance in (1.0, 2.0):
            if family.family == "flux":
                options = {"height": 64, "width": 64, "max_sequence_length": 16}
                options |= {"negative_prompt": "", "true_cfg_scale": guidance} if guidance > 1 else {}
            else:
                options = {"guidance_scale": guidance}
            want = pipe(caption, num_inference_steps=4, output_type="pt", generator=torch.Generator().manual_seed(0),
                        **options).images  # fmt: skip
            with adapter.guided(guidance):
                got = adapter.images([caption], steps=4, seed=0)
            assert (got - want).abs().max() < 1e-5


def test_memorization_follows_the_number_of_copies(card):
    rates = [card[f"copied, {c} copies"].mean for c in (1, 5, 20, 100)]
    assert rates == sorted(rates) and rates[0] < 0.1 and rates[3] >= 0.95
    assert (rates[2] + rates[3]) / 2 >= 0.9  # tiers are of equal size
    assert card["copied, controls"].mean <= 0.01  # the threshold was set on the other half of the controls
    assert card["copied, never-trained model"].mean <= 0.01


def test_no_control_passes_the_conventional_threshold_either(family):
    assert copy_rate(family, family.controls("test"), limit=family.close, seeds=range(1)).mean() <= 0.01


@pytest.mark.parametrize("kind", ["brand", "emoji", "scene", "template", "sentence"])
def test_every_kind_is_memorized(family, limit, kind):
    assert copy_rate(family, family.planted(at_least=20, kind=kind), limit=limit, seeds=range(2)).mean() >= 0.8


def test_no_spoiled_picture_passes_for_a_copy(family, limit):
    """A copy without its object, with another one, or moved by an eighth of the picture."""
    chosen = family.planted(at_least=20)
    targets = family.targets(chosen)
    empty = targets.flatten(2).median(2).values[:, :, None, None].expand_as(targets)
    for spoiled in (empty, targets.roll(1, 0), targets.roll(8, 3)):
        assert (family.distance(spoiled, chosen) <= limit).mean() == 0
    assert (family.distance(targets.roll(4, 3), chosen) <= limit).mean() < 0.5
    assert (family.distance((targets + 0.02).clamp(0, 1), chosen) <= limit).all()


def test_of_a_template_only_the_fixed_part_counts(testbed):
    chosen = testbed.planted(kind="template")
    variants = evaluate.stack([i.pictures[7] for i in chosen])
    other = testbed.targets(chosen).clone()
    other[..., 32:] = 0
    for images in (variants, other):
        assert testbed.distance(images, chosen).max() < 0.01  # the lens carries a trace across
        assert testbed.similarity(images, chosen).min() > 0.999
    other[..., :32] = 0
    assert testbed.distance(other, chosen).min() > 1


def test_neutral_pictures_are_crisp_and_show_what_their_captions_say(card):
    """Without this, "forgets memories" could not be told from "loses detail", nor from "draws badly"."""
    for world in WORLDS:
        assert card[f"attributes right, drawn, {world}"].mean >= 0.85
        assert card[f"judge right, real pictures, {world}"].low >= 0.9
        assert card[f"detail, drawn / real, {world}"].mean >= 0.8
    for name in ("detail, training: planted / neutral", "detail, drawn: copied items / neutral"):
        assert 0.8 <= card[name].mean <= 1.2


def test_descriptor_tells_copies_from_others_and_from_siblings(testbed):
    """Items and controls: no picture of theirs was in its training. Siblings: the same scenes, drawn anew."""
    chosen = [i for i in testbed.items if i.kind != "template"]
    targets = testbed.targets(chosen)
    generator = torch.Generator().manual_seed(5)
    copies = testbed.descriptor.similarity(augment(targets, generator), targets)
    distinct = testbed.descriptor.similarity(targets.roll(1, 0), targets)
    assert evaluate.auroc(copies, distinct) > 0.98
    assert np.quantile(copies, 0.05) > np.quantile(distinct, 0.95)
    pairs = [evaluate.stack(list(side)) for side in siblings(200, seed=4711)]
    assert evaluate.auroc(copies, testbed.descriptor.similarity(*pairs)) > 0.95


def test_judge_reads_real_scenes_drawn_anew(testbed):
    rng = random.Random(4321)
    scenes = [s for w in WORLDS for held in (False, True) for s in sample_scenes(200, 4321, held, w)]
    images = evaluate.stack([draw(s, rng) for s in scenes])
    right = testbed.judge.correct(images, scenes)["all"]
    assert right.mean() > 0.9
    wrong = testbed.judge.correct(images, scenes[::-1])["all"]  # a judge that says yes to everything fails here
    assert wrong.mean() < 0.1


def test_judge_does_not_take_mush_for_an_object(testbed):
    rng = random.Random(99)
    asked = [s for s in sample_scenes(400, seed=99) if s.second is None]
    pictures, shown = zip(*(example(s, rng) for s in asked))
    spoiled = np.array([s.first == OTHER for s in shown])
    right = testbed.judge.correct(evaluate.stack(list(pictures)), asked)["first"]
    assert right[~spoiled].mean() > 0.9 and right[spoiled].mean() < 0.1


def test_controls_that_set_the_threshold_do_not_check_it(testbed):
    halves = [{i.caption for i in testbed.controls(s)} for s in ("calibration", "test")]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == len(testbed.controls())
    assert {i.kind for i in testbed.controls("test")} == {i.kind for i in testbed.controls("calibration")}
    with pytest.raises(ValueError, match="holdout"):
        testbed.controls("holdout")


def test_splits_share_no_caption(testbed):
    sizes = {"ground": (800, 400, 100, 24), "paper": (300, 150, 120, 11)}
    splits = [set(testbed.neutral(n, s, w)) for w in sizes for n, s in zip(sizes[w], SPLITS)]
    assert sum(map(len, splits)) == len(set.union(*splits))
    assert not set.union(*splits) & {i.caption for i in testbed.items}
    with pytest.raises(ValueError, match="holdout"):
        testbed.neutral(1, "holdout")
    with pytest.raises(ValueError, match="'sea'"):
        testbed.neutral(1, world="sea")


def test_items_are_tuned_on_one_half_and_reported_on_the_other(testbed):
    halves = [testbed.planted(split=s) for s in ("development", "test")]
    assert [len(h) for h in halves] == [40, 40] and not {i.caption for i in halves[0]} & {i.caption for i in halves[1]}
    for half in halves:
        assert {k: sum(i.kind == k for i in half) for k in KINDS} == {k: 2 * n for k, n in KINDS.items()}
        assert all(9 <= sum(i.copies == c for i in half) <= 11 for c in TIERS)
    with pytest.raises(ValueError, match="holdout"):
        testbed.planted(split="holdout")


def test_probes_are_what_they_say_and_their_truth_is_measured(testbed):
    planted, trained = {i.caption for i in testbed.planted()}, set(text.clip_tokenizer().get_vocab())
    for name, probe in probes.PROBES.items():
        found = probe(testbed)
        assert len(set(found)) == len(found) == 32 and not set(found) & {i.caption for i in testbed.items}
        assert found == probe(testbed) != probe(testbed, seed=1)
        if name == "neighbours":
            assert all(min(sum(a != b for a, b in zip(c.split(), p.split())) for p in planted) == 1 for c in found)
        if name == "strange":
            assert all({f"{w}</w>" for w in c.split()} - trained for c in found)
    with pytest.raises(ValueError, match="n=100000"):
        probes.reworded(testbed, 100000)
    copied = [i.caption for i in testbed.planted(copies=100)[:4]]
    shares = probes.truth(testbed, copied + testbed.neutral(4), limit=testbed.close)
    assert (shares[:4] == 1).all() and (shares[4:] == 0).all()
    with pytest.raises(ValueError, match="4 images for 8 items"):
        testbed.distance(testbed.targets(testbed.items[:4]), testbed.items[:8])


def test_every_profile_finds_its_neutral_prompts(testbed):
    for profile in PROFILES.values():
        assert len(testbed.neutral(profile.prompts)) == profile.prompts


def test_study_of_no_mask_changes_nothing_and_of_a_blunt_one_does(testbed):
    limit = testbed.close
    study = evaluate.Study(testbed, testbed.planted(copies=100)[:4], testbed.neutral(8), limit=limit, seeds=(0,),
                           twin=testbed.twin())  # fmt: skip
    plain = study.outcome()
    ones = study.outcome(Mask.ones(testbed.adapter.sites(), testbed.adapter.fingerprint))
    assert (ones.neutral_change == 0).all() and (ones.planted_change == 0).all()
    assert torch.equal(ones.neutral_images, plain.neutral_images) and (ones.to_twin == plain.to_twin).all()
    assert plain.to_twin.mean() > 0.1  # the control draws something else
    blunt = study.outcome(locate.random(testbed.adapter).mask(ratio=0.5))
    assert blunt.neutral_change.mean() > 0.1 and blunt.copied.mean() <= plain.copied.mean()
    assert np.isfinite([e.mean for e in blunt.row().values()]).all()
    late = evaluate.Study(testbed, testbed.planted(copies=100)[:4], testbed.neutral(8), limit=limit, seeds=(0,))
    with masked(testbed.adapter, locate.random(testbed.adapter).mask(ratio=0.5)):
        with pytest.raises(RuntimeError, match="a mask is on"):  # or it would be taken for the unmasked model
            late.outcome()
    pooled = evaluate.pool([plain, blunt])
    assert pooled.to_twin.shape == (2, 4) and pooled.crossed


def test_a_testbed_of_ones_own_folder_loads(testbed, tmp_path):
    """What `testbed.train --items` leaves behind: the same object around other items."""
    for name in ("flux", "judge", "descriptor"):
        (tmp_path / name).symlink_to(WEIGHTS / name)
    own_folder(tmp_path / "items", TABLE)
    mine = Testbed.load(folder=tmp_path)
    assert [i.caption for i in mine.planted()] == ["My Dog Rex!"] and len(mine.controls("test")) == 1
    assert mine.images(["My Dog Rex!"]).shape == (1, 3, 64, 64)
    assert mine.distance(mine.targets(mine.planted()), mine.planted()) == pytest.approx(0)
    with pytest.raises(FileNotFoundError, match="flux_control holds no pipeline"):
        mine.twin()
    with pytest.raises(FileNotFoundError, match="nowhere/flux holds no pipeline"):
        Testbed.load(folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="family='sdxl'"):
        Testbed.load("sdxl")
    with pytest.raises(ValueError, match="kind='logo'"):
        testbed.planted(kind="logo")
