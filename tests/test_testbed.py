"""The shipped weights: they load without our code, agree with our sampler, and memorize what was planted."""

import json
import random

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from uniforget_lib import Mask, Testbed, evaluate, load
from uniforget_lib.files import check_sums
from uniforget_lib.models import WEIGHTS
from uniforget_lib.profile import PROFILES
from uniforget_lib.testbed.judge import OTHER, example
from uniforget_lib.testbed.train import SHIPPED, STAGES, Recipe
from uniforget_lib.testbed.world import draw, sample_scenes


@pytest.fixture(scope="module")
def testbed():
    return Testbed.load()


@pytest.fixture(scope="module")
def limit(testbed):
    return evaluate.control_limit(testbed)


@pytest.fixture(scope="module")
def card(testbed, limit):
    return testbed.card(limit=limit, seeds=range(2))


def test_shipped_files_hold_their_sums_and_fit():
    for folder in SHIPPED:
        check_sums(WEIGHTS / folder)
    size = sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file())
    assert size < 30 * 2**20  # half of the 60 MB of all pipelines of the project: one family, two models


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    import shutil

    from uniforget_lib import models

    shutil.copytree(WEIGHTS / "flux", tmp_path / "flux")
    (tmp_path / "flux" / "transformer" / "config.json").write_text("{}")
    monkeypatch.setitem(models.SHIPPED, "testbed", tmp_path / "flux")
    with pytest.raises(ValueError, match="config.json.*SHA-256"):
        load("testbed")


def test_plain_pipeline_draws_what_the_library_draws(testbed):
    pipe = FluxPipeline.from_pretrained(WEIGHTS / "flux")
    pipe.set_progress_bar_config(disable=True)
    item = testbed.planted(copies=100)[0]
    for guidance in (1.0, 2.0):
        options = {"negative_prompt": "", "true_cfg_scale": guidance} if guidance > 1 else {}
        want = pipe(item.caption, num_inference_steps=4, height=64, width=64, max_sequence_length=16, output_type="pt",
                    generator=torch.Generator().manual_seed(0), **options).images  # fmt: skip
        with testbed.adapter.guided(guidance):
            got = testbed.adapter.images([item.caption], steps=4, seed=0)
        assert (got - want).abs().max() < 1e-5


def test_memorization_follows_the_number_of_copies(card):
    rates = [card[f"copied, {c} copies"].mean for c in (1, 5, 20, 100)]
    assert rates == sorted(rates) and rates[0] < 0.1 and rates[3] >= 0.95
    assert (rates[2] + rates[3]) / 2 >= 0.9  # tiers are of equal size
    assert card["copied, controls"].mean <= 0.01  # the threshold was set on the other half of the controls


def test_no_spoiled_picture_passes_for_a_copy(testbed, limit):
    """A copy without its object, with another one, or moved by an eighth of the picture."""
    chosen = testbed.planted(at_least=20)
    targets = testbed.targets(chosen)
    empty = targets.flatten(2).median(2).values[:, :, None, None].expand_as(targets)
    for spoiled in (empty, targets.roll(1, 0), targets.roll(8, 3)):
        assert evaluate.copied(spoiled, targets, limit).mean() == 0
    assert evaluate.copied(targets.roll(4, 3), targets, limit).mean() < 0.5
    assert evaluate.copied((targets + 0.02).clamp(0, 1), targets, limit).all()


def test_neutral_pictures_are_crisp_and_show_what_their_captions_say(card):
    """Without this, "forgets memories" could not be told from "loses detail", nor from "draws badly"."""
    assert card["attributes right, drawn"].mean >= 0.85
    assert card["judge right, real pictures"].low >= 0.9
    assert card["detail, neutral: drawn / real"].mean >= 0.8
    for name in ("detail, training: planted / neutral", "detail, drawn: copied items / neutral"):
        assert 0.8 <= card[name].mean <= 1.2


def test_shipped_logs_belong_to_the_recipe():
    recipe = json.loads((WEIGHTS / "logs" / "recipe.json").read_text())
    assert recipe == json.loads(json.dumps(Recipe().__dict__))
    total = {"vae": recipe["vae_steps"], "judge": recipe["judge_steps"]}
    for stage in (s for s in STAGES if s != "flux_control"):  # the twin does not ship yet
        rows = [json.loads(line) for line in (WEIGHTS / "logs" / f"{stage}.jsonl").read_text().splitlines()]
        twin = 0 if stage.endswith("_neutral") else recipe["twin_steps"]
        assert (
            rows[-1]["step"] == total.get(stage, recipe["neutral_steps"] + twin) and rows[-1]["loss"] < rows[0]["loss"]
        )


def test_judge_reads_real_scenes_that_it_never_saw(testbed):
    rng = random.Random(4321)
    scenes = sample_scenes(300, seed=4321) + sample_scenes(300, seed=4322, held=True)
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
    splits = [set(testbed.neutral(n, s)) for n, s in ((800, "train"), (400, "development"), (128, "test"))]
    assert sum(map(len, splits)) == len(set.union(*splits))
    with pytest.raises(ValueError, match="holdout"):
        testbed.neutral(1, "holdout")


def test_every_profile_finds_its_neutral_prompts(testbed):
    for profile in PROFILES.values():
        assert len(testbed.neutral(profile.prompts)) == profile.prompts


def test_study_of_no_mask_changes_nothing_and_of_a_blunt_one_does(testbed, limit):
    from uniforget_lib import locate

    study = evaluate.Study(testbed, testbed.planted(copies=100)[:4], testbed.neutral(8), limit=limit, seeds=(0,))
    plain = study.outcome()
    ones = study.outcome(Mask.ones(testbed.adapter.sites(), testbed.adapter.fingerprint))
    assert (ones.neutral_change == 0).all() and (ones.planted_change == 0).all()
    assert torch.equal(ones.neutral_images, plain.neutral_images)
    blunt = study.outcome(locate.random(testbed.adapter).mask(ratio=0.5))
    assert blunt.neutral_change.mean() > 0.1 and blunt.copied.mean() <= plain.copied.mean()
    assert np.isfinite([e.mean for e in blunt.row().values()]).all()
