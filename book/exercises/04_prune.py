# %% [markdown]
# # Exercises: pruning
#
# Three exercises to {doc}`the chapter on pruning </notebooks/04_prune>`. Replace each `raise NotImplementedError`, run
# the cell with the test, and open the hint or the solution when you are stuck. Everything runs on a laptop CPU in less
# than a minute.

# %%
import uniforget_lib as uf

# %%
import torch
from torch import nn
from torch.nn import functional as F

from uniforget_lib.experiments import Lab, pruning

lab = Lab.load("flux")
adapter = lab.bed.adapter
mask = pruning.long(lab).mask(ratio=0.6)  # UniForget's, stored: 1 keeps a unit, 0 removes it

# %% [markdown]
# ## Exercise 4.1: Take a neuron out
# *Difficulty 1 of 3, about 10 minutes*
#
# A feed-forward layer computes `w2 @ act(w1 @ x + b1) + b2`. A mask multiplies the activations by 0 or 1. Return
# smaller matrices that compute the same, whatever the activation function `act` is: neurons that the mask removes must
# not be computed any more.


# %%
def layer(x, w1, b1, w2, b2, act, gate=1.0):
    """Outputs [n, o] of inputs [n, i], with a gate on the activations."""
    return F.linear(act(F.linear(x, w1, b1)) * gate, w2, b2)


site = adapter.sites(["ffn"])[0]  # a layer of the testbed, and what UniForget's mask says of it
first, second = (adapter.denoiser.get_submodule(refs[0].linear) for refs in (site.writers, site.readers))
testbed, found = (first.weight, first.bias, second.weight, second.bias), mask.values[site.name]


# %% tags=["solution"]
def without(w1, b1, w2, b2, mask):
    """Weights w1 [h, i], b1 [h], w2 [o, h], b2 [o] and a mask [h] of 0 and 1 -> the four of the smaller layer."""
    ### BEGIN SOLUTION
    keep = mask.bool()
    return w1[keep], b1[keep], w2[:, keep], b2
    ### END SOLUTION


# %% tags=["test"]
torch.manual_seed(0)
x, whole = torch.randn(8, 5), (torch.randn(12, 5), torch.randn(12), torch.randn(3, 12), torch.randn(3))
gate = torch.tensor([1.0, 0.0, 1.0] * 4)
for act in (torch.relu, torch.sigmoid):
    same = torch.allclose(layer(x, *without(*whole, gate), act), layer(x, *whole, act, gate), atol=1e-5)
    assert same, f"with {act.__name__} the outputs must be those under the mask"
assert [len(w) for w in without(*whole, gate)] == [8, 8, 3, 3], "eight neurons are left, and three outputs"
nothing = layer(x, *without(*whole, 0 * gate), act)
assert torch.equal(nothing, whole[3].expand(8, 3)), "of a layer without neurons only b2 is left"
x, less = torch.randn(8, first.in_features), without(*testbed, found)
off = float((layer(x, *less, F.gelu) - layer(x, *testbed, F.gelu, found)).abs().max())
share = sum(w.numel() for w in less) / sum(w.numel() for w in testbed)
print(f"4.1 passed: {site.name} keeps {share:.2f} of its weights, and its outputs differ by {off:.0e} at most")

# %% [markdown] tags=["hint"]
# A neuron is written by one row of `w1` and one number of `b1`. Where is it read?


# %% tags=["mistake"]
def without(w1, b1, w2, b2, mask):
    return w1 * mask[:, None], b1 * mask, w2, b2


# %% [markdown] tags=["answer"]
# A neuron is a row of the first matrix, a number of its bias, and a column of the second matrix. All three go. The
# second bias stays: it belongs to the outputs. A layer of which nothing is left gives its second bias, and not its
# input.

# %% [markdown] tags=["notes"]
# The mistake writes zeros where the neuron is *written*. That happens to be right if `act(0)` is 0 (ReLU, GELU), and
# wrong for a sigmoid, whose neurons then say one half. And no matrix gets smaller. Whoever zeroes columns of `w2`
# instead has baked the mask: right outputs, full size; half marks. Ask: why must an attention head lose rows in three
# matrices, and columns in one?

