"""What all experiments share: a model, its twin, the prompts of every split, and one way to judge a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ..evaluate import Estimate, Outcome, Study, bootstrap, control_limit, frechet, with_interval
from ..hooks import masked
from ..locate import UniForget, uniforget
from ..masks import Mask, Score
from ..models import ModelAdapter
from ..sites import KINDS
from ..testbed import CALIBRATION, LEVELS, Testbed


@dataclass
class Lab:
    """A testbed ``bed``, its never-trained ``twin``, and how much is drawn.

    Masks are trained on the train split; contrasts know the planted items of the development split; everything is judged
    on the test items (20 copies or more) and on held-out captions of both worlds.
    """

    bed: Testbed
    twin: Testbed
    seeds: Sequence[int] = (0, 1)
    neutral: int = 64  # held-out captions a world
    train: int = 256  # neutral prompts that masks are trained on
    config: UniForget = UniForget(**CALIBRATION)
    scores: Path | None = None  # folder for scores that took long, see `pruning.long`
    known: dict = field(default_factory=dict)

    @classmethod
    def load(cls, family: str, device: str = "cpu", **options) -> Lab:
        """The shipped testbed of a family."""
        bed = Testbed.load(family, device=device)
        return cls(bed, bed.twin(), **options)

    def once(self, key, compute: Callable):
        """What ``compute`` returned the first time that this key was asked for."""
        if key not in self.known:
            self.known[key] = compute()
        return self.known[key]

    @cached_property
    def limit(self) -> float:
        return control_limit(self.bed, seeds=range(3))

    @cached_property
    def study(self) -> Study:
        """Test items and captions of the world that masks are trained on."""
        return self._study(self.bed.planted(at_least=20, split="test"), "ground")

    @cached_property
    def elsewhere(self) -> Study:
        """Controls, which were never trained, and captions of the second world, which no mask is trained on."""
        return self._study(self.bed.controls("test"), "paper")

    def _study(self, items, world: str) -> Study:
        captions = self.bed.neutral(self.neutral, world=world)
        return Study(self.bed, items, captions, limit=self.limit, seeds=self.seeds, twin=self.twin)

    @cached_property
    def reference(self) -> torch.Tensor:
        """Features of real pictures of neutral training captions, for the Fréchet distance."""
        return self.bed.judge.embed(self.bed.real(self.bed.neutral(300, "train"), seed=6))

    def captions(self, split: str = "development") -> list[str]:
        """Of planted items with 20 copies or more."""
        return [i.caption for i in self.bed.planted(at_least=20, split=split)]

    def prompts(self, world: str = "ground") -> list[str]:
        """Neutral prompts that masks are trained on."""
        return self.bed.neutral(self.train, "train", world)

    def both(self) -> list[str]:
        """As many as `prompts` gives, half of them of each world."""
        return self.prompts()[::2] + self.prompts("paper")[::2]

    def draw(self, model: ModelAdapter, captions: Sequence[str], seed: int = 0) -> torch.Tensor:
        """What ``model`` draws with the testbed's own guidance and steps: [n, 3, 64, 64] in [0, 1]."""
        return replace(self.bed, adapter=model).images(captions, seed=seed)

    def having(self, kinds: Sequence[str]) -> tuple[str, ...]:
        """Those of ``kinds`` that this model has: a U-Net has no adaptive norms."""
        have = {site.kind for site in self.bed.adapter.sites(KINDS)}
        return tuple(kind for kind in kinds if kind in have)

    def beta(self, level: str) -> float:
        """The strength of a level on this family."""
        return LEVELS[self.bed.family][level]

    def score(self, prompts: Sequence[str] | None = None, level: str = "medium", **changes) -> Score:
        """UniForget's score on ``prompts``, trained once for each configuration."""
        prompts = self.prompts() if prompts is None else list(prompts)
        config = replace(self.config, **{"beta": self.beta(level), **changes})
        return self.once((tuple(prompts), config), lambda: uniforget(self.bed.adapter, prompts, config))

    def mask(self, prompts: Sequence[str] | None = None, level: str = "medium", **changes) -> Mask:
        """The mask of `score`, cut where EcoDiff cuts it."""
        return self.score(prompts, level, **changes).mask(threshold=0)

    def judge(self, mask: Mask | None, seeds: int | None = None) -> dict[str, Estimate | float]:
        """Everything about a mask (None: the unpruned model), each with its interval, on prompts that no method saw."""
        outcome = self.study.outcome(mask, seeds=seeds)
        return {"off": 0.0 if mask is None else round(mask.sparsity(), 4), **self.row(outcome), **self.far(mask)}

    def row(self, outcome: Outcome) -> dict[str, Estimate]:
        """Of the study of test items and *ground* captions."""
        features = self.bed.judge.embed(outcome.neutral_images)
        found = outcome.row() | {"frechet": with_interval(frechet, features, self.reference)}
        return found | ({"selectivity": outcome.selectivity()} if outcome.neutral_change.any() else {})

    def far(self, mask: Mask | None) -> dict[str, Estimate]:
        """What becomes of the second world and of controls, both unknown to whoever made the mask (one noise seed)."""
        outcome = self.elsewhere.outcome(mask, seeds=1)
        return {"paper_correct": bootstrap(outcome.correct), "paper_change": bootstrap(outcome.neutral_change, share=False),
                "control_change": bootstrap(outcome.planted_change, share=False)}  # fmt: skip

    def changes(self, mask: Mask, captions: Sequence[str]) -> np.ndarray:
        """Squared change of each caption's picture over the variance of the neutral pictures: [seeds, captions]."""
        scale, rows = float(self.study.plain[0][1].var()), []
        for seed in self.seeds:
            plain = self.bed.images(captions, seed=seed)
            with masked(self.bed.adapter, mask):
                changed = self.bed.images(captions, seed=seed)
            rows.append((changed - plain).pow(2).flatten(1).mean(1).cpu().numpy() / scale)
        return np.stack(rows)
