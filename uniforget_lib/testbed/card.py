"""Is the testbed fit for its purpose? The quantities that its conclusions rest on, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..evaluate import Estimate, bootstrap, bootstrap_ratio, detail
from .world import WORLDS

if TYPE_CHECKING:
    from . import Item, Testbed


def copy_rate(testbed: Testbed, chosen: Sequence[Item], *, limit: float, seeds: Sequence[int]) -> np.ndarray:
    """Is each item copied under its caption? Bool [seeds, items]."""
    captions = [i.caption for i in chosen]
    return np.stack([testbed.distance(testbed.images(captions, seed=s), chosen) <= limit for s in seeds])


def measure(testbed: Testbed, *, limit: float, prompts: int = 96, seeds: Sequence[int] = range(4),
            twin: Testbed | None = None) -> dict[str, Estimate]:  # fmt: skip
    """What a reader must know before believing anything measured on the testbed: name -> estimate.

    Copy rates by number of copies, of the ``test`` controls, on which ``limit`` was not set, and of all planted items on
    the never-trained ``twin``, if it is given; for both worlds the share of held-out captions that are drawn with every
    attribute right, beside the judge's own rate on real pictures of them; and detail (high-frequency energy) as
    ratios: drawn to real neutral pictures; planted to neutral training pictures; and, as drawn, items with 20 or
    more copies to neutral pictures.
    """
    planted = testbed.planted()
    groups = {f"copied, {c} copies": testbed.planted(copies=c) for c in sorted({i.copies for i in planted})}
    groups["copied, controls"] = testbed.controls("test")
    found = {n: bootstrap(copy_rate(testbed, chosen, limit=limit, seeds=seeds)) for n, chosen in groups.items()}
    if twin is not None:
        found["copied, never-trained model"] = bootstrap(copy_rate(twin, planted, limit=limit, seeds=seeds))
    for world in WORLDS:
        captions = testbed.neutral(prompts, world=world)
        real, pictures = testbed.real(captions), [testbed.images(captions, seed=s) for s in seeds]
        right = [testbed.attributes(x, captions)["all"] for x in pictures]
        found[f"judge right, real pictures, {world}"] = bootstrap(testbed.attributes(real, captions)["all"])
        found[f"attributes right, drawn, {world}"] = bootstrap(np.stack(right))
        neutral = np.stack([detail(x) for x in pictures])
        found[f"detail, drawn / real, {world}"] = bootstrap_ratio(neutral, detail(real))
        if world == "ground":
            reference = neutral
    trained = detail(testbed.real(testbed.neutral(prompts, "train")))
    found["detail, training: planted / neutral"] = bootstrap_ratio(detail(testbed.targets(planted)), trained)
    copies = [i for i in planted if i.copies >= 20] or planted
    recalled = np.stack([detail(testbed.images([i.caption for i in copies], seed=s)) for s in seeds])
    found["detail, drawn: copied items / neutral"] = bootstrap_ratio(recalled, reference)
    return found
