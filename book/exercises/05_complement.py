# %% [markdown]
# # Exercises: complementing unlearning
#
# Three exercises to {doc}`the chapter on unlearning beside pruning </notebooks/05_complement>`. Replace each `raise
# NotImplementedError`, run the cell with the test, and open the hint or the solution when you are stuck. Everything
# runs on a laptop CPU in less than a minute.

# %%
import uniforget_lib as uf

# %%
from functools import partial

import numpy as np
import torch

from uniforget_lib.experiments import Lab, unlearning

lab = Lab.load("flux")
adapter = lab.bed.adapter
told = unlearning.told(lab)  # what methods are told: forget the house, draw a tree instead
houses, others = unlearning.named(lab)  # held-out captions that name a house, and others

# %% [markdown]
# ## Exercise 5.1: The opposite of a prompt
# *Difficulty 1 of 3, about 10 minutes*
#
# A prompt adds something to the prediction: `given - empty`, what is predicted with it less what is predicted without.
# Guidance of scale g predicts `empty + g * (given - empty)`. ESD teaches the model to predict, for the prompt that is
# to be forgotten, the *opposite* of what it adds, `eta` times as large. Write that target.


# %% tags=["solution"]
def target(given: torch.Tensor, empty: torch.Tensor, eta: float) -> torch.Tensor:
    """What the student is to predict under the forgotten prompt; both predictions and the target have one shape."""
    ### BEGIN SOLUTION
    return empty - eta * (given - empty)
    ### END SOLUTION


# %%
def opposite(x, sigma, cond):
    """The frozen model, sampled along the target for eta = 1."""
    return target(adapter.conditional(x, sigma, cond), adapter.conditional(x, sigma, adapter.empty(len(x))), 1.0)


def right(images, captions):
    """How many pictures show a house where the caption says so, and how many the colour that it says."""
    found = lab.bed.attributes(images, captions)
    where = ["first" if c.split()[1] == "house" else "second" for c in captions]
    return {"house": sum(int(found[w][k]) for k, w in enumerate(where)), "colour": int(found["colour"].sum())}


# %% tags=["test"]
given, empty = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
assert torch.allclose(target(given, empty, 0.0), empty), "eta 0: as if there were no prompt"
assert torch.allclose(target(given, empty, 1.0) - empty, empty - given), "eta 1: the mirror image"
assert torch.allclose(target(empty, empty, 3.0), empty), "a prompt that adds nothing has no opposite"
captions = houses[:8]
with torch.no_grad():
    latents = uf.rollout(opposite, adapter.noise(8, 0), adapter.sigmas(lab.bed.steps), adapter.encode(captions))
    images = adapter.decode(latents)
print("5.1 passed: of 8 captions, as they are drawn", right(lab.draw(adapter, captions), captions))
print("and by a model that predicted the target", right(images, captions))

# %% [markdown] tags=["hint"]
# Which scale of guidance is the target? Where does one arrive with `eta` 0?


# %% tags=["mistake"]
def target(given, empty, eta):
    return given - eta * (given - empty)


# %% [markdown] tags=["answer"]
# The target is guidance with a scale below zero: what one samples with a negative prompt, learnt. It points away from
# the whole caption, and the colour of the ground, which nobody wanted forgotten, goes with the house.

# %% [markdown] tags=["notes"]
# The mistake is the authors' own formula with this book's number: they write the target as `given - e * (given -
# empty)`, where e is 1 + eta. With 1 for e the student only learns to ignore the prompt. Whoever takes numbers from a
# paper must take its formula, too. Ask: what would be spared if ESD were told "a house" in place of whole captions, and
# what could go wrong then?

# %% [markdown]
# ## Exercise 5.2: Unlearning in closed form
# *Difficulty 2 of 3, about 20 minutes*
#
# UCE edits a matrix $W_0$ that reads the prompt. It looks for the $W$ that reads what is to be forgotten as its anchor,
# reads what is to be kept as before, and stays near $W_0$:
#
# $$
# \min_W \sum_i \lVert W f_i - W_0 a_i \rVert^2 + \sum_j \lVert W k_j - W_0 k_j \rVert^2 + s\, \lVert W - W_0 \rVert^2 .
# $$
#
# This is least squares. Set the derivative to zero and solve for $W$.


