"""Detector, locators and statistics: golden numbers, resuming, and the errors that a user meets."""

import errno
import json
import math

import numpy as np
import pytest
import torch
from conftest import TINY

from uniforget_lib import Report, UniForget, detect, evaluate, load, locate, profile, provenance, viz
from uniforget_lib.evaluate import Estimate
from uniforget_lib.files import check_sums, save_tensors, write_sums

PROMPTS = ["a cat on a blue ground", "a rocket left of a house on a pink ground", "a star on a white ground", ""]
QUICK = UniForget(beta=0.1, steps=2, mask_steps=6, batch=2)


def test_wen_is_the_mean_velocity_gap(tiny):
    got = detect.wen(tiny, PROMPTS, steps=1, sampling_steps=4, seeds=(0, 1))
    x = [tiny.noise(4, s) for s in (0, 1)]
    cond, empty, sigma = tiny.encode(PROMPTS), tiny.empty(4), tiny.sigmas(4)[0]
    with torch.no_grad():
        gaps = [tiny.predict(z, sigma, cond) - tiny.predict(z, sigma, empty) for z in x]
    want = sum(g.flatten(1).norm(dim=1) / math.sqrt(g[0].numel()) for g in gaps) / 2
    assert torch.allclose(got, want, atol=1e-6)
    assert (got[3] < 1e-5) == (tiny.family != "sdxl") and (got[:3] > 1e-5).all()  # SDXL: away from zeros
    assert torch.allclose(detect.wen(tiny, PROMPTS, steps=1, sampling_steps=4, seeds=(0, 1), batch=3), got, atol=1e-6)


def test_wen_refuses_bad_input(tiny):
    with pytest.raises(ValueError, match="prompts is empty"):
        detect.wen(tiny, [])
    with pytest.raises(TypeError, match="list of strings"):
        detect.wen(tiny, "a cat")
    with pytest.raises(ValueError, match="steps=9"):
        detect.wen(tiny, PROMPTS, steps=9, sampling_steps=8)


def test_magnitude_removes_the_smallest_column(tiny):
    site = tiny.sites(["ffn"])[0]
    with torch.no_grad():
        tiny.denoiser.get_submodule(site.readers[0].linear).weight[:, 7] = 0
    assert int(locate.magnitude(tiny).values[site.name].argmax()) == 7


def test_load_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="no-such-model"):
        load("no-such-model")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(ValueError, match="KandinskyPipeline has no adapter"):
        load(tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="cuda:3"):
            load("testbed", device="cuda:3")


