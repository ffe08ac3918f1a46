"""What unlearners share: which weights learn, pictures to learn on, and a loop that is seeded, checked, and leaves the
model frozen.

Losses are squared errors of the slope dx/dsigma, all pictures of a batch at one level of noise, drawn evenly from the
model's levels. (The authors draw a level for each picture; those of SD 2 and SD3 weigh levels differently.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..models.base import ModelAdapter, check_prompts
from ..progress import progress

WHICH = ("text", "attention", "others", "all")


def parameters(adapter: ModelAdapter, which: str) -> dict[str, nn.Parameter]:
    """Weights of the denoiser by name: ``text``, the layers that read the prompt; ``attention``, the whole attention to
    it; ``others``, everything but that; or ``all``. Raises ValueError for another word."""
    if which not in WHICH:
        raise ValueError(f"which={which!r}: use one of {WHICH}")
    heads = tuple(f"{name}." for name in (adapter.text_layers() if which == "text" else adapter.text_attention()))
    named = dict(adapter.denoiser.named_parameters())
    if which == "all":
        return named
    return {name: p for name, p in named.items() if name.startswith(heads) == (which != "others")}


@contextmanager
def trainable(adapter: ModelAdapter, which: str) -> Iterator[dict[str, nn.Parameter]]:
    """Inside, these weights require gradients; outside, none do, and none has one."""
    chosen = parameters(adapter, which)
    try:
        for p in chosen.values():
            p.requires_grad_()
        yield chosen
    finally:
        for p in chosen.values():
            p.requires_grad_(False).grad = None


def train(
    student: ModelAdapter,
    loss: Callable[[torch.Generator], Tensor],
    *,
    which: str,
    steps: int,
    lr: float,
    seed: int,
    keep: dict[str, Tensor] | None = None,
    desc: str = "unlearning",
) -> ModelAdapter:
    """``steps`` steps of AdamW, without weight decay, on ``loss(generator)``; step k draws from (seed, k).

    ``keep``: name -> bool of the weight's shape; only these entries change. Returns the student. Raises
    FloatingPointError when the loss is no number.
    """
    with trainable(student, which) as weights:
        optimizer = torch.optim.AdamW(weights.values(), lr=lr, weight_decay=0.0)
        for step in progress(range(steps), desc=desc):
            with torch.enable_grad():
                value = loss(torch.Generator().manual_seed(seed * 1_000_003 + step))
            if not math.isfinite(float(value.detach())):
                raise FloatingPointError(
                    f"{desc}: the loss of step {step + 1} is {float(value.detach())}; lower lr={lr}"
                )
            optimizer.zero_grad()
            value.backward()
            for name, mask in (keep or {}).items():
                if weights[name].grad is not None:
                    weights[name].grad *= mask
            optimizer.step()
    return student


def check(adapter: ModelAdapter, *, steps: int, lr: float, **counts: int) -> None:
    """`positive` and `full_precision`, before anything is drawn."""
    positive(steps=steps, lr=lr, **counts)
    full_precision(adapter)


def positive(**numbers: float) -> None:
    """Raises ValueError for a number that is not positive."""
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive")


def full_precision(adapter: ModelAdapter) -> None:
    """Raises ValueError for weights in half precision, in which small steps round away: a model that cannot learn would look
    as if it had nothing to forget."""
    if adapter.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the weights are {adapter.dtype}, in which small steps of training round away; load the model "
                         "with dtype=torch.float32")  # fmt: skip


def drawn(adapter: ModelAdapter, prompts: list[str], images: int, *, steps: int, seed: int, batch: int = 16) -> Tensor:
    """Latents of about ``images`` pictures that the model draws for ``prompts``, as many for each; number k is of prompt
    k modulo their number."""
    with torch.no_grad():
        cond = adapter.encode(prompts)[list(range(len(prompts))) * -(-images // len(prompts))]
    return adapter.latents(cond, steps=steps, seed=seed, batch=batch)


def pick(n: int, batch: int, generator: torch.Generator) -> Tensor:
    """Indices of a batch without repetition, of all n where there are fewer."""
    return torch.randperm(n, generator=generator)[:batch]


def noisy(adapter: ModelAdapter, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clean latents ``x0`` at a random level of noise: (x, sigma)."""
    sigma = adapter.level(float(torch.rand((), generator=generator) * 0.99 + 0.01))
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    return adapter.noised(x0, noise, sigma), sigma


def matched(forget: Sequence[str], other: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Two lists of prompts of one length; a single ``other`` serves all. Raises ValueError otherwise."""
    forget, other = check_prompts(forget), check_prompts(other)
    other = other * len(forget) if len(other) == 1 else other
    if len(other) != len(forget):
        raise ValueError(
            f"{name} has {len(other)} prompts for {len(forget)} to forget: give one for each, or one for all"
        )
    return forget, other
