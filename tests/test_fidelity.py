"""Distances of distributions: against their closed forms."""

import numpy as np
import pytest
import torch

from uniforget_lib import evaluate


def sample(n, d=6, shift=0.0, scale=1.0, seed=0):
    return shift + scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_frechet_is_that_of_two_gaussians():
    a, b = sample(4000), sample(4000, shift=2.0, scale=3.0, seed=1)
    exact = 6 * 2.0**2 + 6 * (3.0 - 1.0) ** 2  # |difference of means|^2 + sum of (sigma - sigma')^2
    assert evaluate.frechet(b, a) == pytest.approx(exact, rel=0.05)
    assert evaluate.frechet(a, a) == pytest.approx(0, abs=1e-3)
    assert evaluate.frechet(b, a) == pytest.approx(evaluate.frechet(a, b), rel=1e-3)


def test_kernel_distance_is_zero_for_one_distribution_and_grows_with_the_shift():
    a = sample(200)
    same, near, far = (evaluate.kernel(sample(200, shift=s, seed=1), a) for s in (0.0, 0.5, 2.0))
    assert abs(same) < 0.1 < near < far
    state = torch.get_rng_state()
    assert evaluate.kernel(a, sample(200, seed=2)) == evaluate.kernel(a, sample(200, seed=2))
    assert torch.equal(state, torch.get_rng_state())


def test_precision_and_recall_tell_missing_modes_from_bad_pictures():
    real = torch.cat([sample(60), sample(60, shift=40.0, seed=1)])
    half = sample(60, seed=2)  # one mode only
    assert evaluate.precision(half, real) > 0.8 and evaluate.recall(half, real) < 0.6
    bad = torch.cat([real, sample(120, shift=-40.0, seed=3)])
    assert evaluate.precision(bad, real) == pytest.approx(0.5) and evaluate.recall(bad, real) == 1


def test_diversity_is_the_mean_distance_of_drawings():
    x = torch.zeros(2, 3, 4)
    x[1, 0, 0], x[1, 1, 0] = 3.0, 1.0
    assert evaluate.diversity(x).tolist() == [3.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="two seeds"):
        evaluate.diversity(x[:1])


def test_interval_holds_the_value_and_narrows_with_the_sample():
    wide, narrow = (
        evaluate.with_interval(evaluate.frechet, sample(n, shift=1.0, seed=1), sample(n)) for n in (60, 600)
    )
    assert wide.low < wide.mean < wide.high and narrow.low < 6 < narrow.high
    assert narrow.high - narrow.low < wide.high - wide.low


@pytest.mark.parametrize("measure", [evaluate.frechet, evaluate.kernel, evaluate.precision])
def test_features_of_another_shape_are_refused(measure):
    with pytest.raises(ValueError, match="needs"):
        measure(sample(20, 6), sample(20, 5))
    with pytest.raises(ValueError, match="too few"):
        measure(sample(1), sample(1))


def test_a_rate_is_corrected_for_the_errors_of_its_judge():
    rng = np.random.default_rng(0)
    truth = rng.random(20000) < 0.3
    said = np.where(truth, rng.random(20000) < 0.9, rng.random(20000) < 0.2)
    yes, no = rng.random(4000) < 0.9, rng.random(4000) < 0.2
    found = evaluate.corrected(said, yes, no)
    assert said.mean() > 0.38 and found.mean == pytest.approx(0.3, abs=0.03) and found.low < 0.3 < found.high
    few = evaluate.corrected(said, yes[:40], no[:40])
    assert few.high - few.low > 2 * (found.high - found.low)  # an uncertain judge, an uncertain rate
    certain = evaluate.corrected(np.ones(40, bool), np.ones(40, bool), np.zeros(40, bool))
    assert certain.mean == 1 and certain.low < 0.98  # forty right answers are no proof of a perfect judge
    with pytest.raises(ValueError, match="measures nothing"):
        evaluate.corrected(said, no, yes)
