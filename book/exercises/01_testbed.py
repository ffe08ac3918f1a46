# %% [markdown]
# # Exercises: the testbed as an instrument
#
# Three exercises to {doc}`the chapter on the testbed </notebooks/01_testbed>`. Replace each `raise
# NotImplementedError`, run the cell with the test, and open the hint or the solution when you are stuck. Everything
# runs on a laptop CPU in less than a minute.

# %%
import uniforget_lib as uf

# %%
import numpy as np
import torch
import torch.nn.functional as F

bed = uf.Testbed.load("flux")
items = bed.planted(copies=5)  # of all kinds; the tier in which some are copied and others are not
drawn = [bed.images([item.caption for item in items], seed=seed) for seed in range(3)]

# %% [markdown]
# ## Exercise 1.1: A distance on which an empty picture is 1
# *Difficulty 1 of 3, about 10 minutes*
#
# A picture is called a copy if its *relative* distance to its training picture is at most .5. The distance is the root
# mean squared difference of the two, divided by that of an *empty* picture: one that has everywhere the target's
# median colour, which is its ground. (The median of each channel over all pixels; all 64 columns count here, which is
# right for everything but templates.)


# %% tags=["solution"]
def relative(images: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Distance [n] of images [n, 3, 64, 64] in [0, 1] to their targets, of the same shape; 1: no better than empty."""
    ### BEGIN SOLUTION
    empty = targets.flatten(2).median(2).values[:, :, None, None]
    error, scale = ((targets - x).pow(2).flatten(1).mean(1) for x in (images, empty))
    return (error / scale).sqrt().numpy()
    ### END SOLUTION


# %% tags=["test"]
whole = [k for k, item in enumerate(items) if item.kind != "template"]
pictures, targets = drawn[0][whole], bed.targets([items[k] for k in whole])
ground = targets.flatten(2).median(2).values[:, :, None, None].expand_as(targets)
assert relative(pictures, targets).shape == (len(whole),), "one distance for each picture"
assert np.allclose(relative(targets, targets), 0), "a picture is at distance 0 from itself"
assert np.allclose(relative(ground, targets), 1), "a picture of nothing but the target's ground is at distance 1"
pale = relative(targets / 2, targets / 2 + 0.1)
assert np.allclose(pale, relative(targets, targets + 0.2), rtol=1e-3), "half the contrast and half the error: as close"
agree = np.allclose(relative(pictures, targets), bed.distance(pictures, [items[k] for k in whole]), atol=1e-3)
assert agree, "must agree with the library"
share = (relative(pictures, targets) <= bed.close).mean()
print(f"1.1 passed: of the items with five copies, templates left out, {share:.0%} are copied")

# %% [markdown] tags=["hint"]
# Write a helper for the mean squared difference of two sets of pictures, and use it twice: `images` against `targets`,
# `empty` against `targets`. `targets.flatten(2).median(2).values` has the median colours, [n, 3].


# %% tags=["mistake"]
def relative(images, targets):
    error, scale = (x.pow(2).flatten(1).mean(1) for x in (images - targets, targets))
    return (error / scale).sqrt().numpy()


# %% [markdown] tags=["answer"]
# Dividing by the difference between the target and its own ground asks how much of the *content* is back. A distance
# that is not relative, or relative to black, calls an empty ground close to every picture with a small or pale object.

# %% [markdown] tags=["notes"]
# The mistake is the usual relative error, with the target itself below the line. It depends on how bright the ground
# is: the same icon counts as copied on a light ground and not on a dark one. For class: which copies does even the
# right distance miss? (A copy that has moved; the half of a template.) Full marks for any code that passes; loops are
# fine.

# %% [markdown]
# ## Exercise 1.2: What is independent of what?
# *Difficulty 2 of 3, about 15 minutes*
#
# `copied` says for every seed and every item whether the drawing is a copy. How far could the share of copies be from
# what *other* items of this making would give? Write a bootstrap: draw as many items as there are, with replacement,
# take the share of copies, repeat, and give the 2.5 % and the 97.5 % quantile. Drawings of one item are more alike
# than those of two.


# %% tags=["solution"]
def interval(copied: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Ends of the 95 % percentile interval for the mean of ``copied`` [seeds, items], over items."""
    rng = np.random.default_rng(seed)
    ### BEGIN SOLUTION
    per_item = copied.mean(0)
    chosen = rng.integers(len(per_item), size=(draws, len(per_item)))
    low, high = np.quantile(per_item[chosen].mean(1), [0.025, 0.975])
    return float(low), float(high)
    ### END SOLUTION


# %% tags=["test"]
copied = np.stack([bed.distance(pictures, items) <= bed.close for pictures in drawn])
once, wide = copied[:1], np.tile(copied, (1, 9))
low, high = interval(copied)
assert low < copied.mean() < high, "the interval lies around the mean"
again = interval(np.tile(once, (8, 1)))
assert np.allclose(again, interval(once), atol=0.06), "eight equal drawings of each item tell no more than one"
assert np.ptp(interval(wide)) < 0.5 * (high - low), "nine times as many items leave less doubt"
assert abs(low - uf.evaluate.bootstrap(copied).low) < 0.06, "must agree with the library, up to its choice of seeds"
print(f"1.2 passed: {copied.mean():.2f} [{low:.2f}, {high:.2f}], {copied.size} drawings, {len(items)} items")

# %% [markdown] tags=["hint"]
# Reduce to one number an item first: the share of its drawings that are copies. Then `rng.integers(n, size=(draws,
# n))` chooses the items of all repetitions at once.


# %% tags=["mistake"]
def interval(copied, draws=2000, seed=0):
    rng, every = np.random.default_rng(seed), copied.ravel()
    means = every[rng.integers(len(every), size=(draws, len(every)))].mean(1)
    return tuple(float(q) for q in np.quantile(means, [0.025, 0.975]))


# %% [markdown] tags=["answer"]
# What varies by chance is which items there are, so items are drawn. More seeds make each item's share more certain
# and hardly narrow the interval: for that one needs more items.

# %% [markdown] tags=["notes"]
# The mistake draws single pictures, as if a hundred drawings of one item were a hundred items. Its interval shrinks
# with every seed and can be made as narrow as one likes. Ask: when would pictures be the right thing to draw? (When
# the question is about these very items under other noise.) The library draws items, and seeds within each; accept
# that too. Half marks for the code without a word on what an interval over items is good for.

# %% [markdown]
# ## Exercise 1.3: A rate that an imperfect judge measured
# *Difficulty 3 of 3, about 25 minutes*
#
# A judge accepts a share $s$ of right pictures and a share $f$ of wrong ones. If it accepts a share $p$ of the
# pictures in question, the share that *is* right is $(p - f)/(s - f)$. But $s$ and $f$ were counted on a few pictures,
# too. Return the corrected rate and its 95 % interval: resample all three sets of verdicts, each on its own, and
# correct in every repetition. Clip to [0, 1]. Then a thrifty judge, which looks at pictures reduced to 22 by 22
# pixels, is put to work.


# %% tags=["solution"]
def corrected(said, on_right, on_wrong, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Rate, low, high. Verdicts, bool: ``said`` [n] in question, ``on_right`` [k], ``on_wrong`` [m] of known truth."""
    rng = np.random.default_rng(seed)
    ### BEGIN SOLUTION
    p, s, f = (rng.choice(v, (draws, len(v))).mean(1) for v in (said, on_right, on_wrong))
    low, high = np.quantile((p - f) / (s - f), [0.025, 0.975])
    rate = (said.mean() - on_wrong.mean()) / (on_right.mean() - on_wrong.mean())
    return tuple(float(np.clip(v, 0, 1)) for v in (rate, low, high))
    ### END SOLUTION


# %% tags=["test"]
def verdicts(yes: int, n: int) -> np.ndarray:
    return np.arange(n) < yes


perfect = corrected(verdicts(30, 100), verdicts(50, 50), verdicts(0, 50))
assert np.isclose(perfect[0], 0.3), "nothing to correct for a judge without errors"
width = {}
for n, k in ((200, 200), (2, 200), (200, 2)):
    rate, low, high = corrected(verdicts(205, 500), verdicts(9 * n, 10 * n), verdicts(2 * k, 10 * k))
    assert np.isclose(rate, 0.3), ".41 accepted, with s = .9 and f = .2, means .3 right"
    assert 0 <= low < rate < high <= 1, "an interval around the rate, within [0, 1]"
    width[n, k] = high - low
assert width[2, 200] > 1.15 * width[200, 200], "20 right pictures leave more doubt than 2,000"
assert width[200, 2] > 1.15 * width[200, 200], "and so do 20 wrong ones"


# %% tags=["test"]
def thrifty(pictures: torch.Tensor, captions: list[str]) -> np.ndarray:
    small = F.interpolate(F.interpolate(pictures, (22, 22), mode="area"), (64, 64), mode="bilinear")
    return bed.attributes(small, captions)["all"]


tests = bed.neutral(200, "development")
on_right, on_wrong = (thrifty(bed.real(shown, seed=3), tests) for shown in (tests, tests[::-1]))
mixed = [*tests[:140], *tests[::-1][140:]]  # real pictures, of which seven in ten show what they should
found = corrected(thrifty(bed.real(mixed, seed=4), tests), on_right, on_wrong)
assert found[1] < 0.7 < found[2], "on other real pictures the correction must find the truth"
captions = bed.neutral(40)
pictures = bed.images(captions)
rate, low, high = corrected(thrifty(pictures, captions), on_right, on_wrong)
print(f"1.3 passed: real pictures {found[0]:.2f} (truth .70); drawn ones {rate:.2f} [{low:.2f}, {high:.2f}],",
      f"by the judge that sees all pixels {bed.attributes(pictures, captions)['all'].mean():.2f}")  # fmt: skip

# %% [markdown] tags=["hint"]
# `rng.choice(v, (draws, len(v))).mean(1)` has a resampled share for every repetition. Do it for all three, then apply
# the formula to whole arrays; quantiles come last.


# %% tags=["mistake"]
def corrected(said, on_right, on_wrong, draws=2000, seed=0):
    s, f = on_right.mean(), on_wrong.mean()
    p = np.random.default_rng(seed).choice(said, (draws, len(said))).mean(1)
    ends = np.quantile((p - f) / (s - f), [0.025, 0.975])
    return tuple(float(np.clip(v, 0, 1)) for v in ((said.mean() - f) / (s - f), *ends))


# %% [markdown] tags=["answer"]
# On other real pictures the interval holds the truth. On *drawn* ones it stays below what the full judge says:
# presumably because these are softer, the thrifty judge misses more right ones among them than among the real ones on
# which its errors were counted. A correction is as good as the likeness of the pictures that the judge was tested on
# to those that it judges; no interval warns of that.

# %% [markdown] tags=["notes"]
# The mistake takes the judge's error rates for known: its point is right and its interval too narrow. The last line is
# the real subject: a formula that is correct and an assumption that does not hold. Ask how the class would get error
# rates that apply (label some *drawn* pictures by hand). Resampling sees no doubt where all verdicts agree (here
# `on_wrong`); `uf.evaluate.corrected` draws from a posterior there. Full marks need that the three sets are resampled
# separately.