# %% tags=["solution"]
def uce(w0, forget, anchor, keep, s):
    """W0 [o, d] and embeddings in rows, forget [n, d], anchor [n, d], keep [m, d], all fp64, and s > 0 -> W [o, d]."""
    ### BEGIN SOLUTION
    right = s * torch.eye(w0.shape[1], dtype=w0.dtype) + forget.T @ forget + keep.T @ keep
    left = w0 @ (s * torch.eye(w0.shape[1], dtype=w0.dtype) + anchor.T @ forget + keep.T @ keep)
    return torch.linalg.solve(right, left, left=False)  # W right = left
    ### END SOLUTION


# %%
name = next(n for n, kind in adapter.text_layers().items() if kind == "pooled")  # it reads one vector of each prompt
w0 = adapter.denoiser.get_submodule(name).weight.double()
f, a, k = (adapter.encode(prompts).pooled.double() for prompts in (told.words, told.instead, told.everything))
library = uf.complement.uce(adapter, told.words, told.instead, told.everything, strength=0.5)


def share(w, rows, wanted, start):
    """How far ``w`` is from reading each row as wanted, over how far it would be if it read it as ``start``."""
    return float((rows @ w.T - wanted @ w0.T).norm() / (start @ w0.T - wanted @ w0.T).norm())


# %% tags=["test"]
torch.manual_seed(0)
w, x, y, z = (torch.randn(*shape, dtype=torch.float64) for shape in ((5, 8), (2, 8), (2, 8), (3, 8)))
close = partial(torch.allclose, atol=1e-4)
assert close(uce(w, x, x, z, 0.5), w), "what is its own anchor asks for no change"
assert close(uce(w, x, y, z, 1e-8) @ x.T, w @ y.T), "with hardly any strength the forgotten reads as its anchor"
assert close(uce(w, x, y, z, 1e-8) @ z.T, w @ z.T), "and what is kept as before"
assert close(uce(w, x, y, z, 1e8), w), "with a huge strength nothing moves"
assert close(uce(w0, f, a, k, 0.5), library.denoiser.get_submodule(name).weight.double()), "must agree with the library"
for kept in (k[:0], k):
    edited = uce(w0, f, a, kept, 0.5)
    left, harm = share(edited, f, a, f), share(edited, k, k, 0 * k)
    print(f"told to keep {len(kept)}: {left:.2f} of the way from house to tree is left, others move by {harm:.2f}")
print("5.2 passed: what is to be kept weighs", f"{float(k.pow(2).sum() / f.pow(2).sum()):.0f} times what is to go")

# %% [markdown] tags=["hint"]
# The derivative with respect to $W$ of the first sum is $2 \sum_i (W f_i - W_0 a_i) f_i^\top$. Bring all that has a $W$
# to one side. What is left of the last term where there are no embeddings at all?


# %% tags=["mistake"]
def uce(w0, forget, anchor, keep, s):
    right = s * torch.eye(w0.shape[1], dtype=w0.dtype) + forget.T @ forget + keep.T @ keep
    left = w0 @ (anchor.T @ forget + keep.T @ keep)
    return torch.linalg.solve(right, left, left=False)


# %% [markdown] tags=["answer"]
# $W = W_0\,(sI + \sum a_i f_i^\top + \sum k_j k_j^\top)\,(sI + \sum f_i f_i^\top + \sum k_j k_j^\top)^{-1}$. If every
# anchor is the forgotten itself, the two brackets cancel. Everything that is to be kept speaks against the edit, and
# many prompts to keep outweigh a few to forget.

# %% [markdown] tags=["notes"]
# The mistake is ordinary ridge regression, which pulls $W$ towards 0 and not towards $W_0$. With much to keep one
# hardly sees it, because the data fill most directions; in directions that no prompt uses the matrix is gone. Full
# marks also for gradient descent that converges. Ask: which numbers of the last lines would change if every prompt to
# keep were given twice?

