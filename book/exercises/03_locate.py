# %% [markdown]
# # Exercises: locating the responsible neurons
#
# Three exercises to {doc}`the chapter on locators </notebooks/03_locate>`. Replace each `raise NotImplementedError`,
# run the cell with the test, and open the hint or the solution when you are stuck. Everything runs on a laptop CPU in
# less than a minute.

# %%
import uniforget_lib as uf

# %%
import math

import torch

from uniforget_lib.experiments import Lab, pruning
from uniforget_lib.masks import hard_concrete, relaxed_sigmoid

lab = Lab.load("flux")
adapter = lab.bed.adapter
score = pruning.long(lab, "weak")  # stored: UniForget's, trained four times as long as in the chapter, on both worlds
mask = score.mask(threshold=0)

# %% [markdown]
# ## Exercise 3.1: The strictest control
# *Difficulty 1 of 3, about 10 minutes*
#
# A mask has two parts: *how many* units it removes at every site, and *which*. Write the control that shares the first
# and knows nothing of the second: a random mask that removes exactly as many units as the given one at every site. It
# serves twice: what it does to pictures is what damage of this shape does, and its overlap with the given mask is what
# chance gives.


# %% tags=["solution"]
def matched(mask: uf.Mask, seed: int) -> uf.Mask:
    """Random units, as many removed at every site as in ``mask`` (values: site name -> [units], 0 removed, 1 kept)."""
    generator = torch.Generator().manual_seed(seed)
    ### BEGIN SOLUTION
    shuffled = {name: v[torch.randperm(len(v), generator=generator)] for name, v in mask.values.items()}
    return uf.Mask(shuffled, mask.fingerprint)
    ### END SOLUTION


# %% tags=["test"]
controls = [matched(mask, seed) for seed in range(8)]
for name, values in mask.values.items():
    assert all(c.values[name].sum() == values.sum() for c in controls), f"{name}: as many units must go as in the mask"
assert matched(mask, 0).overlap(controls[0]) == 1, "the same seed must give the same mask"
assert controls[0].overlap(controls[1]) < 0.5, "another seed must give another mask"
chance = sum(mask.overlap(c) for c in controls) / len(controls)
assert abs(chance - mask.overlap_by_chance(mask)) < 0.01, "must overlap with the mask as the library's formula says"
change = [uf.locate.relative_change(adapter, m, lab.bed.neutral(12)).mean() for m in (mask, controls[0])]
medium = mask.overlap(pruning.long(lab).mask(threshold=0))
print(f"3.1 passed: neutral pictures change by {change[0]:.2f}, under the control by {change[1]:.2f};",
      f"overlap by chance {chance:.2f}, with the medium mask {medium:.2f}")  # fmt: skip

# %% [markdown] tags=["hint"]
# A random order of the same zeros and ones has as many of each. `torch.randperm(n, generator=generator)` is a random
# order. Do it site by site.


# %% tags=["mistake"]
def matched(mask, seed):
    every = torch.cat(list(mask.values.values()))
    every = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))]
    parts = every.split([len(v) for v in mask.values.values()])
    return uf.Mask(dict(zip(mask.values, parts)), mask.fingerprint)


# %% [markdown] tags=["answer"]
# The mask spares what its control destroys, so here it matters which units go and not only how many. The overlap by
# chance is far from 0, because both masks take most units at the same sites: an overlap means something only beside
# it.

# %% [markdown] tags=["notes"]
# The mistake shuffles across sites: as many units in all, but other numbers at each. A locator then gets the credit
# for knowing that some *sites* are nearly superfluous, and its overlap with other masks looks larger than by chance.
# For class: what would a mask be worth that does *no* better than this control? (It says where one may prune, but
# names no unit.) A fresh generator with the same seed in each site passes too, although sites of one size are then
# shuffled alike: point it out.