def test_sums_are_checked(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"1")
    write_sums(tmp_path)
    check_sums(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"2")
    with pytest.raises(ValueError, match="a.bin"):
        check_sums(tmp_path)


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.zeros(2)})
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="t.safetensors.*free some space"):
        save_tensors(path, {"a": torch.ones(2)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_threshold_keeps_the_false_positive_rate():
    control = np.random.default_rng(0).uniform(0.1, 0.5, 400)
    limit = evaluate.threshold(control, 0.01)
    assert (control <= limit).sum() == 4
    assert evaluate.threshold(np.full(200, 0.3)) < 0.3
    with pytest.raises(ValueError, match="at least 100"):
        evaluate.threshold(control[:50])


def test_bootstrap_covers_and_respects_prompts():
    e = evaluate.bootstrap(np.array([0.0, 1.0] * 50))
    assert e.mean == 0.5 and 0.38 < e.low < 0.43 and 0.57 < e.high < 0.62  # normal approximation: .5 +- .098
    for crossed in (False, True):
        wide = evaluate.bootstrap(np.repeat([[0.0], [1.0]], 100, axis=1), crossed=crossed)  # two rows that disagree
        assert (wide.high - wide.low > 0.9) == crossed  # common to all prompts, they are two observations
    every = evaluate.bootstrap(np.ones((4, 16)))
    assert every.mean == every.high == 1 and every.low == pytest.approx(0.794, abs=1e-3)  # Clopper-Pearson, 16 of 16
    assert evaluate.bootstrap(np.zeros(16)).high == pytest.approx(0.206, abs=1e-3)
    assert evaluate.bootstrap(np.zeros(16), share=False) == Estimate(0, 0, 0)  # a change, say: no rate
    repeated = evaluate.bootstrap(np.tile([0.0, 1.0] * 50, (8, 1)))
    assert repeated.high - repeated.low > 0.9 * (e.high - e.low)  # eight equal seeds add no information
    assert evaluate.auroc([2, 3], [1, 2]) == 0.875
    rng = np.random.default_rng(0)
    e = evaluate.bootstrap_auroc(rng.normal(1, 1, 200), rng.normal(0, 1, 200))
    assert e.low < 0.760 < e.high and e.high - e.low < 0.12  # Phi(1 / sqrt 2)
    assert evaluate.bootstrap_auroc(np.arange(10, 26), np.arange(8)).low == pytest.approx(0.631, abs=1e-3)


def test_bootstrap_ratio_golden():
    rng = np.random.default_rng(0)
    over, under = 2 + 0.2 * rng.standard_normal(400), 1 + 0.1 * rng.standard_normal((3, 400))
    e = evaluate.bootstrap_ratio(over, under)
    assert e.mean == pytest.approx(over.mean() / under.mean()) and e.low < 2 < e.high
    assert 0.015 < e.high - e.low < 0.07  # relative errors of the means: .1 / 20 and less than .1 / 20
    with pytest.raises(ValueError, match="no values"):
        evaluate.bootstrap_ratio(over, [])


def test_pooled_outcomes_count_masks_not_rows():
    def outcome(seeds, value):
        rows = {name: np.full((seeds, 3), value, dtype=float) for name in evaluate.study.MEASURES}
        return evaluate.Outcome(**rows, planted_images=torch.zeros(1), neutral_images=torch.zeros(1))

    pooled = evaluate.pool([outcome(2, 0.0), outcome(1, 1.0)])
    assert pooled.copied.shape == (2, 3) and pooled.row()["copied"].mean == pytest.approx(0.5)


def test_copying_and_quality_golden():
    a, b = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.2)
    checker = (torch.arange(8)[:, None] + torch.arange(8)[None]).remainder(2).float().expand(1, 3, 8, 8)
    assert evaluate.detail(checker)[0] == pytest.approx(16.0)
    assert evaluate.detail(b)[0] == pytest.approx(0.0)
    target = torch.full((1, 3, 8, 8), 0.8)  # a dark square of a quarter of the area on a light ground
    target[..., :4, :4] = 0.3
    empty, half = torch.full_like(target, 0.8), target.clone()
    half[..., :4, :4] = 0.55
    assert evaluate.distance(target, target)[0] == 0
    assert evaluate.distance(empty, target)[0] == pytest.approx(1)
    assert evaluate.distance(half, target)[0] == pytest.approx(0.5)
    assert evaluate.distance(1 - target, target)[0] > 1
    with pytest.raises(ValueError, match="shape"):
        evaluate.distance(a, b[..., :4])


def test_report_round_trip(tmp_path):
    report = Report(provenance(seed=3, device="cpu"))
    report.add(model="unpruned", copied=Estimate(0.5, 0.4, 0.6))
    again = Report.from_json(report.to_json(tmp_path / "r.json"))
    assert again == report and "0.50 [0.40, 0.60]" in again.to_frame().to_string()
    assert {"seed", "device", "library", "versions"} <= report.meta.keys()
    assert list(report.compare(again, on="model")["copied (other)"]) == ["0.50 [0.40, 0.60]"]
    report.add(model="unpruned", copied=0.1)
    with pytest.raises(ValueError, match="several rows"):
        report.compare(again, on="model")
    with pytest.raises(ValueError, match="no such column"):
        report.compare(again, on=["model", "level"])


def test_profile(monkeypatch):
    monkeypatch.setenv("UNIFORGET_PROFILE", "cpu")
    assert profile("full").name == "cpu"
    monkeypatch.setenv("UNIFORGET_PROFILE", "huge")
    with pytest.raises(ValueError, match="huge"):
        profile()


def test_threshold_figure_counts_what_it_flags():
    groups = {"planted": np.array([1.0, 2.0, 3.0, 4.0]), "neutral": np.array([0.0, 1.0])}
    fig = viz.threshold(groups, "risk", steps=5)
    table = {
        step["label"]: step["args"][0]["cells.values"][0] for step in fig.to_dict()["layout"]["sliders"][0]["steps"]
    }
    assert table["2"] == [["planted", "neutral"], ["3 of 4", "0 of 2"], ["0.75", "0.00"]]
    assert table["0"][1] == ["4 of 4", "2 of 2"] and table["4"][2] == ["0.25", "0.00"]


def test_overlay_is_red_where_the_map_is_high():
    maps = torch.zeros(1, 2, 2)
    maps[0, 0, 1] = 5.0
    veiled = viz.overlay(torch.full((1, 3, 8, 8), 0.5), maps)
    assert veiled.shape == (1, 3, 8, 8) and (veiled[0, 0, :4, 4:] - veiled[0, 1, :4, 4:] > 0.4).all()
    assert torch.allclose(veiled[0, :, 4:], torch.full((3, 4, 8), 0.7))


def test_a_map_keeps_clusters_apart_and_is_found_again():
    torch.manual_seed(0)
    a, b = torch.randn(40, 6), torch.randn(40, 6) + 12
    flat = viz.umap(torch.cat([a, b]), neighbours=8)
    near = torch.cdist(flat, flat).fill_diagonal_(torch.inf).argmin(1)
    assert ((near >= 40) == (torch.arange(80) >= 40)).all()
    assert torch.equal(flat, viz.umap(torch.cat([a, b]), neighbours=8))
    fig = viz.scatter({"planted, before": flat[:40], "planted, after": flat[40:]}, "A map")
    assert [len(trace.x) for trace in fig.data] == [40, 40] and fig.data[0].marker.symbol != fig.data[1].marker.symbol
    with pytest.raises(ValueError, match="neighbours=40"):
        viz.umap(a, neighbours=40)


def test_mmd_by_hand_and_by_chance():
    a, b = np.array([[0.0], [0.0]]), np.array([[1.0], [1.0]])  # distances 0, 0, and four times 1: the median is 1
    found = evaluate.mmd(a, b, permutations=500)
    assert found.distance == pytest.approx(1 + 1 - 2 * math.exp(-1))
    assert 0.2 < found.p < 0.5  # 2 of the 6 labellings are as far apart
    rng = np.random.default_rng(0)
    same, other = rng.normal(size=(2, 40, 3))
    assert evaluate.mmd(same, other, permutations=200).p > 0.05
    assert evaluate.mmd(same, other + 1, permutations=200).p == pytest.approx(1 / 201)
    ps = [evaluate.mmd(*rng.normal(size=(2, 12, 2)), permutations=99, seed=k).p for k in range(60)]
    assert 0.3 < np.mean(ps) < 0.7 and np.mean(np.array(ps) <= 0.1) < 0.25  # even, when there is nothing to find
    prompts = 10 * rng.normal(size=(40, 3))  # pairs that share a prompt: what they share is no difference
    one, two = prompts + rng.normal(size=(2, 40, 3))
    assert 0.05 < evaluate.mmd(one, two, paired=True, permutations=200).p < 0.95
    assert abs(evaluate.mmd(one, two, paired=True).distance) < 0.01 and evaluate.mmd(one, two).p > 0.95
    assert evaluate.mmd(one, two + 3, paired=True, permutations=200).p < 0.01
    ps = [evaluate.mmd(*(x + rng.normal(size=(2, 12, 2))), paired=True, permutations=99, seed=k).p
          for k, x in enumerate(5 * rng.normal(size=(60, 12, 2)))]  # fmt: skip
    assert 0.3 < np.mean(ps) < 0.7 and np.mean(np.array(ps) <= 0.1) < 0.25
    with pytest.raises(ValueError, match="paired"):
        evaluate.mmd(one, two[1:], paired=True)
    for bad in ((a, b[:1]), (a, b.ravel()), (a, np.ones((2, 2)))):
        with pytest.raises(ValueError, match="a .* b "):
            evaluate.mmd(*bad)


def test_gpu_check_says_when_there_is_no_gpu(capsys, monkeypatch):
    from uniforget_lib import gpu_check

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 77
    assert "no CUDA device" in capsys.readouterr().out


def test_gpu_checks_hold_between_a_model_and_itself(flux, monkeypatch):
    """The checks themselves, with the CPU in the place of the card."""
    from uniforget_lib import gpu_check

    for check in (gpu_check.same_latents, gpu_check.same_risks, gpu_check.same_mask, gpu_check.shrunk):
        value, most = check(flux, flux)
        assert value <= most
    other = TINY["flux"](seed=1)
    assert gpu_check.same_latents(flux, other)[0] > 0.1 and gpu_check.same_mask(flux, other)[0] > 0.01
    testbed = load("testbed")
    for check, least in ((gpu_check.offloaded, 0), (gpu_check.stored_in_8_bits, 0.001)):  # 8 bits are not 32
        value, most = check(testbed, testbed)
        assert least <= value <= most


def test_the_benchmark_s_rows_join_the_report_of_a_card():
    from uniforget_lib import gpu_check

    report = Report(provenance(seed=0, device="cpu"))
    assert gpu_check.benchmark(report, "--rows", "row_7", "row_9") == 0
    assert [(r["check"], r["passed"]) for r in report.rows] == [("row_7", True), ("row_9", True)]
    assert 0 < report.rows[0]["value"] < report.rows[0]["at_most"] == 1e-5 and report.rows[1]["value"] == 21
    assert gpu_check.benchmark(report, "--rows", "no_such_row") == 1


@pytest.mark.parametrize("share", [0.25, 0.7, 1.0])
def test_softened_pictures_have_lost_just_that_much(share):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    soft = evaluate.soften(images, share)
    assert evaluate.detail(soft).mean() == pytest.approx(share * evaluate.detail(images).mean(), rel=0.02)
    assert soft.mean() == pytest.approx(float(images.mean()), abs=0.01)
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert torch.allclose(evaluate.soften(flat, 0.5), flat, atol=1e-5)
    with pytest.raises(ValueError, match="share=0"):
        evaluate.soften(images, 0)
