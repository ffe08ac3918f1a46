# %% [markdown]
# # Exercises: detecting memorization
#
# Three exercises to {doc}`the chapter on detectors </notebooks/02_detect>`. Replace each `raise NotImplementedError`, run the cell
# with the test, and open the hint or the solution when you are stuck. Everything runs on a laptop CPU in less than a minute.

# %%
import uniforget_lib as uf

# %%
import numpy as np

bed = uf.Testbed.load("flux")
planted = [item.caption for item in bed.planted(at_least=20, split="development")]
controls = [item.caption for item in bed.controls("calibration")]
neutral = bed.neutral(100, "development")

# %% [markdown]
# ## Exercise 2.1: The area under the curve, by hand
# *Difficulty 1 of 3, about 10 minutes*
#
# The AUROC is the chance that a random memorized prompt gets a higher risk than a random harmless one, where a tie counts
# half. Compute it from that sentence alone: compare every positive with every negative.


# %% tags=["solution"]
def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Share of pairs (positive [n], negative [m]) in which the positive is higher; a tie counts half."""
    ### BEGIN SOLUTION
    difference = positive[:, None] - negative[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
    ### END SOLUTION


# %% tags=["test"]
risk = {"planted": uf.detect.wen(bed.adapter, planted).numpy(), "neutral": uf.detect.wen(bed.adapter, neutral).numpy()}
assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0, "all positives are higher"
assert auroc(np.array([1.0]), np.array([1.0])) == 0.5, "a tie counts half"
assert np.isclose(auroc(*risk.values()), uf.evaluate.auroc(*risk.values())), "must agree with the library"
print("2.1 passed:", round(auroc(*risk.values()), 3))

# %% [markdown] tags=["hint"]
# `positive[:, None] - negative[None, :]` has one entry for each pair. How do you count zeros half?


# %% tags=["mistake"]
def auroc(positive, negative):
    return float((positive[:, None] > negative[None, :]).mean())


# %% [markdown] tags=["answer"]
# The area needs no threshold and no curve: it is a statement about pairs. That is also why it says nothing of the end of
# the scale at which a detector is used.

# %% [markdown] tags=["notes"]
# The mistake forgets ties. With continuous risks nobody notices; with risks that are counts (of tokens, say) it is a large
# error. Full marks for any formula that treats ties; a loop is fine.

# %% [markdown]
# ## Exercise 2.2: A detector that never looks at the model
# *Difficulty 2 of 3, about 15 minutes*
#
# Every detector of the library takes an adapter and prompts and returns a risk per prompt, high for memorized. Write one that
# only counts: planted captions are short, so *fewer tokens* must mean *higher risk*. (`adapter.prompt_lengths(prompts)` counts
# tokens.) Before you run the test: what will its AUROC be against neutral captions, and against controls?


# %% tags=["solution"]
def short(adapter, prompts):
    """Risk, a float tensor [n]: high for prompts with few tokens."""
    ### BEGIN SOLUTION
    return -adapter.prompt_lengths(prompts).float()
    ### END SOLUTION


# %% tags=["test"]
counted = {
    name: short(bed.adapter, p).numpy()
    for name, p in (("planted", planted), ("neutral", neutral), ("control", controls))
}
against = {name: uf.evaluate.auroc(counted["planted"], counted[name]) for name in ("neutral", "control")}
assert short(bed.adapter, ["a cat", "a cat on a blue ground"]).diff() < 0, "few tokens must mean a high risk"
assert against["neutral"] > 0.8, "against neutral captions, counting does well"
assert 0.3 < against["control"] < 0.7, "against controls, which are as short, it is a coin"
print("2.2 passed:", {name: round(float(area), 2) for name, area in against.items()})

# %% [markdown] tags=["hint"]
# A risk is high where memorization is suspected. What do you have to do to a count that is *low* there?


# %% tags=["mistake"]
def short(adapter, prompts):
    return adapter.prompt_lengths(prompts).float()


# %% [markdown] tags=["answer"]
# A detector that knows nothing of the model looks excellent against ordinary captions. Whoever publishes an area must say what
# the negatives were, and show what counting tokens achieves on them.

# %% [markdown] tags=["notes"]
# The mistake has the sign wrong. Ask what the two areas say of a benchmark whose negatives are ordinary captions: that it may
# measure how *odd* a prompt is. Half marks for code without that sentence.

# %% [markdown]
# ## Exercise 2.3: A threshold on one set of prompts, its error on another
# *Difficulty 2 of 3, about 20 minutes*
#
# Choose the lowest threshold that flags at most 1 % of harmless *development* risks (a prompt is flagged if its risk is *at
# least* the threshold; at most, not about). Only risks that occur may be thresholds, and infinity, which flags nothing.


# %% tags=["solution"]
def threshold(harmless: np.ndarray, rate: float = 0.01) -> float:
    """The lowest of the values in ``harmless`` [n], or infinity, that flags at most ``rate`` of them."""
    ### BEGIN SOLUTION
    for value in np.sort(harmless):
        if (harmless >= value).mean() <= rate:
            return float(value)
    return float("inf")
    ### END SOLUTION


# %% tags=["test"]
assert threshold(np.arange(100.0)) == 99.0, "one of a hundred"
assert threshold(np.arange(50.0)) == np.inf, "one of fifty would be 2 %"
assert threshold(np.array([1.0] * 99 + [2.0])) == 2.0
assert threshold(np.arange(100.0), rate=0.1) == 90.0, "another rate"
tied = np.array([1.0] * 98 + [2.0, 2.0])
assert (tied >= threshold(tied)).mean() <= 0.01, "values that are tied are flagged together"
cut = threshold(uf.detect.wen(bed.adapter, neutral + controls).numpy())
fresh = uf.detect.wen(bed.adapter, bed.neutral(100)).numpy()
print(f"2.3 passed: on fresh neutral prompts {(fresh >= cut).mean():.0%} are flagged, not 1 %")

# %% [markdown] tags=["hint"]
# Go through the sorted values from below and take the first that flags few enough. A quantile looks simpler: what does it do
# with two equal values at the top?


# %% tags=["mistake"]
def threshold(harmless, rate=0.01):
    return float(np.quantile(harmless, 1 - rate))


# %% [markdown] tags=["answer"]
# A cut that rests on one or two extreme prompts moves with the next sample. So its error is counted on prompts that did not
# choose it, with an interval.

# %% [markdown] tags=["notes"]
# The mistake is `numpy.quantile`, which interpolates between values and ignores ties. Ask in class: how many harmless prompts
# would one need to *measure* a rate of 1 % to within a factor of two? (About 400 for an interval of .3 to 2.5 %.)