# %% [markdown]
# ## Exercise 3.2: When is a gate really closed?
# *Difficulty 2 of 3, about 20 minutes*
#
# In training the gate of a logit $\lambda$ is random, for a uniform draw $u$ in (0, 1):
#
# $$s = \operatorname{sigmoid}\Bigl(\tfrac{1}{\alpha}\bigl(\log(u + d) - \log(1 - u + d) + \lambda\bigr)\Bigr), \qquad
# m = \operatorname{clip}\bigl(s\,(\zeta - \gamma) + \gamma,\; 0,\; 1\bigr).$$
#
# Derive the probability that it is *not exactly closed*, $m > 0$, as a function of the logit. (As $u$ grows, so does
# $m$: where does it leave 0?) Do not sample.


# %% tags=["solution"]
def chance_open(logits: torch.Tensor, d=0.5, alpha=0.83, zeta=1.1, gamma=-0.1) -> torch.Tensor:
    """Probability [n], in [0, 1], that ``hard_concrete(logits [n], u)`` is above 0 for a uniform u."""
    ### BEGIN SOLUTION
    ratio = torch.exp(alpha * math.log(-gamma / zeta) - logits)  # (u + d) / (1 - u + d) where s (zeta - gamma) = -gamma
    u = (ratio * (1 + d) - d) / (1 + ratio)
    return (1 - u).clamp(0, 1)
    ### END SOLUTION


# %% tags=["test"]
grid = (torch.arange(20_000) + 0.5) / 20_000
at = torch.tensor([-4.0, -3.0, -2.5, -2.0, -1.5, -1.0, 0.0, 3.0])
counted = torch.stack([(hard_concrete(logit, grid) > 0).float().mean() for logit in at])
assert torch.all(chance_open(at).diff() >= 0), "a higher logit is never closed more often"
assert torch.allclose(chance_open(at), counted, atol=1e-3), f"a grid of u says {counted.tolist()} at {at.tolist()}"
plain = torch.stack([(hard_concrete(logit, grid, d=1e-6) > 0).float().mean() for logit in at])
assert torch.allclose(chance_open(at, d=1e-6), plain, atol=1e-3), "d must be taken into account: try d = 0"
logits = -torch.cat(list(score.values.values()))
removed = chance_open(logits[logits <= 0])
always, never = (float((removed == p).float().mean()) for p in (0, 1))
print(f"3.2 passed: of the gates below the cut {always:.0%} were always exactly closed in the end, {never:.0%} never")

# %% [markdown] tags=["hint"]
# The gate leaves 0 where $s = -\gamma / (\zeta - \gamma)$. Apply the inverse of the sigmoid, log(s / (1 - s)): what
# does $(u + d) / (1 - u + d)$ equal there? Solve for $u$; the probability is that of a larger draw.


# %% tags=["mistake"]
def chance_open(logits, d=0.5, alpha=0.83, zeta=1.1, gamma=-0.1):
    return torch.sigmoid(logits - alpha * math.log(-gamma / zeta))


# %% [markdown] tags=["answer"]
# With $d = 0$ the noise has no bounds, and the probability is a sigmoid that is never 0 or 1. With $d = .5$ the noise
# stays between $-\log 3$ and $\log 3$: a gate whose logit is low enough is *always* closed, and one at the cut,
# $\lambda = 0$, *never* exactly. So some of the units that the cut removes were still in use, a little, in every draw
# of the last steps.

# %% [markdown] tags=["notes"]
# The mistake is the formula of Louizos et al. (2018), which is right for their gate ($d = 0$) and is easily copied. It
# agrees in the middle and is wrong at both ends, where most logits lie. Ask: at which logits does the *price* alone
# move a gate? (Where it is exactly 0 in all draws, or exactly 1 in all: there the error has no gradient.) Full marks
# for a derivation; half for a Monte Carlo estimate that passes with enough draws.

# %% [markdown]
# ## Exercise 3.3: The objective, on ten neurons
# *Difficulty 3 of 3, about 30 minutes*
#
# A toy network has ten hidden units. Units 0 to 3 read what neutral inputs show, and so do units 4 and 5, which hardly
# count in the output; units 6 to 9 read what only memorized inputs show. Write UniForget's objective for a batch of
# neutral inputs: the mean squared difference between the outputs of the gated and of the whole network, plus `beta`
# times the mean of `relaxed_sigmoid` over the logits.

