"""Training the testbed: seeded by step, resumable, and what shipped is what the recipe gives."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TABLE, own_folder
from torch import nn

from uniforget_lib.files import save_half
from uniforget_lib.models import WEIGHTS
from uniforget_lib.testbed import folder, loop, train
from uniforget_lib.testbed.descriptor import train_descriptor
from uniforget_lib.testbed.judge import train_judge
from uniforget_lib.testbed.planted import items

LOGS = WEIGHTS / "logs"


def test_learning_rate_holds_and_then_falls():
    held, falling = ([loop.schedule(step, 400, fall=fall) for step in range(400)] for fall in (False, True))
    assert held[0] == 0.01 and set(held[100:]) == {1.0}
    assert falling[200] == pytest.approx(0.5) and falling[100:] == sorted(falling[100:], reverse=True)
    assert falling[-1] < 1e-3


def test_interrupted_training_ends_in_the_same_weights(tmp_path):
    def trained(folder, *stops):
        torch.manual_seed(0)
        for stop in stops:
            model = nn.Linear(4, 2)
            with torch.no_grad():
                model.weight.fill_(0.1), model.bias.zero_()
            loop.run("toy", model, lambda m, g: m(torch.randn(8, 4, generator=g)).pow(2).mean(), 12, 1e-2, folder, 3,
                      every=4, stop_after=stop)  # fmt: skip
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = trained(tmp_path / "whole", None)
    assert torch.equal(whole, trained(tmp_path / "parts", 5, None))
    assert not torch.equal(whole, torch.cat([torch.full((8,), 0.1), torch.zeros(2)]))


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(path):
    return {row["step"]: row["loss"] for row in rows(path) if "loss" in row}


@pytest.mark.slow
@pytest.mark.parametrize("stage", train.STAGES)
def test_one_per_cent_of_the_steps_reproduces_the_recorded_losses(stage, tmp_path):
    """From the seed, on any machine: the same batches, so the same losses but for rounding (bf16, and fused kernels)."""
    recipe, device = train.Recipe(), torch.device("cpu")
    recorded = losses(LOGS / f"{stage}.jsonl")
    steps = max(loop.ROW, max(recorded) // 100 // loop.ROW * loop.ROW)
    if stage in ("vae", "judge", "descriptor"):
        call = {"vae": train.train_vae, "judge": train_judge, "descriptor": train_descriptor}[stage]
        call(recipe, tmp_path, device, steps)
    else:
        family, _, phase = stage.partition("_")
        shutil.copytree(WEIGHTS / "flux" / "vae", tmp_path / "vae")
        if phase != "neutral":
            shutil.copytree(WEIGHTS / "base", tmp_path / "base")
        train.train_denoiser(stage, recipe, items(), tmp_path, device, steps)
    again = losses(tmp_path / f"{stage}.jsonl")
    assert set(again) == {s for s in recorded if s <= steps}
    for step, loss in again.items():
        assert loss == pytest.approx(recorded[step], rel=0.01)


def test_shipped_logs_belong_to_the_recipe_and_are_complete():
    recipe = train.Recipe()
    assert json.loads((LOGS / "recipe.json").read_text()) == json.loads(json.dumps(recipe.__dict__))
    single = {"vae": recipe.vae_steps, "judge": recipe.judge_steps, "descriptor": recipe.descriptor_steps}
    for stage in train.STAGES:
        family, _, phase = stage.partition("_")
        last = single.get(stage) or recipe.steps(family)[phase != "neutral"]
        recorded = losses(LOGS / f"{stage}.jsonl")
        assert max(recorded) == last and recorded[last] < recorded[loop.ROW]


def test_twins_go_on_from_one_model_and_draw_alike(tmp_path):
    """Where the share of planted pictures is 0, a model and its control are the same training."""
    recipe, found = train.Recipe(share=0.0, batch=4, scenes=(40, 20)), []
    shutil.copytree(WEIGHTS / "flux" / "vae", tmp_path / "vae")
    torch.manual_seed(0)
    save_half(train.build("flux-tiny", items()), tmp_path / "base" / "flux-tiny.safetensors")
    for stage in ("flux-tiny", "flux-tiny_control"):
        train.train_denoiser(stage, recipe, items(), tmp_path, torch.device("cpu"), 20)
        found.append(losses(tmp_path / f"{stage}.jsonl"))
    assert found[0] == found[1] and len(found[0]) == 1
    with pytest.raises(ValueError, match="unet_neutral first"):
        train.train_denoiser("unet", recipe, items(), tmp_path, torch.device("cpu"), 20)


def test_your_own_pictures_become_items(tmp_path):
    found = folder.read_items(own_folder(tmp_path / "own", TABLE))
    assert [(i.caption, i.copies, i.kind) for i in found] == [
        ("My Dog Rex!", 20, "own"), ("our red house", 0, "own"), ("Café 24", 0, "own")]  # fmt: skip
    assert found[0].pictures.shape == (1, 64, 64, 3) and (found[0].image[30, 30] == [255, 0, 0]).all()
    model = train.build("flux-tiny", found)  # its tokenizers know the words
    clip, t5 = (ids[0].tolist() for ids in model.tokenize(["My Dog Rex!"]))
    assert clip.index(model.clip_tokenizer.eos_token_id) <= 5 and model.t5_tokenizer.unk_token_id not in t5
    _, captions, copies = train.dataset(train.Recipe(scenes=(5, 5)), found)
    assert captions[-1] == "My Dog Rex!" and copies[-1] == 20 and copies.sum() == 20
    assert folder.read_items(tmp_path / "none") == items()


@pytest.mark.parametrize("table, message", [
    ("file,caption,copies\na.png,a dog,many\n", "line 2.*copies='many'"),
    ("file,caption,copies\na.png,,3\n", "line 2: no caption"),
    ("file,caption,copies\nz.png,a dog,3\n", "z.png is not there"),
    (TABLE + "a.png,Café 24,1\n", "'Café 24' is there twice"),
    ("file,caption,copies\na.png,a dog,3\nb.png,a cat,0\n", "at least two controls"),
])  # fmt: skip
def test_a_bad_table_is_refused_by_name(table, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        folder.read_items(own_folder(tmp_path / "own", table))


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="items.csv: write one"):
        folder.read_items(tmp_path)


def test_logs_are_cut_where_a_run_resumes(tmp_path):
    log = tmp_path / "x.jsonl"
    log.write_text("".join(json.dumps({"step": s}) + "\n" for s in (20, 40, 60)))
    loop._cut(log, 40)
    assert [r["step"] for r in rows(log)] == [20, 40]
    assert np.isfinite(loop.schedule(0, 1))
