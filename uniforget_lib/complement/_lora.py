"""Low-rank parts (LoRA, Hu et al. 2022) beside the weights of a denoiser, by peft, which is optional."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..models.shrunk import replace
from ..progress import progress


def need_peft():
    """The package peft. Raises ImportError that says what to install."""
    try:
        import peft
    except ImportError:
        raise ImportError("training of a low rank needs peft: pip install peft") from None
    return peft


def add(denoiser: nn.Module, names: Sequence[str], rank: int, seed: int) -> dict[str, nn.Parameter]:
    """Give each of the Linears ``names`` a low-rank part B A, in place, and freeze all else.

    Returns name -> A [rank, in] or B [out, rank]. B is 0 at the start, so nothing changes yet; A is normal with
    deviation 1 / rank, as in the training scripts of diffusers, and drawn from ``seed``. Both are fp32 even beside
    weights in half precision, where small steps would round away. Raises ImportError without peft.
    """
    peft = need_peft()
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules="|".join(re.escape(n) for n in names)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, denoiser)
    denoiser.eval()
    found = {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
    for p in found.values():
        if p.dtype in (torch.bfloat16, torch.float16):
            p.data = p.data.float()
    return found


@torch.no_grad()
def fuse(denoiser: nn.Module) -> None:
    """Add the low-rank parts to their weights and take peft's wrappers away, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(denoiser.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            replace(denoiser, name, module.get_base_layer())
    del denoiser.peft_config


def descend(
    weights: dict[str, nn.Parameter],
    loss: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    lr: float,
    seed: int,
    desc: str,
    parts: int = 1,
    clip: float = math.inf,
    cosine: bool = False,
) -> Iterator[float]:
    """AdamW without weight decay on ``loss(generator)``; step k draws from (seed, k), and yields its loss once made.

    Args:
        parts: losses that a step takes the mean of, one backward pass each. clip: largest norm of the gradient.
        cosine: ``lr`` falls along a cosine, to 0 after the last step.

    Raises FloatingPointError when a loss is no number.
    """
    optimizer = torch.optim.AdamW(weights.values(), lr=lr, weight_decay=0.0)
    for step in progress(range(steps), desc=desc):
        generator, total = torch.Generator().manual_seed(seed * 1_000_003 + step), 0.0
        optimizer.zero_grad()
        for _ in range(parts):
            with torch.enable_grad():
                value = loss(generator) / parts
            value.backward()
            total += float(value.detach())
        if not math.isfinite(total):
            raise FloatingPointError(f"{desc}: the loss of step {step + 1} is {total}; lower lr={lr}")
        nn.utils.clip_grad_norm_(weights.values(), clip)
        if cosine:
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        yield total
