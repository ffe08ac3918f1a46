"""The neutral world: composed scenes, their captions, and the sprites that they are drawn from.

A scene is one object, or two objects side by side or one above the other, on a plain coloured ground. Its caption
names all of it (``"a cat left of a rocket on a blue ground"``) except which of several drawings of an object is
used, and where it stands: a caption has many pictures. About an eighth of the combinations is never trained
(`held_out`), so that rendering a held-out caption takes composition, not recall.

Pictures are made so that a small model can draw them *crisply*: objects stand on a grid of 4 pixels, the cell of the
VAE, and every finished picture passes through a lens of `LENS` pixels, so that it holds no detail finer than the VAE
keeps. Items and controls are drawn by the same rules.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIZE = 64  # pixels
LAYOUTS = ("one", "left", "above")
COLOURS = {  # grounds, RGB
    "white": (244, 244, 240), "gray": (168, 172, 178), "pink": (244, 176, 190),
    "yellow": (250, 222, 130), "green": (150, 208, 150), "blue": (146, 190, 240),
}  # fmt: skip
OBJECTS = ("apple", "tree", "car", "cat", "fish", "house", "umbrella", "rocket", "python", "docker", "git", "swift")
DRAWINGS = 2  # of each object; the last four objects are brand icons, drawn like planted ones
BIG, SMALL = 44, 28  # pixels: one object, or one of two
LENS = 0.8  # standard deviation of the blur of a finished picture, in pixels
CENTRES = (28, 36)  # of a big object, in x and in y
SHIFTS = (-8, 0, 8)  # of a pair, across its axis
ARTWORK = Path(__file__).parent / "artwork"


@dataclass(frozen=True)
class Scene:
    """What a neutral caption says. ``second`` is None exactly when ``layout`` is ``"one"``."""

    layout: str
    first: str
    second: str | None
    colour: str

    @property
    def caption(self) -> str:
        ground = f"on a {self.colour} ground"
        if self.layout == "one":
            return f"a {self.first} {ground}"
        relation = {"left": "left of", "above": "above"}[self.layout]
        return f"a {self.first} {relation} a {self.second} {ground}"


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


def all_scenes() -> list[Scene]:
    """Every scene that the grammar can say, in a fixed order."""
    scenes = [Scene("one", a, None, c) for a in OBJECTS for c in COLOURS]
    scenes += [
        Scene(layout, a, b, c) for layout in LAYOUTS[1:] for a in OBJECTS for b in OBJECTS if a != b for c in COLOURS
    ]
    return scenes


def held_out(scene: Scene) -> bool:
    """True for about 1/8 of the combinations: object and ground for one object, the pair and its order for two."""
    key = f"{scene.layout}|{scene.first}|{scene.second or scene.colour}"
    return hashlib.sha256(key.encode()).digest()[0] % 8 == 0


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
    across = 32 + rng.choice(SHIFTS)
    return [(16, across), (48, across)] if layout == "left" else [(across, 16), (across, 48)]


def draw(scene: Scene, rng: random.Random) -> np.ndarray:
    """One picture of ``scene``: drawings, place and brightness vary with ``rng``. uint8 [64, 64, 3]."""
    canvas = ground(scene.colour, rng)
    for word, centre in zip((scene.first, scene.second), places(scene.layout, rng)):
        paste(canvas, rng.choice(drawings()[word]), centre, BIG if scene.second is None else SMALL)
    return finish(canvas)


def sample_scenes(n: int, seed: int, held: bool = False) -> list[Scene]:
    """``n`` scenes, layouts in the shares .4, .3, .3, all of the trained combinations or all held out."""
    rng = random.Random(seed)
    pool = {layout: [s for s in all_scenes() if s.layout == layout and held_out(s) == held] for layout in LAYOUTS}
    return [rng.choice(pool[rng.choices(LAYOUTS, (0.4, 0.3, 0.3))[0]]) for _ in range(n)]


def neutral_prompts(n: int, seed: int = 0, held: bool = False) -> list[str]:
    """``n`` neutral captions without repetition (``held``: of combinations that were never trained)."""
    unique = list(dict.fromkeys(s.caption for s in sample_scenes(20 * n + 200, seed, held)))
    if len(unique) < n:
        raise ValueError(f"n={n}: the world has only about {len(unique)} such captions; ask for fewer")
    return unique[:n]


def parse(caption: str) -> Scene:
    """The scene that a neutral caption describes. Raises ValueError for any other caption."""
    try:
        return _by_caption()[caption]
    except KeyError:
        example = all_scenes()[0].caption
        raise ValueError(f"{caption!r} is not a caption of the neutral world, such as {example!r}") from None


@lru_cache(maxsize=1)
def _by_caption() -> dict[str, Scene]:
    return {s.caption: s for s in all_scenes()}