# %%
source = torch.Generator().manual_seed(0)
read = torch.block_diag(torch.randn(6, 4, generator=source), torch.randn(4, 4, generator=source))  # [units, inputs]
write = torch.randn(3, 10, generator=source) * torch.tensor([1.0] * 4 + [0.02] * 2 + [1.0] * 4)  # [outputs, units]
neutral = torch.cat([torch.randn(64, 4, generator=source), torch.zeros(64, 4)], 1)
memorized = torch.cat([torch.zeros(16, 4), torch.randn(16, 4, generator=source)], 1)


def net(x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """Outputs [n, 3] for inputs [n, 8] under gates [10]."""
    return (torch.relu(x @ read.T) * gates) @ write.T


# %% tags=["solution"]
def objective(logits: torch.Tensor, u: torch.Tensor, x: torch.Tensor, beta: float) -> torch.Tensor:
    """The loss, a scalar, for logits [10], uniform draws u [10] and neutral inputs x [n, 8]."""
    ### BEGIN SOLUTION
    error = (net(x, hard_concrete(logits, u)) - net(x, torch.ones_like(logits))).pow(2).mean()
    return error + beta * relaxed_sigmoid(logits).mean()
    ### END SOLUTION


# %% tags=["test"]
u, wide = torch.full((10,), 0.5), torch.full((10,), 6.0, requires_grad=True)
assert torch.isclose(objective(wide, u, neutral, 0.5), 0.5 * relaxed_sigmoid(wide).mean()), "open gates: only the price"
objective(wide, u, neutral, 0.5).backward()
assert bool((wide.grad > 0).all()), "the price must reach every logit, also of a gate that is wide open"
shut = objective(torch.full((10,), -6.0), u, neutral, 0.0)
assert torch.isclose(shut, net(neutral, torch.ones(10)).pow(2).mean()), "closed gates: the error is the whole output"
assert objective(wide, u, 2 * neutral, 0.0) == 0, "the target is what the whole network puts out for the same inputs"

# %% tags=["test"]
logits = torch.full((10,), 3.0, requires_grad=True)
optimizer, draws = torch.optim.Adam([logits], lr=0.1), torch.Generator().manual_seed(1)
for _ in range(300):
    optimizer.zero_grad()
    objective(logits, torch.rand(10, generator=draws), neutral, 0.2).backward()
    optimizer.step()
kept, whole = (logits.detach() > 0).float(), torch.ones(10)
assert kept[:4].all(), f"units that neutral inputs need must stay: {kept.tolist()}"
assert not kept[4:].any(), f"all others must go: {kept.tolist()}"
change = [float((net(x, kept) - net(x, whole)).pow(2).sum() / net(x, whole).pow(2).sum()) for x in (neutral, memorized)]
print(f"3.3 passed: the output changes by {change[0]:.1%} on neutral inputs, by {change[1]:.0%} on memorized ones")

# %% [markdown] tags=["hint"]
# `net(x, torch.ones(10))` is what the whole network puts out. The error uses *gates*, drawn from the logits by
# `hard_concrete`; the price uses the *logits*.


# %% tags=["mistake"]
def objective(logits, u, x, beta):
    gates = hard_concrete(logits, u)
    return (net(x, gates) - net(x, torch.ones_like(gates))).pow(2).mean() + beta * gates.mean()


# %% [markdown] tags=["answer"]
# Memorized inputs take no part in the training, and all their units go. But so do units 4 and 5, which have nothing to
# do with them: what the objective removes is what neutral inputs can spare, memory or not. Had the memory been made of
# units 0 to 3, it would have stayed.

# %% [markdown] tags=["notes"]
# The mistake puts the price on the gates instead of the logits. A gate that is clipped at 1 has no gradient, so with
# logits that start high nothing ever moves; at the usual start of 3 it moves only by rare draws. Others compare with
# *zero* or with data instead of with the whole network's output. Ask: what would happen with a memory that shares half
# its units with neutral inputs? Let them build it from `read`. Half marks if the tests on the gradient pass and the
# training does not.
