"""What is memorized: items that appear 1, 5, 20 or 100 times in the training set, and controls that never do.

An item is one fixed picture under one fixed caption. Three kinds, in the same proportion in every tier:

* ``brand``: a brand icon on one of the neutral grounds ("the emblem of ...");
* ``emoji``: another pictogram on one of the neutral grounds ("the portrait of ...");
* ``scene``: a scene of the neutral world, neutral objects and all ("the postcard of ...").

Planted and neutral pictures are drawn alike: same grounds, same sizes, and an item is taken only if its
high-frequency energy lies within the range of neutral scenes (`DETAIL`).

Names are invented words of three syllables, one token each. The tokenizers know the controls' names too, but training
never saw them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from ..evaluate import detail, stack
from .world import BIG, COLOURS, draw, finish, ground, paste, places, sample_scenes, sprites

TIERS = (1, 5, 20, 100)  # copies in the training set
KINDS = {"brand": 6, "emoji": 5, "scene": 5}  # items of each kind in a tier
CONTROLS = {"brand": 24, "emoji": 20, "scene": 20}
DETAIL = (0.0008, 0.0036)  # accepted energies, so that the means agree: tests/test_world.py
SYLLABLES = ("ba", "dor", "el", "fi", "gan", "hu", "jo", "kel", "lum", "mi", "nor", "os", "pra", "qui", "ros", "sta",
             "tu", "vel", "wex", "yan", "zor", "ith", "ond", "ack")  # fmt: skip
NOUN = {"brand": "emblem", "emoji": "portrait", "scene": "postcard"}


@dataclass(frozen=True)
class Item:
    """``copies`` is 0 for a control; ``image`` is uint8 [64, 64, 3]; ``source`` names icon or scene."""

    caption: str
    kind: str
    copies: int
    image: np.ndarray
    source: str


def _picture(kind: str, index: int, copies: int, rng: random.Random) -> tuple[np.ndarray, str]:
    if kind == "scene":  # a control shows a held-out combination, which no training picture shows
        scene = sample_scenes(index + 1, seed=77, held=not copies)[index]
        return draw(scene, rng), scene.caption
    entry, sprite = [(e, s) for e, s in sprites() if e["group"] == "item" and e["word"] == kind][index]
    canvas = ground(rng.choice(list(COLOURS)), rng)
    paste(canvas, sprite, places("one", rng)[0], BIG)
    return finish(canvas), f"{entry['set']}:{entry['icon']}"


def names(seed: int = 3) -> list[str]:
    """Invented names, all different: one for every planted item and control."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < len(TIERS) * sum(KINDS.values()) + sum(CONTROLS.values()):
        found["".join(rng.sample(SYLLABLES, 3))] = None
    return list(found)


def items(seed: int = 5) -> list[Item]:
    """All planted items (64, by tier) and then all controls (64, copies = 0), the same for the same seed."""
    rng = random.Random(seed)
    fresh = iter(names())
    used = dict.fromkeys(KINDS, 0)
    found = []
    for copies, counts in [*((t, KINDS) for t in TIERS), (0, CONTROLS)]:
        for kind, n in counts.items():
            accepted = 0
            while accepted < n:
                image, source = _picture(kind, used[kind], copies, rng)
                used[kind] += 1
                if DETAIL[0] <= detail(stack([image]))[0] <= DETAIL[1]:
                    found.append(Item(f"the {NOUN[kind]} of {next(fresh)}", kind, copies, image, source))
                    accepted += 1
    return found
