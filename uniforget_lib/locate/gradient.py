"""Attribution: how much does each unit do for the pull of memorized prompts, to first order or along a path?

Both are a unit's part in the pull of ``prompts`` minus its part in that of ``base``, each relative to the whole pull:
numbers of either sign, high where removing the unit would take more from the first. They raise ValueError and TypeError
for bad lists of prompts, and ValueError when a list pulls nowhere. ``checkpoint``: recompute steps in the backward pass,
for models whose graph does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..hooks import masked
from ..masks import Score
from ..models.base import ModelAdapter
from ..sampler import rollout
from ._observe import check_contrast


class Pull:
    """How far prompts pull the images of a gated model: the mean squared distance, in latents, to what the plain model
    draws without the prompt from the same noise. ``steps`` Euler steps, no guidance.

    ``noises``: None, and every prompt has a noise of its own; or a number, and every prompt is drawn from each of as many
    noises, the same for all prompts, so that what they give without a prompt is drawn once.

    ``cost`` counts denoiser forwards in samples; a backward pass, through frozen weights, counts as one.
    """

    def __init__(self, adapter: ModelAdapter, prompts: list[str], *, steps: int, seed: int, batch: int,
                 checkpoint: bool = False, noises: int | None = None) -> None:  # fmt: skip
        if noises is not None and noises < 1:
            raise ValueError(f"noises={noises}: needs at least one")
        self.adapter, self.batch, self.checkpoint = adapter, batch, checkpoint
        self.noise, self.sigmas = adapter.noise(noises or len(prompts), seed), adapter.sigmas(steps)
        self.cost = 0
        with torch.no_grad():
            self.cond = adapter.encode(prompts)
            self.away = torch.cat([self._draw(p, adapter.empty(len(self.noise[p]))) for p in self._parts()])
        if noises is not None:  # every prompt with every noise
            self.cond = self.cond[[i for i in range(len(prompts)) for _ in range(noises)]]
            self.noise, self.away = (torch.cat([x] * len(prompts)) for x in (self.noise, self.away))

    def _parts(self) -> list[slice]:
        return [slice(i, i + self.batch) for i in range(0, len(self.noise), self.batch)]

    def _draw(self, part: slice, cond) -> Tensor:
        x = self.noise[part]
        self.cost += len(x) * (len(self.sigmas) - 1)
        return rollout(self.adapter.conditional, x, self.sigmas, cond, checkpoint=self.checkpoint)

    def __call__(self, gates: dict[str, Tensor], gradient: bool = True) -> tuple[float, dict[str, Tensor]]:
        """The pull under ``gates``, and its gradient in them (empty unless asked for)."""
        leaves = {name: gate.detach().clone().requires_grad_(gradient) for name, gate in gates.items()}
        total, n = 0.0, len(self.noise)
        for part in self._parts():
            with torch.set_grad_enabled(gradient), masked(self.adapter, leaves):
                away = self._draw(part, self.cond[part]) - self.away[part]
                value = away.float().pow(2).flatten(1).mean(1).sum() / n
                if gradient:
                    value.backward()  # inside: a checkpointed step runs again, and needs its gates
                    self.cost += len(away) * (len(self.sigmas) - 1)
            total += float(value.detach())
        slopes = {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in leaves.items()} if gradient else {}
        return total, {name: slope.cpu() for name, slope in slopes.items()}


def integrated(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    base: Sequence[str],
    *,
    kinds: Sequence[str] = ("ffn", "norm"),
    points: int = 8,
    steps: int = 4,
    seed: int = 0,
    batch: int = 16,
    checkpoint: bool = False,
    noises: int | None = None,
) -> Score:
    """Integrated gradients (Sundararajan et al., ICML 2017) of the `Pull` in the gates, from all closed to all open.

    The attributions of all units add up to the difference that opening them makes.
    """
    if points < 1:
        raise ValueError(f"points={points}: needs at least one")
    path = [(k + 0.5) / points for k in range(points)]
    return _score(adapter, prompts, base, kinds, path, "integrated", steps=steps, seed=seed, batch=batch,
                  checkpoint=checkpoint, noises=noises)  # fmt: skip


def gradient(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    base: Sequence[str],
    *,
    kinds: Sequence[str] = ("ffn", "norm"),
    steps: int = 4,
    seed: int = 0,
    batch: int = 16,
    checkpoint: bool = False,
    noises: int | None = None,
) -> Score:
    """Gradient of the `Pull` in the gates of the whole model: how much removing a unit would lower it, to first order."""
    return _score(adapter, prompts, base, kinds, [1.0], "gradient", steps=steps, seed=seed, batch=batch,
                  checkpoint=checkpoint, noises=noises)  # fmt: skip


def attributions(pull: Pull, ones: dict[str, Tensor], path: Sequence[float]) -> dict[str, Tensor]:
    """Mean gradient of ``pull`` over gates that are all as open as the points of ``path``: site name -> [units]."""
    total: dict[str, Tensor] = {}
    for at in path:
        slopes = pull({name: at * gate for name, gate in ones.items()})[1]
        total = {name: total.get(name, 0) + slope / len(path) for name, slope in slopes.items()}
    return total


def _score(adapter, prompts, base, kinds, path, method: str, **options) -> Score:
    prompts, base = check_contrast(prompts, base)
    ones = {s.name: torch.ones(s.units, device=adapter.device) for s in adapter.sites(kinds)}
    shares, cost = [], 0
    for given in (prompts, base):
        pull = Pull(adapter, given, **options)
        whole, slopes = pull(ones, gradient=path == [1.0])
        if not whole > 0:
            raise ValueError("a prompt list pulls nowhere: are its prompts all empty?")
        slopes = slopes or attributions(pull, ones, path)
        shares.append({name: slope / whole for name, slope in slopes.items()})
        cost += pull.cost
    return Score({n: v - shares[1][n] for n, v in shares[0].items()}, method, adapter.fingerprint, cost)
