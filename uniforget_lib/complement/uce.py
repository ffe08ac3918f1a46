"""Unified Concept Editing (Gandikota et al., WACV 2024): the layers that read the prompt, edited in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._training import matched


def vectors(adapter: ModelAdapter, prompts: list[str], kind: str) -> Tensor:
    """What stands for each prompt: the embedding of its last word, or its pooled state: [n, dim], fp64."""
    with torch.no_grad():
        cond = adapter.encode(prompts)
    if kind == "pooled":
        return cond.pooled.double()
    last = (adapter.prompt_lengths(prompts) - 2).clamp(min=0).to(cond.embeds.device)
    return cond.embeds[torch.arange(len(prompts)), last].double()


@torch.no_grad()
def uce(adapter: ModelAdapter, forget: Sequence[str], anchor: Sequence[str], retain: Sequence[str] = (), *,
        strength: float = 0.5) -> ModelAdapter:  # fmt: skip
    """W minimising sum |W c_f - W0 c_a|^2 + sum |W c_r - W0 c_r|^2 + strength |W - W0|^2, for every layer that reads text:

        W = (s W0 + sum W0 c_a c_f' + sum W0 c_r c_r') (s I + sum c_f c_f' + sum c_r c_r')^-1

    c is the embedding of a prompt's last word, of FLUX and SD3 also the pooled state; .5 is the authors' strength. Where
    a layer has a bias it stays out of the goal (in the authors' code for FLUX it goes in). Of SD3's text, the T5 part is
    out of reach, and so is SDXL's pooled state, see `ModelAdapter.text_layers`.

    Args:
        anchor: what each prompt of ``forget`` is to be read as, one for each or one for all. retain: what is to be read as
            before.

    Raises ValueError for lists that do not match and for a strength that is not positive, TypeError for no strings.
    """
    forget, anchor = matched(forget, anchor, "anchor")
    if not strength > 0:
        raise ValueError(f"strength={strength}: must be positive, or the edit has no unique solution")
    edited, kept = adapter.clone(), check_prompts(retain) if retain else []
    kinds = set(adapter.text_layers().values())
    pairs = {kind: [vectors(adapter, prompts + kept, kind) for prompts in (forget, anchor)] for kind in kinds}
    for name, kind in adapter.text_layers().items():
        linear, (source, goal) = edited.denoiser.get_submodule(name), pairs[kind]
        w0 = linear.weight.double()
        right = strength * torch.eye(w0.shape[1], dtype=w0.dtype, device=w0.device) + source.T @ source
        left = strength * w0 + w0 @ goal.T @ source
        linear.weight.copy_(torch.linalg.solve(right, left.T).T)  # right is symmetric
    return edited
