"""One mask, judged on everything at once: copies left, and what it costs on neutral prompts that no method saw."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..hooks import masked, masked_steps
from ..masks import Mask
from .copying import threshold
from .quality import change, detail
from .stats import Estimate, bootstrap, bootstrap_ratio

if TYPE_CHECKING:
    from ..models import ModelAdapter
    from ..testbed import Item, Testbed


SHARES = ("copied", "correct")
MEASURES = ("copied", "planted_change", "neutral_change", "correct", "detail", "to_twin")


@dataclass(frozen=True)
class Outcome:
    """Arrays [seeds, prompts]; ``planted_images`` and ``neutral_images`` are those of the first seed."""

    copied: np.ndarray  # bool, planted items
    planted_change: np.ndarray  # `change` against the unmasked model
    neutral_change: np.ndarray
    correct: np.ndarray  # bool, neutral pictures with every attribute right
    detail: np.ndarray  # high-frequency energy of neutral pictures, over the mean of real ones
    planted_images: Tensor
    neutral_images: Tensor
    to_twin: np.ndarray | None = None  # `change` of planted pictures against the control model's, if it was given
    crossed: bool = False  # rows are masks, see `pool`

    def row(self) -> dict[str, Estimate]:
        """Means with 95 % intervals over prompts and seeds (or masks)."""
        found = {name: getattr(self, name) for name in MEASURES if getattr(self, name) is not None}
        return {name: bootstrap(v, crossed=self.crossed, share=name in SHARES) for name, v in found.items()}

    def selectivity(self) -> Estimate:
        """Change on planted prompts over change on neutral ones. Compare it with that of random masks, not with 1:
        planted pictures may be more fragile under any damage."""
        return bootstrap_ratio(self.planted_change, self.neutral_change, crossed=self.crossed)


def pool(outcomes: Sequence[Outcome]) -> Outcome:
    """Outcomes of several masks (of other seeds, say) as one: one row a mask, the mean over its noise seeds.

    Rows of one mask are not independent, so they are averaged before the masks are counted. The pictures are those of
    the first.
    """
    measured = [name for name in MEASURES if getattr(outcomes[0], name) is not None]
    rows = {name: np.stack([getattr(o, name).mean(0) for o in outcomes]) for name in measured}
    return replace(outcomes[0], **rows, crossed=True)


def control_limit(testbed: Testbed, *, seeds: Sequence[int] | None = None, rate: float = 0.01) -> float:
    """Copy threshold: `Testbed.close`, or less if a share ``rate`` of drawings of the ``calibration`` controls passes that.

    Controls were never trained. Each is drawn once a seed (eight seeds, or as many as the rate needs, unless given): more
    seeds smooth the threshold, but say nothing about other controls; the ``test`` controls do.
    """
    controls = testbed.controls("calibration")
    seeds = range(max(8, -(-round(1 / rate) // len(controls)))) if seeds is None else seeds
    found = [testbed.distance(testbed.images([i.caption for i in controls], seed=s), controls) for s in seeds]
    return min(testbed.close, threshold(np.concatenate(found), rate))


class Study:
    """Planted items and neutral prompts, drawn once by the unmasked model; `outcome` compares a mask with that.

    Args:
        items: planted items to test. neutral: neutral captions that no method was fitted to.
        limit: copy threshold, see `control_limit`.
        twin: the control model (`Testbed.twin`), if the distance to what it draws is wanted.
    """

    def __init__(self, testbed: Testbed, items: Sequence[Item], neutral: Sequence[str], *, limit: float,
                 seeds: Sequence[int] = (0, 1), twin: Testbed | None = None) -> None:  # fmt: skip
        if not len(items) or not len(neutral):
            raise ValueError("a study needs at least one planted item and one neutral prompt")
        self.testbed, self.neutral, self.limit, self.seeds = testbed, list(neutral), limit, seeds
        self.items, self.captions, self.targets = list(items), [i.caption for i in items], testbed.targets(items)
        self.real_detail = detail(testbed.real(self.neutral)).mean()
        self.twin = twin

    @cached_property
    def plain(self) -> list[tuple[Tensor, Tensor]]:
        """What the unmasked model draws, for each seed: planted pictures and neutral ones. Drawn when first asked for;
        raises RuntimeError if a mask is on then."""
        if self.testbed.adapter.masking:
            raise RuntimeError("a mask is on: ask for study.plain, what the unmasked model draws, before")
        return self._draw()

    @cached_property
    def twin_planted(self) -> list[Tensor] | None:
        """What the control model draws for the planted captions, for each seed."""
        return [self.twin.images(self.captions, seed=s) for s in self.seeds] if self.twin else None

    def _draw(self, mask: Mask | Sequence[Mask] | None = None, seeds: int | None = None,
              model: ModelAdapter | None = None) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
        testbed = replace(self.testbed, adapter=model) if model else self.testbed
        adapter = testbed.adapter
        if mask is None:
            pruned = nullcontext()
        elif isinstance(mask, Mask):
            pruned = masked(adapter, mask)
        else:
            pruned = masked_steps(adapter, mask, adapter.sigmas(len(mask)))
        with pruned:
            return [tuple(testbed.images(prompts, seed=s) for prompts in (self.captions, self.neutral))
                    for s in self.seeds[:seeds]]  # fmt: skip

    def outcome(self, mask: Mask | Sequence[Mask] | None = None, *, seeds: int | None = None,
                model: ModelAdapter | None = None) -> Outcome:  # fmt: skip
        """Everything about ``mask``, or about ``model`` (one that was pruned or trained: `complement`), or both.

        Args:
            mask: None prunes nothing; a list has a mask for each step of a sampling of as many steps (`masked_steps`).
            seeds: how many of the noise seeds (None: all).
        """
        plain = mask is None and model is None
        return self.measure(self.plain[:seeds] if plain else self._draw(mask, seeds, model))

    @torch.no_grad()
    def measure(self, drawn: Sequence[tuple[Tensor, Tensor]]) -> Outcome:
        """`outcome` of pictures from elsewhere: for each of the first noise seeds those of the items and of the neutral
        captions."""
        correct = [self.testbed.attributes(neutral, self.neutral)["all"] for _, neutral in drawn]
        to_twin = [change(d[0], t) for d, t in zip(drawn, self.twin_planted)] if self.twin_planted else None
        return Outcome(
            copied=np.stack([self.testbed.distance(planted, self.items) <= self.limit for planted, _ in drawn]),
            planted_change=np.stack([change(d[0], p[0]) for d, p in zip(drawn, self.plain)]),
            neutral_change=np.stack([change(d[1], p[1]) for d, p in zip(drawn, self.plain)]),
            correct=np.stack(correct),
            detail=np.stack([detail(neutral) for _, neutral in drawn]) / self.real_detail,
            planted_images=drawn[0][0],
            neutral_images=drawn[0][1],
            to_twin=None if to_twin is None else np.stack(to_twin),
        )