# %% [markdown]
# ## Exercise 4.2: Count the work
# *Difficulty 2 of 3, about 20 minutes*
#
# How much faster a pruned model can be depends on the share of the *work* that its units do. Count that of every
# `nn.Linear` while `run()` runs: multiplying one vector by a matrix of `out_features` times `in_features` numbers takes
# twice as many operations (one multiplication and one addition each; leave the bias out). Use forward hooks, and leave
# none behind.


# %% tags=["solution"]
def work(module: nn.Module, run) -> dict[str, int]:
    """Name of each Linear in ``module`` that ``run()`` calls -> its operations, over all of its calls."""
    ### BEGIN SOLUTION
    found, names = {}, {part: name for name, part in module.named_modules() if isinstance(part, nn.Linear)}

    def hook(part, args, out):
        found[names[part]] = found.get(names[part], 0) + 2 * args[0].numel() * part.out_features

    handles = [part.register_forward_hook(hook) for part in names]
    run()
    for handle in handles:
        handle.remove()
    return found
    ### END SOLUTION


# %%
@torch.no_grad()
def forward():
    """One picture, one step."""
    return adapter.conditional(adapter.noise(1, 0), adapter.sigmas(1)[0], adapter.encode([""]))


def part(counts, kind):
    """The operations of the matrices, or of the parts of them, that units of a kind are written by and read in."""
    total = 0
    for site in adapter.sites([kind]):
        for refs, side in ((site.readers, "in_features"), (site.writers, "out_features")):
            for r in refs:
                size = getattr(adapter.denoiser.get_submodule(r.linear), side)
                total += counts[r.linear] * (r.stop - r.start) / size
    return total


# %% tags=["test"]
two = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
once = work(two, lambda: two(torch.randn(5, 7, 4)))
assert once == {"0": 2 * 35 * 24, "2": 2 * 35 * 12}, "35 vectors go through each matrix"
twice = work(two, lambda: [two(torch.randn(1, 4)) for _ in range(2)])
assert twice == {"0": 2 * 2 * 24, "2": 2 * 2 * 12}, "two calls are twice the work"
assert not any(m._forward_hooks for m in two.modules()), "a hook was left behind"
counts, total, held = work(adapter.denoiser, forward), uf.evaluate.flops(adapter), uf.evaluate.weights(adapter)
assert part(counts, "ffn") == uf.evaluate.flops(adapter, ["ffn"]), "must agree with the library"
share = {kind: part(counts, kind) / total for kind in ("ffn", "norm")}
for kind, f in share.items():
    print(f"{kind}: {uf.evaluate.weights(adapter, [kind]) / held:.2f} of the weights, {f:.3f} of the work")
print(f"4.2 passed: without 35 % of its feed-forward neurons at most {1 / (1 - 0.35 * share['ffn']):.2f} times as fast")

# %% [markdown] tags=["hint"]
# A hook gets `(module, args, output)`. How many vectors are in `args[0]`, and how long is each? One number tells both.


# %% tags=["mistake"]
def work(module, run):
    found, names = {}, {part: name for name, part in module.named_modules() if isinstance(part, nn.Linear)}

    def hook(part, args, out):
        found[names[part]] = found.get(names[part], 0) + 2 * part.weight.numel()

    handles = [part.register_forward_hook(hook) for part in names]
    run()
    for handle in handles:
        handle.remove()
    return found


# %% [markdown] tags=["answer"]
# A matrix works once for each token, an adaptive norm once for each picture. So norms hold many weights and do hardly
# any work: to prune them saves memory and no time. The share of the work that units can take along is all that the
# chapter's formula for the ceiling needs, and it is known before anything is pruned.

# %% [markdown] tags=["notes"]
# The mistake counts weights, as if every matrix were used once; then the norms look as expensive as they are large. A
# hook made in a loop that takes the loop's `name` puts everything under the last one: the test finds that, too. Ask:
# which products does this counter not see? (Those of attention itself, which has no weights; `flops` sees them, and it
# is `flops` that the shares are of.)

# %% [markdown]
# ## Exercise 4.3: Retrain, and let the dead rest
# *Difficulty 3 of 3, about 30 minutes*
#
# A pruned model is baked: what was removed has zeros for weights. Now it is trained again. Write the training, with
# `torch.optim.Adam`, so that these zeros stay zeros *at every step*: the model that you train must be the one that you
# save. The training must then be the same as that of the smaller model, which has no such weights at all.


