"""Retraining after pruning: a brief fine-tuning on neutral pictures, to win back quality (UniForget, "retrain")."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..hooks import masked
from ..masks import Mask
from ..models.base import ModelAdapter, check_prompts
from ._training import check, noisy, train


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
    seed: int = 0,
) -> ModelAdapter:
    """A copy that was trained on ``images`` under ``prompts``, with the denoising loss, AdamW without weight decay.

    Args:
        images: neutral pictures, [n, 3, H, W] in [0, 1]. prompts: a caption for each.
        mask: what was pruned. It is on during the training, and to be baked or shrunk *afterwards*: else a baked unit would
            come back to life. A shrunk model needs none.
        rank: train a LoRA of this rank on every Linear instead of all weights, and add it to them at the end (needs peft).

    The paper retrains briefly on neutral data and gives no recipe; the numbers here are ours. Raises ValueError for bad
    pictures, prompts, numbers and half precision, ImportError without peft, FloatingPointError when it diverges.
    """
    prompts, size = check_prompts(prompts), [3, adapter.resolution, adapter.resolution]
    if list(images.shape) != [len(prompts), *size]:
        raise ValueError(f"images has shape {list(images.shape)}: {len(prompts)} prompts need [{len(prompts)}, "
                         f"{', '.join(map(str, size))}]")  # fmt: skip
    check(adapter, steps=steps, lr=lr, batch=batch, **({} if rank is None else {"rank": rank}))
    student = adapter.clone()
    x0 = adapter.latents_of(images)
    with torch.no_grad():
        cond = adapter.encode(prompts)
    which = "all" if rank is None else _add_lora(student.denoiser, rank, seed)

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(x0), (batch,), generator=generator).tolist()
        clean = x0[chosen]
        x, sigma = noisy(student, clean, generator)
        slope = student.conditional(x, sigma, cond[chosen])
        return (slope - (x - clean) / sigma).float().pow(2).mean()

    with masked(student, mask) if mask is not None else nullcontext():
        train(student, loss, which=which, steps=steps, lr=lr, seed=seed, desc="retraining")
    if rank is not None:
        student.denoiser.fuse_lora()
        student.denoiser.unload_lora()
    return student


def _add_lora(denoiser: nn.Module, rank: int, seed: int) -> str:
    """Give every Linear of ``denoiser`` a low-rank part, 0 at the start; returns the name of these weights for `train`."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise ImportError("rank needs peft: pip install peft") from None
    linears = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=linears))
    return "lora"
