"""Safe latent diffusion (Schramowski et al., CVPR 2023, arXiv 2211.05105): guidance away from a text of what is to be
avoided, in those entries of the latents where the prompt goes its way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter
from ..sampler import Predict
from ._sampling import check_range, check_sampling, sample

# The paper's, whose warm-up of 15, 10, 7 and 0 of 50 steps is here a share of the steps.
CONFIGS = {
    "weak": {"scale": 20.0, "warmup": 0.3, "threshold": 0.0, "momentum": 0.0, "beta": 0.0},
    "medium": {"scale": 1000.0, "warmup": 0.2, "threshold": 0.01, "momentum": 0.3, "beta": 0.4},
    "strong": {"scale": 2000.0, "warmup": 0.14, "threshold": 0.025, "momentum": 0.5, "beta": 0.7},
    "max": {"scale": 5000.0, "warmup": 0.0, "threshold": 1.0, "momentum": 0.5, "beta": 0.7},
}


def safe_guidance(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    concept: str | Sequence[str],
    config: str = "medium",
    scale: float | None = None,
    warmup: float | None = None,
    threshold: float | None = None,
    momentum: float | None = None,
    beta: float | None = None,
    steps: int = 4,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    """Sample with the slope v("") + cfg (v(c) - v("") - gamma), gamma that of `avoidance`; the paper's equation 3.

    cfg is the adapter's guidance; with cfg = 1, where the authors' code does nothing, gamma acts by itself, 7.5 times
    less than in Stable Diffusion. The formula is the paper's for noise predictions, and dx/dsigma of Stable Diffusion
    is one. On flow models (FLUX, SD3) the same formula is used on *their* dx/dsigma, the velocity: differences of it
    are those of the noise prediction divided by 1 - sigma, so a threshold or scale of the paper's means another there.

    Costs 3 denoiser evaluations a step and prompt, with guidance or without. ``scale=0`` changes nothing.

    Args:
        concept: the text to avoid, one for all prompts or one for each.
        config: the paper's "weak", "medium", "strong" or "max"; the numbers below replace its own.
        scale: s_S. threshold: lambda. momentum: s_m in [0, 1]. beta: beta_m in [0, 1), a step, whatever its length.
        warmup: share of the steps, rounded to whole ones, in which momentum is gathered but nothing changed.

    Returns:
        images [n, 3, H, W] in [0, 1].
    """
    prompts = check_sampling(adapter, prompts, steps=steps, batch=batch)
    options = _options(config, scale=scale, warmup=warmup, threshold=threshold, momentum=momentum, beta=beta)
    start = round(options.pop("warmup") * steps)  # the first step that is changed, from 0
    cond, away = adapter.encode(prompts), adapter.encode(_concepts(concept, len(prompts)))

    def begin() -> Predict:
        nu, step = torch.zeros(()), 0

        def predict(x: Tensor, sigma: Tensor, part: slice) -> Tensor:
            nonlocal nu, step
            empty = adapter.conditional(x, sigma, adapter.empty(len(x)))
            given, avoided = (adapter.conditional(x, sigma, c[part]) for c in (cond, away))
            gamma, nu = avoidance(given, empty, avoided, nu.to(x), **options)
            slope = given if adapter.cfg == 1 else empty + adapter.cfg * (given - empty)
            step += 1
            return slope if step <= start else slope - adapter.cfg * gamma

        return predict

    return sample(adapter, len(prompts), begin, steps=steps, seed=seed, batch=batch)


def avoidance(given: Tensor, empty: Tensor, avoided: Tensor, nu: Tensor, *, scale: float, threshold: float,
              momentum: float, beta: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What is taken from the guidance, gamma, and the momentum nu of the next step: two of [n, ...].

    given, empty, avoided: the slopes under the prompt, the empty prompt and the concept, [n, ...]; nu: that of this
    step, 0 at the first. Entry by entry, with the paper's numbers of the equations:

        phi   = scale (given - avoided)                                                (6)
        mu    = min(1, |phi|) where given - avoided < threshold, else 0                (5)
        gamma = mu (avoided - empty) + momentum nu                                     (4, 7)
        nu'   = beta nu + (1 - beta) gamma                                             (8)

    The minimum is that of the authors' code (a clamp at 1).
    """
    apart = given - avoided
    mu = torch.where(apart < threshold, (scale * apart).abs().clamp(max=1), 0)
    gamma = mu * (avoided - empty) + momentum * nu
    return gamma, beta * nu + (1 - beta) * gamma


def _options(config: str, **given: float | None) -> dict[str, float]:
    """The numbers of ``config`` with those that are given, checked."""
    if config not in CONFIGS:
        raise ValueError(f"config={config!r}: use one of {tuple(CONFIGS)}")
    found = CONFIGS[config] | {name: value for name, value in given.items() if value is not None}
    check_range(0, 1e9, scale=found["scale"])
    check_range(-1e9, 1e9, threshold=found["threshold"])
    check_range(0, 1, warmup=found["warmup"], momentum=found["momentum"])
    if not 0 <= found["beta"] < 1:
        raise ValueError(f"beta={found['beta']}: needs a number in [0, 1)")
    return found


def _concepts(concept: str | Sequence[str], n: int) -> list[str]:
    """The concept of each of ``n`` prompts."""
    found = [concept] * n if isinstance(concept, str) else list(concept)
    if len(found) != n:
        raise ValueError(f"concept has {len(found)} texts for {n} prompts: give one, or one for each")
    if not all(isinstance(c, str) for c in found):
        raise TypeError("concept: give a text, or a list of one for each prompt")
    return found
