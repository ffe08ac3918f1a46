"""Attention entropy (Ren et al., ECCV 2024): while others settle on the begin token, memorized prompts keep the image's
attention on several tokens, and late in the sampling on those behind the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._walk import check_steps, walk


def attention_weights(adapter: ModelAdapter, prompts: Sequence[str], *, steps: Sequence[int], sampling_steps: int,
                      seed: int = 0, batch: int = 64) -> Tensor:  # fmt: skip
    """Attention of the whole image to every token of the prompt in some ``steps`` of a sampling, mean over heads and
    image: [len(steps), layers, n, text].

    Brought to a sum of 1 over the text: in joint attention (FLUX) the image attends to itself too.
    """
    check_steps(max(steps) + 1, sampling_steps, (seed,))
    found: dict[int, list[Tensor]] = {k: [] for k in steps}
    options = dict(steps=max(steps) + 1, sampling_steps=sampling_steps, seed=seed, batch=batch)
    for at in walk(adapter, prompts, **options, look=steps):
        if at.maps is not None:
            maps = torch.stack([at.maps[name].mean(1).cpu() for name in adapter.text_attention()])
            found[at.index].append(maps / maps.sum(-1, keepdim=True))
    return torch.stack([torch.cat(found[k], dim=1) for k in steps])


def _entropy(p: Tensor) -> Tensor:
    """- sum p log p over the last dimension."""
    return torch.special.entr(p).sum(-1)


def _padding_entropy(weights: Tensor, lengths: Tensor) -> Tensor:
    """Entropy's part from the end token on: weights [..., n, text], lengths [n] -> [..., n]."""
    behind = torch.arange(weights.shape[-1]) >= lengths[:, None] - 1
    return (torch.special.entr(weights) * behind).sum(-1)


def ren_e(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    layer: int | None = None,
    sampling_steps: int = 8,
    seeds: Sequence[int] = (0,),
    batch: int = 64,
) -> Tensor:
    """The paper's score E: entropy of the attention of one layer at the first step.

    ``layer`` counts the layers in which the image reads the prompt, in the order of the network. None: 3, the authors'
    choice for Stable Diffusion 1.4, which has 16; or the last one of a model that has fewer than 4. Costs 2 denoiser forwards a seed (one of them only because the walk
    makes it). As in the authors' code, memorized prompts get the *higher* entropy.

    Returns:
        risk [n], higher = more likely memorized, between 0 and log(tokens).
    """
    prompts = check_prompts(prompts)
    check_steps(1, sampling_steps, seeds)
    layers = len(adapter.text_attention())
    layer = min(3, layers - 1) if layer is None else layer
    if not 0 <= layer < layers:
        raise ValueError(f"layer={layer}: this model has the layers 0 to {layers - 1}")
    options = dict(steps=(0,), sampling_steps=sampling_steps, batch=batch)
    return torch.stack(
        [_entropy(attention_weights(adapter, prompts, seed=s, **options)[0, layer]) for s in seeds]
    ).mean(0)


def ren_d(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    sampling_steps: int = 10,
    seeds: Sequence[int] = (0,),
    batch: int = 64,
) -> Tensor:
    """The paper's score D: entropy of all layers' attention over the last fifth of the sampling, plus the growth since
    the first step of that part of it which lies on the end token and the padding behind it.

    The paper averages steps 40 to 49 of 50. Costs 2 denoiser forwards a step and seed.

    Returns:
        risk [n], higher = more likely memorized.
    """
    prompts = check_prompts(prompts)
    check_steps(sampling_steps, sampling_steps, seeds)
    late, lengths, risk = max(1, sampling_steps // 5), adapter.prompt_lengths(prompts), torch.zeros(len(prompts))
    for seed in seeds:
        steps = (0, *range(sampling_steps - late, sampling_steps))
        options = dict(steps=steps, sampling_steps=sampling_steps, seed=seed, batch=batch)
        weights = attention_weights(adapter, prompts, **options).mean(1)  # over layers: [1 + late, n, text]
        padding = _padding_entropy(weights, lengths)
        risk += (_entropy(weights[-late:]).mean(0) + padding[-late:].mean(0) - padding[0]) / len(seeds)
    return risk