# %% [markdown]
# ## Exercise 5.3: Do the bills add up?
# *Difficulty 3 of 3, about 30 minutes*
#
# Four models: neither removal, the method alone, UniForget alone, both. Each has a table of verdicts on the same
# pictures, [noises, prompts] of 0 and 1 ("is the picture right?"). Does UniForget cost more on the unlearned model than
# on the whole one? Estimate the mean of
#
# $$
# (\text{both} - \text{method}) - (\text{UniForget} - \text{neither})
# $$
#
# with a 95 % percentile bootstrap interval. Resample *prompts*: pictures of one prompt are no independent evidence, and
# a prompt that is hard for one model tends to be hard for all four.


# %% tags=["solution"]
def interaction(neither, method, uniforget, both, n: int = 2000, seed: int = 0) -> uf.evaluate.Estimate:
    """Of four tables [noises, prompts] of 0 and 1; ``n`` draws."""
    ### BEGIN SOLUTION
    prompts = ((both - method) - (uniforget - neither)).mean(0)
    draws = np.random.default_rng(seed).choice(prompts, (n, len(prompts))).mean(1)
    return uf.evaluate.Estimate(float(prompts.mean()), *map(float, np.quantile(draws, [0.025, 0.975])))
    ### END SOLUTION


# %%
captions, bed, pruned = others[:20], lab.bed, unlearning.pruned(lab)
cells = {"neither": adapter, "method": uf.complement.uce(adapter, told.words, told.instead)}  # told of nothing to keep
cells |= {"uniforget": pruned, "both": uf.complement.uce(pruned, told.words, told.instead)}
verdicts = {}
for cell, model in cells.items():
    verdicts[cell] = bed.attributes(lab.draw(model, captions), captions)["all"][None].astype(float)


# %% tags=["test"]
t = np.tile([0.0, 1.0], (2, 40))  # half of the prompts are hard, for every model and in both noises
lost = t.copy()
lost[:, 1:16:2] = 0  # what only the model with both gets wrong
few, many = interaction(t, t, t, lost), interaction(*(np.repeat(v, 10, 0) for v in (t, t, t, lost)))
assert np.isclose(few.mean, -0.1), "eight prompts of eighty"
assert np.isclose(interaction(t, lost, lost, lost).mean, 0.1), "both damages are one and the same: less than their sum"
assert -0.2 < few.low < -0.14 and -0.06 < few.high < 0, "as wide as eight prompts of eighty make it"
assert np.allclose([many.low, many.high], [few.low, few.high], atol=0.02), "noises that agree are no more prompts"
found, d = interaction(**verdicts), uf.evaluate.difference
neither, method, uniforget, both = (uf.evaluate.bootstrap(v) for v in verdicts.values())  # as if each stood alone
print(f"5.3 passed: interaction {found}, of four separate intervals {d(d(both, method), d(uniforget, neither))}")

# %% [markdown] tags=["hint"]
# The four tables share their columns. Which arithmetic can be done before anything is drawn? How many numbers are left
# to draw from?


# %% tags=["mistake"]
def interaction(neither, method, uniforget, both, n=2000, seed=0):
    rng = np.random.default_rng(seed)
    tables = (both, method, uniforget, neither)
    draws = [t.mean(0)[rng.integers(t.shape[1], size=(n, t.shape[1]))].mean(1) for t in tables]
    total = (draws[0] - draws[1]) - (draws[2] - draws[3])
    value = (both - method - uniforget + neither).mean()
    return uf.evaluate.Estimate(float(value), *map(float, np.quantile(total, [0.025, 0.975])))


# %% [markdown] tags=["answer"]
# A contrast of four cells on the same prompts is one number a prompt. How hard a prompt is cancels out, and what is
# left to vary is only how the prompts differ in the contrast. Near zero the bills add up; below, both together cost
# more than the sum; above, less (two damages to the same picture count once).

# %% [markdown] tags=["notes"]
# The mistake resamples each cell for itself: the same mean, and an interval several times as wide. What is found with
# it is found, but most will be missed. The opposite error, to resample single pictures, makes it too narrow; the test
# repeats noises to find that. Ask: if the contrast were 0 for every prompt, the interval would be a point; is anything
# certain then? (No: `evaluate.paired` widens it.) And what does the interval say of another concept, or another seed of
# the method? (Nothing: those were not resampled.)
