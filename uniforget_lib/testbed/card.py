"""Is the testbed fit for its purpose? The quantities that its conclusions rest on, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..evaluate import Estimate, bootstrap, bootstrap_ratio, detail
from .world import WORLDS

if TYPE_CHECKING:
    from . import Item, Testbed


def drawn(testbed: Testbed, captions: list[str], seeds: Sequence[int]) -> Tensor:
    """Pictures of each caption from each seed: [seeds, captions, 3, 64, 64] in [0, 1]."""
    return torch.stack([testbed.images(captions, seed=s) for s in seeds])


def copy_rate(testbed: Testbed, chosen: Sequence[Item], *, limit: float, seeds: Sequence[int]) -> np.ndarray:
    """Is each item copied under its caption? Bool [seeds, items]."""
    return _copied(testbed, drawn(testbed, [i.caption for i in chosen], seeds), chosen, limit)


def gallery(testbed: Testbed, *, prompts: int = 96, seeds: Sequence[int] = range(4),
            only: Sequence[str] = ()) -> dict[str, Tensor]:  # fmt: skip
    """What a model draws, once for all that is measured on it: group -> pictures [seeds, n, 3, 64, 64] in [0, 1].

    The groups are ``"planted"`` and ``"controls"`` (``Testbed.planted()`` and ``Testbed.controls("test")``, in their order), and
    for each world, under its name, ``prompts`` held-out captions (``Testbed.neutral(prompts, world=...)``); all of
    them, or ``only`` some.
    """
    groups = {"planted": testbed.planted(), "controls": testbed.controls("test")}
    captions = {name: [i.caption for i in chosen] for name, chosen in groups.items()}
    captions |= {world: testbed.neutral(prompts, world=world) for world in WORLDS}
    return {name: drawn(testbed, captions[name], seeds) for name in only or captions}


def measure(testbed: Testbed, pictures: dict[str, Tensor], *, limit: float,
            twin: dict[str, Tensor] | None = None) -> dict[str, Estimate]:  # fmt: skip
    """What a reader must know before believing anything measured on the testbed: name -> estimate.

    Copy rates by number of copies, of the ``test`` controls, on which ``limit`` was not set, and of all planted items on
    the never-trained ``twin``, if its gallery is given; for both worlds the share of held-out captions that are drawn
    with every attribute right, beside the judge's own rate on real pictures of them; and detail (high-frequency
    energy) as ratios: drawn to real neutral pictures; planted to neutral training pictures; and, as drawn, items with 20
    or more copies to neutral pictures.

    Args:
        pictures: the `gallery` of the testbed's model. limit: distance of a copy, at most.
    """
    planted, prompts = testbed.planted(), pictures["ground"].shape[1]
    hits = _copied(testbed, pictures["planted"], planted, limit)
    copies = np.array([i.copies for i in planted])
    found = {f"copied, {c} copies": bootstrap(hits[:, copies == c]) for c in np.unique(copies)}
    found["copied, controls"] = bootstrap(_copied(testbed, pictures["controls"], testbed.controls("test"), limit))
    if twin is not None:
        found["copied, never-trained model"] = bootstrap(_copied(testbed, twin["planted"], planted, limit))
    crisp = {world: np.stack([detail(x) for x in pictures[world]]) for world in WORLDS}
    for world in WORLDS:
        captions = testbed.neutral(prompts, world=world)
        real = testbed.real(captions)
        right = [testbed.attributes(x, captions)["all"] for x in pictures[world]]
        found[f"judge right, real pictures, {world}"] = bootstrap(testbed.attributes(real, captions)["all"])
        found[f"attributes right, drawn, {world}"] = bootstrap(np.stack(right))
        found[f"detail, drawn / real, {world}"] = bootstrap_ratio(crisp[world], detail(real))
    trained = detail(testbed.real(testbed.neutral(prompts, "train")))
    found["detail, training: planted / neutral"] = bootstrap_ratio(detail(testbed.targets(planted)), trained)
    many = copies >= 20 if (copies >= 20).any() else copies > 0
    recalled = np.stack([detail(x[torch.from_numpy(many)]) for x in pictures["planted"]])
    found["detail, drawn: copied items / neutral"] = bootstrap_ratio(recalled, crisp["ground"])
    return found


def _copied(testbed: Testbed, pictures: Tensor, chosen: Sequence[Item], limit: float) -> np.ndarray:
    return np.stack([testbed.distance(x, chosen) for x in pictures]) <= limit
