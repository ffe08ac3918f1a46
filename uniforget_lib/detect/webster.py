"""One-step extraction (Webster, 2023): under a memorized prompt one step suffices for a sharp picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ..sampler import euler_step
from ._walk import check_steps, norms

COLOURS = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 3.0]])  # 1, 2, 1 over the colours, reflected


def _one_step(adapter: ModelAdapter, prompts: Sequence[str], seed: int, batch: int):
    """(part, noise, latents after one step with the adapter's own guidance), batch by batch."""
    cond, noise, (sigma, zero) = adapter.encode(prompts), adapter.noise(len(prompts), seed), adapter.sigmas(1)
    for i in range(0, len(prompts), batch):
        x = noise[i : i + batch]
        yield slice(i, i + batch), x, euler_step(adapter.predict, x, sigma, zero, cond[i : i + batch])


@torch.no_grad()
def webster(
    adapter: ModelAdapter, prompts: Sequence[str], *, seeds: Sequence[int] = (0,), batch: int = 64
) -> Tensor:  # fmt: skip
    """White box: mean squared difference of the latents after one step and the noise they came from, mean over seeds.

    That is sigma^2 times the mean square of the slope dx/dsigma, guidance included: the authors draw with 7.5. Costs one
    denoiser forward a seed, or two with guidance.

    Returns:
        risk [n], higher = more likely memorized.
    """
    prompts = check_prompts(prompts)
    check_steps(1, 1, seeds)
    risk = torch.zeros(len(prompts))
    for seed in seeds:
        for part, noise, latents in _one_step(adapter, prompts, seed, batch):
            risk[part] += norms(latents - noise) ** 2 / (noise[0].numel() * len(seeds))
    return risk


def edges(images: Tensor) -> Tensor:
    """Strength of the edges of images [n, 3, H, W] in [0, 1]: [n, H, W].

    As the authors have it: Sobel's operator as scipy applies it to a colour picture (it smooths over the colours, too),
    summed over the colours. A step from black to white gives 48.
    """
    kernel = torch.tensor([[1.0, 2.0, 1.0]])
    across = (kernel.T @ torch.tensor([[-1.0, 0.0, 1.0]])).expand(3, 1, 3, 3).to(images)
    x = F.pad(torch.einsum("kc,nchw->nkhw", COLOURS.to(images), images), (1, 1, 1, 1), mode="replicate")
    return torch.hypot(F.conv2d(x, across, groups=3), F.conv2d(x, across.transpose(2, 3), groups=3)).sum(1)


@torch.no_grad()
def edge_maps(adapter: ModelAdapter, prompts: Sequence[str], *, seeds: Sequence[int] = range(4), limit: float = 1.5,
              batch: int = 64) -> Tensor:  # fmt: skip
    """Share of seeds whose one-step picture has an edge at a pixel, `edges` above ``limit``: [n, H, W] in [0, 1].

    Pictures of more than 256 pixels are brought to 256 first, as the authors do.
    """
    prompts = check_prompts(prompts)
    check_steps(1, 1, seeds)
    found: list[Tensor] = []
    for seed in seeds:
        drawn = []
        for _, _, latents in _one_step(adapter, prompts, seed, batch):
            images = adapter.decode(latents).float()
            if images.shape[-1] > 256:
                images = F.interpolate(images, size=(256, 256), mode="bicubic", antialias=True).clamp(0, 1)
            drawn.append(edges(images) > limit)
        found.append(torch.cat(drawn).float().cpu())
    return torch.stack(found).mean(0)


def webster_edges(adapter: ModelAdapter, prompts: Sequence[str], *, seeds: Sequence[int] = range(4), limit: float = 1.5,
                  batch: int = 64) -> Tensor:  # fmt: skip
    """Black box: the share of pixels that are an edge for more than half of the seeds, after one step.

    What is not memorized is a blur after one step, and its edges move with the noise. ``limit`` is the authors', for
    pictures of 256 pixels. Costs one denoiser forward (two with guidance) and one decoding a seed.

    Returns:
        risk [n] in [0, 1], higher = more likely memorized.
    """
    maps = edge_maps(adapter, prompts, seeds=seeds, limit=limit, batch=batch)
    return (maps > 0.5).float().mean((1, 2))
