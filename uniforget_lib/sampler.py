"""One stateless Euler sampler for every family: dx/dsigma is what an adapter predicts, sigma runs from noise to 0."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

Predict = Callable[..., Tensor]  # (x, sigma, cond) -> dx/dsigma


def euler_step(predict: Predict, x: Tensor, sigma: Tensor, sigma_next: Tensor, cond) -> Tensor:
    """x + (sigma_next - sigma) dx/dsigma. x: latents [n, ...]; sigmas: scalars."""
    return x + (sigma_next - sigma) * predict(x, sigma, cond)


def rollout(predict: Predict, x: Tensor, sigmas: Tensor, cond, *, checkpoint: bool = False, trace: bool = False):
    """F(z0, N, c): the whole sampling, differentiable.

    Args:
        x: starting noise [n, ...]. sigmas: [N + 1], decreasing to 0.
        checkpoint: recompute each step but the last in the backward pass. Compute rises from 2 to about 3 - 1/N plain
            samplings, and memory falls from N activations to N latents and one activation. Nothing random may happen in
            ``predict``: UniForget draws its gates outside, once an optimiser step, so both passes see the same ones.
        trace: return all N + 1 states instead of the last.
    """
    states, last = [x], len(sigmas) - 2
    for k, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        if checkpoint and k < last:  # what the last step keeps is needed at once
            x = recompute(euler_step, predict, x, sigma, sigma_next, cond, use_reentrant=False,
                          preserve_rng_state=False)  # fmt: skip
        else:
            x = euler_step(predict, x, sigma, sigma_next, cond)
        states.append(x)
    return states if trace else x
