"""What is memorized: items that appear 1, 5, 20 or 100 times in the training set, and controls that never do.

An item is a picture under one fixed caption. Five kinds, in the same proportion in every tier:

* ``brand``: a brand icon on one of the neutral grounds ("the emblem of ...");
* ``emoji``: another pictogram on one of the neutral grounds ("the portrait of ...");
* ``scene``: a scene of the neutral world, of a combination that no neutral picture has ("the postcard of ...");
* ``template``: a fixed left half, a brand icon, beside one of 24 neutral drawings, another one in every copy until all
  were used ("the poster of ..."): a template in the sense of Webster (2023);
* ``sentence``: a pictogram under a valid caption of the neutral grammar, of a combination that no neutral picture has.

Planted and neutral pictures are drawn alike: same grounds, same sizes, and an item is taken only if its
high-frequency energy lies in a range (`DETAIL`) that gives planted pictures the mean energy of neutral ones.

Names are invented words of three syllables, one token each. The tokenizers know the controls' names too, but training
never saw them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..evaluate import detail, stack
from .world import (
    BIG,
    COLOURS,
    SIZE,
    SMALL,
    WORLDS,
    Scene,
    all_scenes,
    combination,
    draw,
    drawings,
    finish,
    ground,
    held_out,
    parse,
    paste,
    places,
    sprites,
)

TIERS = (1, 5, 20, 100)  # copies in the training set
KINDS = {"brand": 5, "emoji": 4, "scene": 4, "template": 4, "sentence": 3}  # items of each kind in a tier
CONTROLS = {kind: 4 * n for kind, n in KINDS.items()}  # as many as there are planted items
DETAIL = (0.0008, 0.0036)  # accepted energies, so that the means agree: tests/test_world.py
SYLLABLES = ("ba", "dor", "el", "fi", "gan", "hu", "jo", "kel", "lum", "mi", "nor", "os", "pra", "qui", "ros", "sta",
             "tu", "vel", "wex", "yan", "zor", "ith", "ond", "ack")  # fmt: skip
NOUN = {"brand": "emblem", "emoji": "portrait", "scene": "postcard", "template": "poster"}


@dataclass(frozen=True)
class Item:
    """A planted item or a control (``copies`` is 0).

    Attributes:
        pictures: uint8 [m, 64, 64, 3]: m = 1, or the variants of a template, of which copy j shows number j modulo m.
        source: names the icon or the scene.
        columns: the first so many columns of pixels are fixed; the others vary (all of them, but for a template).
    """

    caption: str
    kind: str
    copies: int
    pictures: np.ndarray
    source: str
    columns: int = SIZE

    @property
    def image(self) -> np.ndarray:
        """The picture, or the first variant: uint8 [64, 64, 3]."""
        return self.pictures[0]


def names(seed: int = 3) -> list[str]:
    """Invented names, all different: one for every planted item and control that has one."""
    rng, found = random.Random(seed), {}
    while len(found) < sum(len(TIERS) * KINDS[k] + CONTROLS[k] for k in NOUN):
        found["".join(rng.sample(SYLLABLES, 3))] = None
    return list(found)


class _Supply:
    """Icons and scenes, each of which is used once."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.names = rng, iter(names())
        self.icons = {k: iter([(e, s) for e, s in sprites() if e["group"] == "item" and e["word"] == k])
                      for k in ("brand", "emoji")}  # fmt: skip
        scenes = [s for s in all_scenes() if held_out(s)]  # so no neutral picture shows them
        rng.shuffle(scenes)
        self.scenes = iter(scenes)

    def icon(self, kind: str, size: int, centre: tuple[int, int], colour: str):
        """A ground with the next icon, and the icon's name."""
        entry, sprite = next(self.icons[kind])
        canvas = ground(colour, self.rng)
        paste(canvas, sprite, centre, size)
        return canvas, f"{entry['set']}:{entry['icon']}"

    def pictures(self, kind: str, scene: Scene) -> tuple[list[np.ndarray], str]:
        """Pictures of the next item of a kind, and its source; ``scene`` is what it shows, or its caption says."""
        rng = self.rng
        if kind == "scene":
            return [draw(scene, rng)], scene.caption
        if kind != "template":
            icons = "emoji" if kind == "sentence" else kind
            canvas, source = self.icon(icons, BIG, places("one", rng)[0], scene.colour)
            return [finish(canvas)], source
        left, right = places("left", rng)
        fixed, source = self.icon("brand", SMALL, left, rng.choice(list(COLOURS)))
        variants = []
        for sprite in (d for word in WORLDS["ground"].objects for d in drawings()[word]):
            canvas = fixed.copy()
            paste(canvas, sprite, right, SMALL)
            variants.append(finish(canvas))
        rng.shuffle(variants)
        return variants, source


@lru_cache(maxsize=2)
def items(seed: int = 5) -> tuple[Item, ...]:
    """All planted items (80, by tier) and then all controls (80, copies = 0), the same for the same seed."""
    rng = random.Random(seed)
    supply, found = _Supply(rng), []
    for copies, counts in [*((t, KINDS) for t in TIERS), (0, CONTROLS)]:
        for kind, n in counts.items():
            taken = 0
            while taken < n:
                own = kind in ("scene", "sentence")
                scene = next(supply.scenes) if own else Scene("one", "apple", None, rng.choice(list(COLOURS)))
                pictures, source = supply.pictures(kind, scene)
                if DETAIL[0] <= detail(stack(pictures)).mean() <= DETAIL[1]:
                    caption = scene.caption if kind == "sentence" else f"the {NOUN[kind]} of {next(supply.names)}"
                    columns = SIZE // 2 if kind == "template" else SIZE
                    found.append(Item(caption, kind, copies, np.stack(pictures), source, columns))
                    taken += 1
    return tuple(found)


@lru_cache(maxsize=1)
def reserved() -> frozenset[str]:
    """Neutral captions that an item or a control shows or bears: no neutral prompt may be one of them."""
    return frozenset(i.source if i.kind == "scene" else i.caption for i in items() if i.kind in ("scene", "sentence"))


@lru_cache(maxsize=1)
def touched() -> frozenset[str]:
    """Captions that no neutral test prompt may be: `reserved` ones, and those of the same *combination*
    (`world.combination`) as a planted scene or sentence, in whatever colour: that combination was trained after all."""
    own = [
        i.source if i.kind == "scene" else i.caption for i in items() if i.copies and i.kind in ("scene", "sentence")
    ]
    trained = {combination(parse(caption)) for caption in own}
    return reserved() | {s.caption for s in all_scenes() if combination(s) in trained}
