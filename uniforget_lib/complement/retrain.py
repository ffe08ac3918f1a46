"""Retraining after pruning: a brief fine-tuning on neutral pictures, to win back quality (UniForget, "retrain")."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..hooks import masked, recomputed
from ..masks import Mask
from ..models._pictures import check_pictures
from ..models.base import ModelAdapter
from ..sites import KINDS
from ._lora import add, descend, fuse, need_peft
from ._training import full_precision, noisy, positive, train


def retrain(
    adapter: ModelAdapter,
    images: Tensor,
    prompts: Sequence[str],
    *,
    mask: Mask | None = None,
    rank: int | None = None,
    steps: int = 500,
    lr: float = 1e-4,
    batch: int = 8,
    checkpoint: bool = False,
    seed: int = 0,
) -> ModelAdapter:
    """A copy that was trained on ``images`` under ``prompts``, with the denoising loss and AdamW without weight decay.

    The paper retrains briefly on neutral data and gives no recipe; the numbers here are ours.

    Args:
        images: neutral pictures, [n, 3, H, W] in [0, 1], real ones or drawn by the model before it was pruned.
        prompts: a caption for each.
        mask: what was pruned. It is on during the training and off in what comes back: bake or shrink that. What the
            mask removes keeps its weights exactly, so a model that was baked before stays pruned; without the mask a
            baked unit would come back to life. A shrunk model needs none: what is gone has no weights.
        rank: train a LoRA of this rank on every Linear (not on convolutions, nor on what is left of a shrunk norm)
            instead of all weights, and add it to them at the end; nothing of peft remains. The LoRA is fp32, so the
            weights may be in half precision, to which the sum is then rounded.
        batch: pictures a step, drawn with repetition, all at one level of noise.
        checkpoint: blocks of the model are run again in the backward pass, which needs less memory.

    Raises ValueError for bad pictures, prompts and numbers, another model's mask and half precision without a rank,
    RuntimeError inside `masked`, ImportError for a rank without peft, FloatingPointError when training diverges.
    """
    prompts = check_pictures(adapter, images, prompts)
    positive(steps=steps, lr=lr, batch=batch, **({} if rank is None else {"rank": rank}))
    if rank is None:
        full_precision(adapter)
    else:
        need_peft()
    student = adapter.clone()
    linears = [name for name, module in student.denoiser.named_modules() if isinstance(module, nn.Linear)]
    parts = None if rank is None else add(student.denoiser, linears, rank, seed)
    with torch.no_grad():
        x0, cond = torch.cat([adapter.latents_of(part) for part in images.split(16)]), adapter.encode(prompts)

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(x0), (batch,), generator=generator).tolist()
        x, sigma = noisy(student, x0[chosen], generator)
        slope = student.conditional(x, sigma, cond[chosen])
        return (slope - (x - x0[chosen]) / sigma).float().pow(2).mean()

    options = {"steps": steps, "lr": lr, "seed": seed, "desc": "retraining"}
    blocks = recomputed(student) if checkpoint else nullcontext()
    pruned = (
        nullcontext() if mask is None else masked(student, mask)
    )  # on the wrappers: a LoRA sees what its Linear sees
    with blocks, pruned:
        if parts is None:
            return train(student, loss, which="all", **options)
        for _ in descend(parts, loss, **options):
            pass
    fuse(student.denoiser)
    if mask is not None:
        _restore(student, adapter, mask)
    return student


@torch.no_grad()
def _restore(student: ModelAdapter, adapter: ModelAdapter, mask: Mask) -> None:
    """Columns (of norms and values: rows) that ``mask`` removes get the weights of ``adapter`` back, in place.

    The training did not feel them, but the sum with the low-rank part moved them.
    """
    for site in adapter.sites(KINDS):
        if site.name not in mask.values:
            continue
        gone = (mask.values[site.name] == 0).repeat_interleave(site.width).to(student.device)
        for ref in site.masked_refs:
            new, old = (a.denoiser.get_submodule(ref.linear) for a in (student, adapter))
            if not isinstance(new, nn.Linear):  # what is left of a shrunk norm: it has no low-rank part
                continue
            here = (slice(None), slice(ref.start, ref.stop)) if site.readers else (slice(ref.start, ref.stop),)
            where = gone if site.readers else gone[:, None]
            new.weight[here] = torch.where(where, old.weight[here], new.weight[here])