# %% tags=["solution"]
def retrain(module: nn.Module, keep: dict, loss, steps: int, lr: float) -> list[float]:
    """Trains in place; returns ``loss()``, a scalar, as it was before each step. ``keep``: name of a parameter ->
    tensor of its shape, in which 0 marks a zero that stays and 1 the rest; other parameters are trained freely."""
    ### BEGIN SOLUTION
    optimizer, named, values = torch.optim.Adam(module.parameters(), lr=lr), dict(module.named_parameters()), []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        for name, mask in keep.items():
            named[name].grad *= mask
        optimizer.step()
        values.append(value.item())
    return values
    ### END SOLUTION


# %%
def pair():
    """A layer of 32 neurons of which 24 are baked away, what to keep of it, and the layer of the 8 that are left."""
    torch.manual_seed(1)
    large, small = (nn.Sequential(nn.Linear(4, h), nn.GELU(), nn.Linear(h, 1)).double() for h in (32, 8))
    gate = torch.tensor([1.0, 0.0, 0.0, 0.0] * 8)
    alive = gate.bool()
    with torch.no_grad():
        large[2].weight *= gate
        left = (large[0].weight[alive], large[0].bias[alive], large[2].weight[:, alive], large[2].bias)
        for new, old in zip(small.parameters(), left):
            new.copy_(old)
    return large, {"2.weight": gate.expand(1, 32)}, small


# %%
baked, captions = uf.bake(adapter, mask), lab.prompts()[:8]
whole, denoiser = dict(adapter.denoiser.named_parameters()), baked.denoiser.requires_grad_(True)
kept = {n: ((p != 0) | (whole[n] == 0)).float() for n, p in denoiser.named_parameters()}
x0, cond, level = baked.latents_of(lab.bed.real(captions)), baked.encode(captions), baked.level(0.5)
state = baked.noised(x0, baked.noise(8, 0), level)


def testbed_loss():
    """Of eight neutral pictures, at one level of noise."""
    return (baked.conditional(state, level, cond) - (state - x0) / level).pow(2).mean()


# %% tags=["test"]
large, keep, small = pair()
x = torch.randn(64, 4, generator=torch.Generator().manual_seed(2)).double()
loss = {m: (lambda m=m: (m(x) - x.prod(1, keepdim=True)).pow(2).mean()) for m in (large, small)}
values, wanted = retrain(large, keep, loss[large], 100, 0.02), retrain(small, {}, loss[small], 100, 0.02)
assert bool((large[2].weight[keep["2.weight"] == 0] == 0).all()), "a pruned neuron came back to life"
assert values[-1] < 0.9 * values[0], "the training must train"
apart = max(abs(a - b) for a, b in zip(values, wanted))
assert apart < 1e-4 * wanted[0], "at every step the loss must be that of the smaller layer"
assert loss[large]().item() < 1.05 * values[-1], "what was trained must be what is left at the end"
values = retrain(denoiser, kept, testbed_loss, 10, 4e-4)
back = sum(int((p[kept[n] == 0] != 0).sum()) for n, p in denoiser.named_parameters())
assert back == 0, "zeros of the testbed moved"
print(f"4.3 passed: the testbed's loss falls from {values[0]:.2f} to {values[-1]:.2f}, and no zero moved")

# %% [markdown] tags=["hint"]
# A weight of zero has a gradient like any other: its neuron still fires. Which two places are there, between `backward`
# and the next forward, at which you can see to it that such a weight does not move?


# %% tags=["mistake"]
def retrain(module, keep, loss, steps, lr):
    optimizer, named, values = torch.optim.Adam(module.parameters(), lr=lr), dict(module.named_parameters()), []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    with torch.no_grad():
        for name, mask in keep.items():
            named[name] *= mask
    return values


# %% [markdown] tags=["answer"]
# Either the gradient of a pruned weight is zeroed before every step, or the weight itself after it. Adam works on each
# number alone, so both train exactly the smaller model. `complement.retrain` does a third thing, and keeps the mask on
# in the forward pass: then the gradient is zero by itself.

# %% [markdown] tags=["notes"]
# The mistake prunes once more at the end. All zeros are in place, and a test that looks at the zeros alone is content:
# but the training leant on neurons that are then cut off. Without even that last step the pruned neurons come back to
# life. Ask: what if a GELU neuron's row, bias and column are all zero? (Then all their gradients are zero, too, and it
# stays dead by itself.) And an Adam that was running before the pruning? (Its momentum moves weights whose gradient is
# zero. Zeroing the weights after the step helps.)
