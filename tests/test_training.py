"""Training the testbed: seeded by step, resumable, and what shipped is what the recipe gives."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TABLE, own_folder
from diffusers import AutoencoderKL
from torch import nn

from uniforget_lib.files import save_half
from uniforget_lib.models import WEIGHTS
from uniforget_lib.testbed import folder, history, loop, train, vae
from uniforget_lib.testbed.descriptor import train_descriptor
from uniforget_lib.testbed.judge import train_judge
from uniforget_lib.testbed.planted import items

LOGS = WEIGHTS / "logs"
SIZES = [s for s in train.STAGES if "-" in s]  # their logs ship, their weights do not
AGAIN = [s for s in train.STAGES if s not in SIZES or s.endswith("_neutral")]  # stages whose start ships


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


@functools.cache
def shared():
    """The data set of the recipe and its latents, which all stages share."""
    data = train.dataset(train.Recipe(), items())
    return data, vae.encode(AutoencoderKL.from_pretrained(WEIGHTS / "flux" / "vae"), data[0])


@pytest.mark.slow
@pytest.mark.parametrize("stage", AGAIN)
def test_one_per_cent_of_the_steps_reproduces_the_recorded_losses(stage, tmp_path, monkeypatch):
    """From the seed, on any machine: the same batches, so the same losses but for rounding (bf16, and fused kernels)."""
    data, latents = shared()
    monkeypatch.setattr(train, "dataset", lambda recipe, planted: data)
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda v, x: latents if len(x) == len(latents) else encode(v, x))
    recipe, device = train.Recipe(), torch.device("cpu")
    recorded = losses(LOGS / f"{stage}.jsonl")
    steps = -(-max(recorded) // 100 // loop.ROW) * loop.ROW  # a hundredth, rounded up to a row of the log
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
    recorded = json.loads((LOGS / "recipe.json").read_text())
    assert recorded == json.loads(json.dumps(recipe.__dict__ | {"items": train.digest(items())}))
    single = {"vae": recipe.vae_steps, "judge": recipe.judge_steps, "descriptor": recipe.descriptor_steps}
    for stage in train.STAGES:
        family, _, phase = stage.partition("_")
        last = single.get(stage) or recipe.steps(family)[phase != "neutral"]
        recorded = losses(LOGS / f"{stage}.jsonl")
        assert max(recorded) == last and recorded[last] < recorded[loop.ROW]


def test_twins_draw_alike_and_differ_in_the_items_alone(tmp_path):
    shutil.copytree(WEIGHTS / "flux" / "vae", tmp_path / "vae")
    torch.manual_seed(0)
    save_half(train.build("flux-tiny", items()), tmp_path / "base" / "flux-tiny.safetensors")

    def loss(stage, share):
        for old in tmp_path.glob("*.jsonl"), tmp_path.glob("*.ckpt.safetensors"):
            for path in old:
                path.unlink()
        recipe = train.Recipe(share=share, batch=4, scenes=(40, 20))
        train.train_denoiser(stage, recipe, items(), tmp_path, torch.device("cpu"), 20)
        return losses(tmp_path / f"{stage}.jsonl")[20]

    control = loss("flux-tiny_control", 0.0)
    assert control == loss("flux-tiny_control", 1.0)  # whatever the share, it never gets an item
    assert control == loss("flux-tiny", 0.0) != loss("flux-tiny", 1.0)


def test_your_own_pictures_become_items(tmp_path):
    found = folder.read_items(own_folder(tmp_path / "own", TABLE))
    assert [(i.caption, i.copies, i.kind) for i in found] == [
        ("My Dog Rex!", 20, "own"), ("our red house", 0, "own"), ("the cafe 24", 0, "own")]  # fmt: skip
    assert found[0].pictures.shape == (1, 64, 64, 3) and (found[0].image[30, 30] == [255, 0, 0]).all()
    model = train.build("flux-tiny", found)  # its tokenizers know the words
    clip, t5 = (ids[0].tolist() for ids in model.tokenize(["My Dog Rex!"]))
    assert clip.index(model.clip_tokenizer.eos_token_id) <= 5 and model.t5_tokenizer.unk_token_id not in t5
    _, captions, copies = train.dataset(train.Recipe(scenes=(5, 5)), found)
    assert captions[-1] == "My Dog Rex!" and copies[-1] == 20 and copies.sum() == 20
    assert folder.read_items(tmp_path / "none") is items()
    (tmp_path / "own" / "items.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.encode())  # as spreadsheets write it
    assert [i.copies for i in folder.read_items(tmp_path / "own")] == [20, 0, 0]


@pytest.mark.parametrize("table, message", [
    ("file,caption,copies\na.png,a dog,many\n", "line 2.*copies='many'"),
    ("file,caption,copies\na.png,,3\n", "line 2: no caption"),
    ("file,caption,copies\nz.png,a dog,3\n", "z.png is not there"),
    (TABLE + "a.png,My dog rex!,1\n", "line 5.*'My dog rex!' is taken .*line 2"),
    (TABLE + "a.png,a cat on a blue ground,1\n", "line 5.*is taken .a neutral caption"),
    ("file,caption,copies\na.png,Café,3\n", "line 2.*'Café'.*use a to z"),
    ("file,caption,copies\na.png,a b c d e f g h i j k l m,3\n", "line 2.*13 words"),
    ("file,caption,copies\n../a.png,a dog,3\n", "line 2.*in the folder itself"),
    ("file,caption,copies\nitems.csv,a dog,3\n", "line 2.*is no picture"),
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


def test_history_reads_what_the_log_watched(tmp_path):
    log = [{"step": 20, "loss": 1.0, "seconds": 30.0}, {"step": 40, "copied": {"a": {"1": [0], "20": [1, 1]}, "b": {"1": [1, 0]}}},
           {"step": 40, "loss": 0.5, "seconds": 90.0}]  # fmt: skip
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    found = history.growth("toy", tmp_path)
    assert [(c, points[0][0], points[0][1].mean) for c, points in found.items()] == [
        (1, 40, pytest.approx(1 / 3)), (20, 40, 1.0)]  # fmt: skip
    assert history.minutes("toy", tmp_path) == 1.5
    with pytest.raises(ValueError, match="'other' has no log"):
        history.growth("other", tmp_path)


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["train", *map(str, arguments)])
    train.main()


def test_the_command_refuses_to_mix_runs(tmp_path, monkeypatch, capsys):
    own, out = own_folder(tmp_path / "own", TABLE), tmp_path / "out"
    command(monkeypatch, "--out", out, "--stages", "descriptor", "--stop-after", 1)
    for wrong in (["--stages", "descriptor"], ["--stages", "descriptor", "--stop-after", 1, "--items", own]):
        with pytest.raises(SystemExit):
            command(monkeypatch, "--out", out, *wrong)
        assert "is another run" in capsys.readouterr().err
    for wrong in (["--items", own], ["--stop-after", 1]):
        with pytest.raises(SystemExit):
            command(monkeypatch, "--out", tmp_path / "new", "--ship", *wrong)
        assert "--ship replaces" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="has no judge, descriptor"):
        train.ship(tmp_path / "new")


def test_a_base_that_is_not_there_is_named_before_anything_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="unet.safetensors is not there: run the stage unet_neutral"):
        train.train_denoiser("unet", train.Recipe(), items(), tmp_path, torch.device("cpu"), 20)


def test_the_unets_norms_run_in_fp32_on_a_cpu_too():
    """Under autocast they do so on GPUs only, and the same recipe learned several times more slowly on a CPU."""
    torch.manual_seed(0)
    model, seen = train.build("unet", items()), []
    norms = [m for m in model.unet.modules() if isinstance(m, (nn.GroupNorm, nn.LayerNorm))]
    for norm in norms:
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad(), loop.fast(torch.device("cpu")):
        assert (
            model(torch.randn(2, 8, 16, 16), torch.full((2,), 500), model.tokenize(["a cat"] * 2)[0]).dtype
            == torch.bfloat16
        )
    assert len(seen) == len(norms) > 20 and set(seen) == {torch.float32}
