"""The neutral worlds: composed scenes, their captions, and the sprites that they are drawn from.

A scene is one object, or two objects, on a plain coloured ground. Its caption names all of it (``"a cat left of a rocket
on a blue ground"``) except which of several drawings of an object is used, and where it stands: a caption has many
pictures. About a sixth of the combinations is never trained (`held_out`), so that rendering a held-out caption takes
composition, not recall.

There are two such worlds, which share the colours and nothing else: neither an object nor a layout of two, nor the
grammar (``"blue paper showing robot down to crown"``). Methods that are calibrated on the first are tested on both.

Pictures are made so that a small model can draw them *crisply*: objects stand on a grid of 4 pixels, the cell of the
VAE, and every finished picture passes through a lens of `LENS` pixels, so that it holds no detail finer than the VAE
keeps. Items and controls are drawn by the same rules.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIZE = 64  # pixels
COLOURS = {  # grounds, RGB
    "white": (244, 244, 240), "gray": (168, 172, 178), "pink": (244, 176, 190),
    "yellow": (250, 222, 130), "green": (150, 208, 150), "blue": (146, 190, 240),
}  # fmt: skip
DRAWINGS = 2  # of each object
BIG, SMALL = 44, 28  # pixels: one object, or one of two
LENS = 0.8  # standard deviation of the blur of a finished picture, in pixels
CENTRES = (28, 36)  # of a big object, in x and in y
SHIFTS = (-8, 0, 8)  # of a pair, across its axis
SLANTS = (0, 4)  # of an object on a diagonal, towards the middle
ARTWORK = Path(__file__).parent / "artwork"


@dataclass(frozen=True)
class World:
    """A neutral domain: its objects, and its grammar as a caption pattern by layout (the first is that of one object)."""

    objects: tuple[str, ...]
    patterns: dict[str, str]


WORLDS = {
    "ground": World(  # its last four objects are brand icons, drawn like planted ones
        ("apple", "tree", "car", "cat", "fish", "house", "umbrella", "rocket", "python", "docker", "git", "swift"),
        {
            "one": "a {first} on a {colour} ground",
            "left": "a {first} left of a {second} on a {colour} ground",
            "above": "a {first} above a {second} on a {colour} ground",
        },
    ),
    "paper": World(
        ("owl", "mushroom", "guitar", "robot", "cactus", "crown", "bell", "pizza"),
        {
            "one": "{colour} paper showing {first}",
            "down": "{colour} paper showing {first} down to {second}",
            "up": "{colour} paper showing {first} up to {second}",
        },
    ),
}
OBJECTS = tuple(word for w in WORLDS.values() for word in w.objects)
LAYOUTS = tuple(dict.fromkeys(layout for w in WORLDS.values() for layout in w.patterns))


@dataclass(frozen=True)
class Scene:
    """What a neutral caption says. ``second`` is None exactly when ``layout`` is ``"one"``."""

    layout: str
    first: str
    second: str | None
    colour: str

    @property
    def world(self) -> str:
        return next(name for name, w in WORLDS.items() if self.first in w.objects)

    @property
    def caption(self) -> str:
        return WORLDS[self.world].patterns[self.layout].format(**self.__dict__)


@lru_cache(maxsize=1)
def sprites() -> list[tuple[dict, Image.Image]]:
    """All sprites as ``(entry, RGBA image)``; entries name group, word, icon set and icon."""
    index = json.loads((ARTWORK / "artwork.json").read_text())
    size = index["size"]
    sheet = Image.open(ARTWORK / "artwork.png")
    return [(e, sheet.crop((e["x"], e["y"], e["x"] + size, e["y"] + size))) for e in index["sprites"]]


@lru_cache(maxsize=1)
def drawings() -> dict[str, list[Image.Image]]:
    """Object word -> its drawings."""
    found: dict[str, list[Image.Image]] = {word: [] for word in OBJECTS}
    for entry, image in sprites():
        if entry["group"] == "object" and entry["word"] in found:
            found[entry["word"]].append(image)
    return {word: images[:DRAWINGS] for word, images in found.items()}


@cache
def all_scenes(world: str = "ground") -> tuple[Scene, ...]:
    """Every scene that the grammar of ``world`` can say, in a fixed order."""
    if world not in WORLDS:
        raise ValueError(f"world={world!r}: use one of {sorted(WORLDS)}")
    objects, (one, *two) = WORLDS[world].objects, WORLDS[world].patterns
    scenes = [Scene(one, a, None, c) for a in objects for c in COLOURS]
    return (*scenes, *(Scene(k, a, b, c) for k in two for a in objects for b in objects if a != b for c in COLOURS))


def combination(scene: Scene) -> str:
    """What is trained or held out together: object and ground for one object, the pair and its order for two."""
    return f"{scene.layout}|{scene.first}|{scene.second or scene.colour}"


def held_out(scene: Scene) -> bool:
    """True for about 1/6 of the combinations."""
    return hashlib.sha256(combination(scene).encode()).digest()[0] % 6 == 0


def unseen_order(scene: Scene) -> bool:
    """True where two objects in this order are held out in *every* layout: the model never met the one before the other."""
    two = [layout for layout in WORLDS[scene.world].patterns if layout != "one"]
    return scene.second is not None and all(held_out(replace(scene, layout=layout)) for layout in two)


def paste(canvas: Image.Image, sprite: Image.Image, centre: tuple[int, int], size: int) -> None:
    """Draw ``sprite`` of ``size`` pixels (even) with its centre at ``centre`` (in place)."""
    small = sprite.resize((size, size), Image.LANCZOS)
    canvas.paste(small, (centre[0] - size // 2, centre[1] - size // 2), small)


def ground(colour: str, rng: random.Random) -> Image.Image:
    """An empty picture of a ground; its brightness varies a little."""
    tint = rng.uniform(-6, 6)
    return Image.new("RGB", (SIZE, SIZE), tuple(int(np.clip(v + tint, 0, 255)) for v in COLOURS[colour]))


def finish(canvas: Image.Image) -> np.ndarray:
    """The picture as the lens gives it: uint8 [64, 64, 3]."""
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(LENS)))


def places(layout: str, rng: random.Random) -> list[tuple[int, int]]:
    """Centres of the objects of a layout."""
    if layout == "one":
        return [(rng.choice(CENTRES), rng.choice(CENTRES))]
    if layout in ("down", "up"):
        first, second = (16 + rng.choice(SLANTS), 48 - rng.choice(SLANTS))
        return [(16, first), (48, second)] if layout == "down" else [(16, 64 - first), (48, 64 - second)]
    across = 32 + rng.choice(SHIFTS)
    return [(16, across), (48, across)] if layout == "left" else [(across, 16), (across, 48)]


def draw(scene: Scene, rng: random.Random) -> np.ndarray:
    """One picture of ``scene``: drawings, place and brightness vary with ``rng``. uint8 [64, 64, 3]."""
    canvas = ground(scene.colour, rng)
    for word, centre in zip((scene.first, scene.second), places(scene.layout, rng)):
        paste(canvas, rng.choice(drawings()[word]), centre, BIG if scene.second is None else SMALL)
    return finish(canvas)


def sample_scenes(n: int, seed: int, held: bool = False, world: str = "ground") -> list[Scene]:
    """``n`` scenes, layouts in the shares .4, .3, .3, all of the trained combinations or all held out."""
    rng, scenes = random.Random(seed), [s for s in all_scenes(world) if held_out(s) == held]
    layouts = list(WORLDS[world].patterns)
    pool = {k: [s for s in scenes if s.layout == k] for k in layouts}
    return [rng.choice(pool[rng.choices(layouts, (0.4, 0.3, 0.3))[0]]) for _ in range(n)]


def neutral_prompts(n: int, seed: int = 0, held: bool = False, world: str = "ground",
                    without: Collection[str] = ()) -> list[str]:  # fmt: skip
    """``n`` neutral captions without repetition (``held``: of combinations that were never trained), none of ``without``.

    All captions that there are, in an order drawn from ``seed``: the first ones of a longer list are a shorter one.
    """
    found = [s.caption for s in all_scenes(world) if held_out(s) == held and s.caption not in without]
    if len(found) < n:
        raise ValueError(f"n={n}: the world {world!r} has {len(found)} such captions; ask for fewer")
    random.Random(seed).shuffle(found)
    return found[:n]


def parse(caption: str) -> Scene:
    """The scene that a neutral caption describes. Raises ValueError for any other caption."""
    try:
        return _by_caption()[caption]
    except KeyError:
        example = [all_scenes(world)[0].caption for world in WORLDS]
        raise ValueError(f"{caption!r} is no caption of the neutral worlds, such as {example}") from None


@lru_cache(maxsize=1)
def _by_caption() -> dict[str, Scene]:
    return {s.caption: s for world in WORLDS for s in all_scenes(world)}
