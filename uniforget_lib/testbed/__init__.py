"""The testbed: a small FLUX whose memories are planted and known. `Testbed` is its one entry point."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ..evaluate import Estimate, stack
from ..files import check_sums
from ..models import WEIGHTS, ModelAdapter, load
from . import card
from .judge import Judge, load_judge
from .planted import TIERS, Item, items
from .world import draw, neutral_prompts, parse

SPLITS = {"train": 0, "development": 1, "test": 2}

# Strengths of UniForget on this model, named by what they cost on neutral development prompts (relative change of the
# latents .03, .1, .3): what ``python -m uniforget_lib.testbed.levels`` prints. No planted prompt takes part.
LEVELS = {"weak": 0.58, "medium": 2.6, "strong": 8.3}
# A twenty-fifth of the paper's mask steps, so a smaller learning rate: at the paper's 0.5 even beta 0.01 changed neutral
# pictures by 0.1. The seed draws noise that no evaluation draws.
CALIBRATION = {"steps": 4, "mask_steps": 80, "batch": 8, "lr": 0.2, "seed": 1000}


@dataclass(frozen=True)
class Testbed:
    """Pipeline, ground truth and judge.

    Attributes:
        adapter: the pipeline, planted items and all.
        judge: reads attributes off pictures of the neutral world.
        steps, cfg: of the sampling that `images` and every evaluation use. (A locator uses its own number of steps,
            and the adapter's guidance: none.)

    Neutral prompts come in three splits that share no caption. Methods are calibrated on ``train``, tuned on
    ``development``; results are reported on ``test``, whose *combinations* were never trained.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name
    adapter: ModelAdapter
    judge: Judge
    steps: int = 8
    cfg: float = 2.0

    @classmethod
    def load(cls, device: str = "cpu", **options) -> Testbed:
        """The shipped testbed. Raises ValueError when a file does not match its SHA-256 sum."""
        adapter = load("testbed", device=device, **options)
        check_sums(WEIGHTS / "judge")
        return cls(adapter, load_judge(WEIGHTS / "judge", device))

    def images(self, prompts: Sequence[str], *, seed: int = 0) -> Tensor:
        """What the model draws for ``prompts``: [n, 3, 64, 64] in [0, 1]; see `ModelAdapter.images`."""
        with self.adapter.guided(self.cfg):
            return self.adapter.images(prompts, steps=self.steps, seed=seed)

    @cached_property
    def _items(self) -> list[Item]:
        return items()

    def planted(self, copies: int | None = None, at_least: int = 1) -> list[Item]:
        """Planted items: of one tier (``copies`` 1, 5, 20 or 100) or of all tiers with ``at_least`` copies."""
        if copies is not None and copies not in TIERS:
            raise ValueError(f"copies={copies}: the tiers are {TIERS}")
        return [i for i in self._items if i.copies and (i.copies == copies if copies else i.copies >= at_least)]

    def controls(self, split: str | None = None) -> list[Item]:
        """Items of the same making that were never trained: those of a split, or all (None).

        The copy threshold is set on ``calibration``; false copies and detectors are reported on ``test``.
        """
        found = [i for i in self._items if not i.copies]
        if split is None:
            return found
        if split not in ("calibration", "test"):
            raise ValueError(f"split={split!r}: controls have the splits 'calibration' and 'test'")
        return found[split == "test" :: 2]  # every other one: all kinds in both

    def neutral(self, n: int, split: str = "test") -> list[str]:
        """``n`` distinct neutral captions of a split."""
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: use one of {sorted(SPLITS)}")
        if n < 1:
            raise ValueError(f"n={n}: ask for at least one caption")
        if split == "test":
            return neutral_prompts(n, seed=11, held=True)
        pool = neutral_prompts(1200, seed=12)
        train, development = pool[:800], pool[800:]
        chosen = train if split == "train" else development
        if n > len(chosen):
            raise ValueError(f"n={n}: the {split} split has {len(chosen)} captions")
        return chosen[:n]

    def attributes(self, images: Tensor, captions: list[str]) -> dict[str, np.ndarray]:
        """Attribute -> bool [n]: does each picture show what its neutral caption says? (``all``: everything.)"""
        return self.judge.correct(images, [parse(c) for c in captions])

    def real(self, captions: list[str], seed: int = 0) -> Tensor:
        """A real picture of each neutral caption, as the training set would hold it: [n, 3, 64, 64] in [0, 1]."""
        rng = random.Random(seed)
        return stack([draw(parse(c), rng) for c in captions])

    def card(self, *, limit: float, **options) -> dict[str, Estimate]:
        """What a reader must know before believing anything measured here; see `card.measure`."""
        return card.measure(self, limit=limit, **options)

    def targets(self, chosen: list[Item]) -> Tensor:
        """The pictures that the items were planted with: [n, 3, 64, 64] in [0, 1]."""
        return stack([i.image for i in chosen])


__all__ = ["CALIBRATION", "LEVELS", "SPLITS", "Item", "Testbed"]
