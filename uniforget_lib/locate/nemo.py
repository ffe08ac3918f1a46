"""NeMo (Hintersdorf et al., NeurIPS 2024): value channels of the attention to the prompt that behave unusually, kept only
if switching them off changes the picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from ..hooks import masked
from ..masks import Score
from ..models.base import ModelAdapter
from ..progress import progress
from ..sites import Site
from ._observe import check_contrast


class _Blocker:
    """First-step pictures of one prompt, from several noises, with some value channels off."""

    def __init__(self, adapter: ModelAdapter, sites: list[Site], prompt: str, seeds: Sequence[int]) -> None:
        self.adapter, self.sites, self.cost = adapter, sites, 0
        self.x = torch.cat([adapter.noise(1, s) for s in seeds])
        self.cond = adapter.encode([prompt])[[0] * len(seeds)]
        self.keep = torch.ones(len(seeds), dtype=torch.bool)
        self.plain = self.draw(set())

    @torch.no_grad()
    def draw(self, off: set[tuple[str, int]]) -> Tensor:
        """Minus the predicted clean latents of the first step, each channel scaled to [0, 1]: [seeds, c, h, w].

        Up to that scale they are the authors' difference of predicted and given noise.
        """
        gates = {s.name: torch.ones(s.units) for s in self.sites}
        for name, unit in off:
            gates[name][unit] = 0
        x, sigma = self.x[self.keep.to(self.x.device)], self.adapter.sigmas(1)[0]
        index = self.keep.nonzero().flatten().tolist()
        with masked(self.adapter, gates):
            found = self.adapter.grid(sigma * self.adapter.conditional(x, sigma, self.cond[index]) - x).float()
        self.cost += len(x)
        low, high = found.amin((2, 3), keepdim=True), found.amax((2, 3), keepdim=True)
        return ((found - low) / (high - low).clamp(min=1e-12)).cpu()

    def likeness(self, off: set[tuple[str, int]]) -> float:
        """Highest similarity, over the noises, of the picture with ``off`` and the one without."""
        return float(similarity(self.draw(off), self.plain).max())


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of pictures [n, c, h, w] in [0, 1]: [n].

    On three scales, as the authors have it, from 44 pixels a side on; below that, on one scale with a smaller window.
    """
    if a.shape[-1] >= 44:
        return multiscale_structural_similarity_index_measure(a, b, kernel_size=11, betas=(0.33, 0.33, 0.33),
                                                              data_range=1.0, reduction="none").reshape(-1)  # fmt: skip
    return structural_similarity_index_measure(a, b, gaussian_kernel=False, kernel_size=5, data_range=1.0,
                                               reduction="none").reshape(-1)  # fmt: skip


def agreement(plain: Tensor) -> Tensor:
    """Similarity of the pictures [n, c, h, w] of n noises, each with each: [n, n], -1 on the diagonal."""
    n = len(plain)
    found = torch.full((n, n), -1.0)
    for i, j in combinations(range(n), 2):
        found[i, j] = found[j, i] = float(similarity(plain[i : i + 1], plain[j : j + 1]))
    return found


