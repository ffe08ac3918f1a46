"""Probe prompts: hard cases for a detector, which tempt it to call a prompt memorized that is not, or the other way round.

Whether a probe *is* memorized is measured (`truth`), not assumed: a model may well copy an item under a caption that it
never saw.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .planted import NOUN, SYLLABLES, names, reserved
from .world import COLOURS, WORLDS, parse

if TYPE_CHECKING:
    from . import Testbed

STRANGE = ("xylophone", "quark", "zeppelin", "velvet", "harbour", "whisper", "copper", "lantern", "orchid", "gravel",
           "meadow", "thunder", "ribbon", "pepper", "glacier", "violin")  # fmt: skip


def neighbours(testbed: Testbed, n: int = 32, seed: int = 0) -> list[str]:
    """Neutral captions that differ in one word from the caption of a planted *sentence* (20 copies or more).

    None of them is in the train or the development split.
    """
    from . import POOLS

    rng, found = random.Random(seed), {}
    scenes = [parse(i.caption) for i in testbed.planted(at_least=20, kind="sentence")]
    objects = WORLDS["ground"].objects
    for scene in scenes:
        for colour in COLOURS:
            found[replace(scene, colour=colour).caption] = None
        for word in objects:
            if word not in (scene.first, scene.second):
                found[replace(scene, first=word).caption] = None
                if scene.second:
                    found[replace(scene, second=word).caption] = None
    tuned = {c for split, n in zip(("train", "development"), POOLS["ground"]) for c in testbed.neutral(n, split)}
    captions = sorted(found.keys() - reserved() - tuned - {i.caption for i in testbed.items})
    return _some(captions, n, rng)


def reworded(testbed: Testbed, n: int = 32, seed: int = 0) -> list[str]:
    """Captions of planted items (20 copies or more) with another noun: ``the portrait of ...`` for an emblem."""
    rng = random.Random(seed)
    named = [i for i in testbed.planted(at_least=20) if i.kind in NOUN]
    return _some([i.caption.replace(NOUN[i.kind], noun) for i in named for noun in NOUN.values() if noun != NOUN[i.kind]],
                 n, rng)  # fmt: skip


def strange(testbed: Testbed, n: int = 32, seed: int = 0) -> list[str]:
    """Captions with words that were never trained: new invented names, and English words that the world does not know."""
    rng, known, found = random.Random(seed), set(names()), {}
    while len(found) < n // 2:
        name = "".join(rng.sample(SYLLABLES, 3))
        if name not in known:
            found[f"the {rng.choice(list(NOUN.values()))} of {name}"] = None
    patterns = ("the emblem of {}", "a {} on a blue ground", "pink paper showing {}")
    return [*found, *_some([p.format(word) for p in patterns for word in STRANGE], n - n // 2, rng)]


def _some(captions: list[str], n: int, rng: random.Random) -> list[str]:
    if n > len(captions):
        raise ValueError(f"n={n}: there are {len(captions)} such prompts")
    return rng.sample(captions, n)


PROBES = {"neighbours": neighbours, "reworded": reworded, "strange": strange}


def truth(testbed: Testbed, prompts: Sequence[str], *, limit: float, seeds: Sequence[int] = (0, 1)) -> np.ndarray:
    """Share of seeds for which a prompt returns a copy of *any* planted item: [n] in [0, 1].

    The nearest of all items counts, so chance has as many tries as there are items: read it beside the same rate of neutral
    test prompts.
    """
    planted, found = testbed.planted(), np.zeros(len(prompts))
    for seed in seeds:
        images = testbed.images(prompts, seed=seed)
        nearest = np.min([testbed.distance(images, [item] * len(prompts)) for item in planted], axis=0)
        found += (nearest <= limit) / len(seeds)
    return found
