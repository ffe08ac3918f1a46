"""Masks, scores, and the hard-concrete gate that UniForget learns (supplementary C of arXiv 2512.09687)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .files import load_tensors, save_tensors
from .sites import Site


def relaxed_sigmoid(logits: Tensor, gamma: float = 0.4, delta: float = 1.0) -> Tensor:
    """sigma_hat(M) = sigmoid(gamma M + delta): the regulariser's view of a logit (main objective)."""
    return torch.sigmoid(gamma * logits + delta)


def hard_concrete(
    logits: Tensor, u: Tensor, d: float = 0.5, alpha: float = 0.83, zeta: float = 1.1, gamma: float = -0.1
) -> Tensor:
    """Gate in [0, 1] for each logit and uniform draw ``u`` (supplementary C; alpha from EcoDiff).

    clip(sigmoid((log(u + d) - log(1 - u + d) + logit) / alpha) (zeta - gamma) + gamma, 0, 1)
    """
    s = torch.sigmoid((torch.log(u + d) - torch.log(1 - u + d) + logits) / alpha)
    return (s * (zeta - gamma) + gamma).clamp(0, 1)


def _load(what: str, path: str | Path, fingerprint: str | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Values and metadata of a file. Raises ValueError where it is for another model than ``fingerprint`` (None: any)."""
    values, metadata = load_tensors(path)
    found = metadata.get("fingerprint", "")
    if fingerprint is not None and found != fingerprint:
        raise ValueError(f"{path} is a {what} for model {found or 'unknown'!r}, not for {fingerprint!r}; "
                         "locate again on this model")  # fmt: skip
    return values, metadata


@dataclass
class Mask:
    """Site name -> [units] in [0, 1]; 1 keeps a unit, 0 removes it. ``fingerprint`` names the model it is for."""

    values: dict[str, Tensor]
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name, v in self.values.items():
            if v.ndim != 1 or not bool(((v >= 0) & (v <= 1)).all()):
                raise ValueError(f"mask of site {name!r}: needs one value in [0, 1] a unit, got shape {list(v.shape)}")

    def __repr__(self) -> str:
        units = sum(v.numel() for v in self.values.values())
        off = f"{self.sparsity():.3f} off, " if units else ""
        return f"Mask({len(self.values)} sites, {units} units, {off}for {self.fingerprint!r})"

    @classmethod
    def ones(cls, sites: list[Site], fingerprint: str = "") -> Mask:
        """The mask that removes nothing."""
        return cls({s.name: torch.ones(s.units) for s in sites}, fingerprint)

    def sparsity(self, sites: Sequence[Site] | None = None) -> float:
        """Share of removed units, over all sites or over those of ``sites`` (``adapter.sites(["ffn"])``, say)."""
        names = self.values.keys() if sites is None else {s.name for s in sites}
        chosen = [v for name, v in self.values.items() if name in names]
        if not chosen:
            raise ValueError(f"this mask has none of the sites {sorted(names)[:4]} ...")
        return float(sum((v == 0).sum() for v in chosen) / sum(v.numel() for v in chosen))

    def overlap(self, other: Mask) -> float:
        """Units that both remove over units that either removes (IoU), in [0, 1]."""
        x, y = (torch.cat([m.values[name] == 0 for name in sorted(self.values)]) for m in (self, other))
        return float((x & y).sum() / (x | y).sum().clamp(min=1))

    def overlap_by_chance(self, other: Mask) -> float:
        """`overlap` of two random masks that remove as many units at every site as these two, on average."""
        both = either = 0.0
        for name, x in self.values.items():
            p, q = float((x == 0).float().mean()), float((other.values[name] == 0).float().mean())
            both, either = both + p * q * len(x), either + (p + q - p * q) * len(x)
        return both / max(either, 1e-12)

    def _combine(self, other: Mask, op) -> Mask:
        if self.values.keys() != other.values.keys() or self.fingerprint != other.fingerprint:
            raise ValueError("masks of different models or sites cannot be combined")
        return Mask({n: op(v, other.values[n]) for n, v in self.values.items()}, self.fingerprint)

    def __and__(self, other: Mask) -> Mask:
        """Keep what both keep."""
        return self._combine(other, torch.minimum)

    def __or__(self, other: Mask) -> Mask:
        """Keep what either keeps."""
        return self._combine(other, torch.maximum)

    def save(self, path: str | Path, **metadata: str) -> None:
        """Save as safetensors with the model's fingerprint in the metadata."""
        save_tensors(path, self.values, {"fingerprint": self.fingerprint, **metadata})

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> Mask:
        """Load; with ``fingerprint`` (an adapter's) given, raises ValueError for a mask of another model."""
        values, metadata = _load("mask", path, fingerprint)
        if "cost" in metadata:
            raise ValueError(f"{path} holds a score, not a mask: Score.load(...).mask(...)")
        return cls(values, metadata.get("fingerprint", ""))


@dataclass
class Score:
    """Site name -> [units]; high = implicated, so removed first. ``cost``: denoiser forwards spent, in samples."""

    values: dict[str, Tensor]
    method: str
    fingerprint: str = ""
    cost: float = 0.0
    history: list[dict] = field(default_factory=list)

    def __repr__(self) -> str:
        units = sum(v.numel() for v in self.values.values())
        return f"Score({self.method}, {len(self.values)} sites, {units} units, for {self.fingerprint!r})"

    def save(self, path: str | Path, **metadata: str) -> None:
        """Save as safetensors; the training's ``history`` is not kept. `load` reads it back."""
        sites = "\n".join(self.values)  # their order decides among equal scores, see `mask`; the file sorts them
        own = {"fingerprint": self.fingerprint, "method": self.method, "cost": repr(float(self.cost)), "sites": sites}
        save_tensors(path, self.values, {**metadata, **own})

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> Score:
        """Load; with ``fingerprint`` (an adapter's) given, raises ValueError for a score of another model."""
        values, metadata = _load("score", path, fingerprint)
        if "cost" not in metadata:
            raise ValueError(f"{path} was not written by Score.save (masks are read by Mask.load)")
        values = {name: values[name] for name in metadata["sites"].split("\n")}
        return cls(values, metadata["method"], metadata["fingerprint"], float(metadata["cost"]))

    def mask(self, ratio: float | None = None, threshold: float | None = None, scope: str = "global") -> Mask:
        """Remove the highest scores: a share ``ratio`` in [0, 1] of all units (``scope="global"``) or of each site's
        (``"site"``), or every unit whose score exceeds ``threshold``. Give exactly one of the two.

        Warns when a ratio ends among units of one and the same score: which of them go is then decided by position.
        """
        if (ratio is None) == (threshold is None):
            raise ValueError("give either ratio or threshold")
        if threshold is not None:
            return Mask({n: (v <= threshold).float() for n, v in self.values.items()}, self.fingerprint)
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio={ratio}: needs a share in [0, 1]")
        if scope == "site":
            return self._remove({n: round(ratio * v.numel()) for n, v in self.values.items()})
        if scope != "global":
            raise ValueError(f"scope={scope!r}: use 'global' or 'site'")
        joined = torch.cat(list(self.values.values()))
        flat, count = torch.ones(joined.numel()), round(ratio * joined.numel())
        order = joined.argsort(descending=True, stable=True)
        flat[order[:count]] = 0
        if 0 < count < len(order) and joined[order[count - 1]] == joined[order[count]]:
            last = float(joined[order[count]])
            warnings.warn(f"{self.method}: ratio={ratio} ends among {int((joined == last).sum())} units of score "
                          f"{last:.3g}; at most {float((joined > last).float().mean()):.3g} of all units are "
                          "told apart from them", stacklevel=2)  # fmt: skip
        sizes = [v.numel() for v in self.values.values()]
        return Mask(dict(zip(self.values, flat.split(sizes))), self.fingerprint)

    def match(self, mask: Mask) -> Mask:
        """As many units removed in every site as ``mask`` removes there: the control at equal sparsity."""
        if self.values.keys() != mask.values.keys():
            raise ValueError(f"{self.method}: the mask to match has other sites")
        return self._remove({n: int((v == 0).sum()) for n, v in mask.values.items()})

    def _remove(self, counts: dict[str, int]) -> Mask:
        values = {}
        for name, v in self.values.items():
            keep = torch.ones(v.numel())
            keep[v.argsort(descending=True, stable=True)[: counts[name]]] = 0
            values[name] = keep
        return Mask(values, self.fingerprint)