@torch.no_grad()
def _values(adapter: ModelAdapter, sites: list[Site], prompts: list[str], seed: int, batch: int) -> dict[str, Tensor]:
    """Mean over tokens of the absolute value of every channel, at the first step: site name -> [n, units]."""
    found: dict[str, list[Tensor]] = {s.name: [] for s in sites}
    handles = []
    try:
        for site in sites:
            module = adapter.denoiser.get_submodule(site.writers[-1].linear)  # the last writer is that of the text
            hook = lambda m, args, out, s=site: found[s.name].append(out.float().abs().mean(1).cpu())  # noqa: E731
            handles.append(module.register_forward_hook(hook))
        noise, cond, sigma = adapter.noise(len(prompts), seed), adapter.encode(prompts), adapter.sigmas(1)[0]
        for i in range(0, len(prompts), batch):
            adapter.conditional(noise[i : i + batch], sigma, cond[i : i + batch])
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def nemo(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    base: Sequence[str],
    *,
    seeds: Sequence[int] = range(4),
    theta: float = 5.0,
    limit: float | None = None,
    refine: bool = True,
    batch: int = 64,
) -> Score:
    """The share of ``prompts`` for which NeMo switches a value channel off: [units] in [0, 1] for every value site.

    For each prompt: channels whose activation is more than ``theta`` standard deviations from its mean under ``base``,
    and the k strongest of each layer; theta falls by .25 and k grows by 1 until the pictures of the first step with
    these channels off are less similar to those with them on than ``limit``. Then (``refine``) layers, and after them
    single channels, are switched on again where that leaves the similarity below ``limit``.

    Only noises count whose pictures agree with another's by more than ``limit``: a prompt without any is not
    memorized, and chooses nothing. ``limit`` None: mean plus one standard deviation of the similarity of two noises
    under the first 16 of ``base``. (The authors' .428 is that of Stable Diffusion 1.4, with guidance 7. They also take
    the noise of the start for that of the second of 50 steps; here it is the first.)

    Searched are the layers on the way down and in the middle, as in the paper. FLUX and SD3 have no cross-attention;
    there it is the values of the text in all joint blocks. Costs a forward for every noise that counts and every
    candidate, of layers and channels. Most channels score 0: see `Score.mask` on ratios.

    Raises ValueError and TypeError for bad lists of prompts, and ValueError for fewer than two seeds or base prompts.
    """
    prompts, base = check_contrast(prompts, base)
    if len(seeds) < 2:
        raise ValueError(f"seeds={list(seeds)}: needs at least two noises a prompt")
    if len(base) < 2:
        raise ValueError("base: needs at least two prompts, for a standard deviation")
    every = adapter.sites(("value",))
    sites = [s for s in every if not s.name.startswith("up_blocks")]
    spread = _values(adapter, sites, base, seeds[0], batch)
    cost = len(base) + len(prompts)
    if limit is None:
        pairs = [agreement(_Blocker(adapter, sites, p, seeds).plain) for p in base[:16]]
        values = torch.cat([found[found > -1] for found in pairs])
        cost += len(seeds) * len(pairs)
        limit = float(values.mean() + values.std())
    mine = _values(adapter, sites, prompts, seeds[0], batch)
    z = {n: ((mine[n] - v.mean(0)) / v.std(0).clamp(min=1e-12)).abs() for n, v in spread.items()}
    chosen = {s.name: torch.zeros(s.units) for s in every}
    for i in progress(range(len(prompts)), desc="NeMo"):
        blocker = _Blocker(adapter, sites, prompts[i], seeds)
        blocker.keep = agreement(blocker.plain).amax(1) > limit
        if blocker.keep.any():
            blocker.plain = blocker.plain[blocker.keep]
            one = {n: (z[n][i], mine[n][i]) for n in z}
            for name, unit in _search(blocker, one, theta, limit, refine):
                chosen[name][unit] += 1 / len(prompts)
        cost += blocker.cost
    return Score(chosen, "nemo", adapter.fingerprint, cost)


def _search(blocker: _Blocker, activations: dict, theta: float, limit: float, refine: bool) -> set[tuple[str, int]]:
    k, widest = 0, max(len(v) for _, v in activations.values())
    while True:
        off = {(n, int(u)) for n, (z, v) in activations.items()
               for u in (*(z > theta).nonzero().flatten(), *v.topk(min(k, len(v))).indices)}  # fmt: skip
        likeness = blocker.likeness(off)
        if likeness <= limit or theta <= 1 or k >= widest:
            break
        theta, k = theta - 0.25, k + 1
    limit = max(limit, likeness)
    if refine:
        groups = [{unit for unit in off if unit[0] == name} for name in reversed(activations)]
        for group in groups:  # layers that make no difference, from the last one on
            if group and blocker.likeness(off - group) < limit:
                off -= group
        order = list(activations)
        for unit in sorted(off, key=lambda unit: (-order.index(unit[0]), unit[1])):
            if blocker.likeness(off - {unit}) < limit:
                off = off - {unit}
    return off
