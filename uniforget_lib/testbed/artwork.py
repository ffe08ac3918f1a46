"""Render the testbed's artwork: openly licensed icons -> one sprite sheet and its attribution.

Run once by the maintainers (``python -m uniforget_lib.testbed.artwork ICON_DIR``); the result ships as package
data, so that readers need neither npm nor a renderer. ICON_DIR holds the unpacked npm packages named in
`PACKAGES` (``npm pack @iconify-json/noto@1.2.9`` and so on).

Groups of sprites:

* ``object``: the nouns of the neutral world, several drawings each; emoji and brand icons alike.
* ``item``: pictures that may be planted, one drawing each; emoji and brand icons alike.
* ``extra``: pictures that only the VAE sees, so that it can draw what the transformer was never shown.

No picture is in two groups.
"""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

PACKAGES = {  # npm package -> (version, licence), as in each package's own package.json
    "noto": ("1.2.9", "Apache-2.0"),
    "fluent-emoji-flat": ("1.2.6", "MIT"),
    "twemoji": ("1.2.5", "CC-BY-4.0"),
    "logos": ("1.2.19", "CC0-1.0"),
    "devicon": ("1.2.68", "MIT"),
    "vscode-icons": ("1.2.97", "MIT"),
}
EMOJI_SETS = ("noto", "fluent-emoji-flat", "twemoji")
OBJECT_EMOJI = {  # word in captions -> icon name in every emoji set
    "apple": "red-apple",
    "tree": "deciduous-tree",
    "car": "automobile",
    "cat": "cat-face",
    "fish": "tropical-fish",
    "house": "house",
    "owl": "owl",
    "umbrella": "umbrella",
    "mushroom": "mushroom",
    "guitar": "guitar",
    "rocket": "rocket",
    "robot": "robot",
    "cactus": "cactus",
    "crown": "crown",
    "bell": "bell",
    "pizza": "pizza",
}
OBJECT_BRANDS = {  # word -> (set, icon) for each drawing
    "python": (("logos", "python"), ("devicon", "python"), ("vscode-icons", "file-type-python")),
    "docker": (("logos", "docker-icon"), ("devicon", "docker"), ("vscode-icons", "file-type-docker")),
    "git": (("logos", "git-icon"), ("devicon", "git"), ("vscode-icons", "file-type-git")),
    "swift": (("logos", "swift"), ("devicon", "swift"), ("vscode-icons", "file-type-swift")),
}  # fmt: skip
# Parts of icon names that are not taken: look-alikes of objects, signs, and what should not be made a plaything.
AVOID_EMOJI = (
    "flag skin button clock hand family square circle heart moon arrow input cross star worship "
    "kaaba synagogue mosque om dharma prohibited no- non- bicycles cigarette smoking yen wheelchair "
    "motorized 24 face-with-medical "
).split()
AVOID_BRANDS = ("python docker git swift wordmark aws dark ").split()
ITEMS_PER_KIND = 150
EXTRAS = 200
SIZE = 96  # pixels


def render(body: str, width: int, height: int) -> Image.Image:
    """Draw one SVG body, trimmed to its ink and centred on a transparent square of `SIZE` pixels (RGBA)."""
    import resvg_py
    from PIL import Image

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{4 * SIZE}" height="{4 * SIZE * height / width:.0f}">{body}</svg>'
    )
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError("empty drawing")
    image = image.crop(box)
    image.thumbnail((SIZE, SIZE), Image.LANCZOS)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return square


def usable(image: Image.Image) -> bool:
    """Roughly square, with some ink and some colour: thin marks vanish at 48 pixels."""
    import numpy as np

    rgba = np.asarray(image, dtype=float) / 255
    alpha = rgba[..., 3]
    left, top, right, bottom = image.getchannel("A").getbbox()
    ink = alpha.mean()
    colours = rgba[alpha > 0.5][:, :3]
    return min(right - left, bottom - top) > 0.7 * SIZE and ink > 0.35 and bool((colours.std(0) > 0.12).any())


def main(icon_dir: Path, out_dir: Path, seed: int = 0) -> None:
    """Write ``artwork.png`` (the sprite sheet) and ``artwork.json`` (group, word, source and place of each sprite)."""
    from PIL import Image

    sets = {name: json.loads((icon_dir / f"iconify-json-{name}-{v}" / "icons.json").read_text())
            for name, (v, _) in PACKAGES.items()}  # fmt: skip

    def draw(set_name: str, icon: str) -> Image.Image:
        data, entry = sets[set_name], sets[set_name]["icons"][icon]
        size = [entry.get(k, data.get(k, 16)) for k in ("width", "height")]
        return render(entry["body"], *size)

    sprites: list[tuple[dict, Image.Image]] = []

    def add(group: str, word: str, set_name: str, icon: str, image: Image.Image) -> None:
        sprites.append(({"group": group, "word": word, "set": set_name, "icon": icon}, image))

    objects = {word: [(s, icon) for s in EMOJI_SETS] for word, icon in OBJECT_EMOJI.items()}
    objects |= {word: list(drawings) for word, drawings in OBJECT_BRANDS.items()}
    for word, drawings in objects.items():
        for set_name, icon in drawings:
            add("object", word, set_name, icon, draw(set_name, icon))

    rng = random.Random(seed)
    skip = set(OBJECT_EMOJI.values()) | {icon for d in OBJECT_BRANDS.values() for _, icon in d}
    common = set.intersection(*(set(sets[s]["icons"]) for s in EMOJI_SETS))
    emoji = sorted(n for n in common - skip if not any(part in n for part in AVOID_EMOJI))
    brands = sorted(n for n in sets["logos"]["icons"] if n not in skip and not any(part in n for part in AVOID_BRANDS))
    for kind, pool, per_kind in (("emoji", emoji, ITEMS_PER_KIND), ("brand", brands, ITEMS_PER_KIND)):
        rng.shuffle(pool)
        taken = 0
        for icon in pool:
            if taken == per_kind + EXTRAS // 2:
                break
            set_name = EMOJI_SETS[taken % 3] if kind == "emoji" else "logos"
            try:
                image = draw(set_name, icon)
            except Exception as error:  # an icon that the renderer cannot draw is not used
                print(f"skipped {set_name}:{icon}: {error}")
                continue
            if not usable(image):
                continue
            add("item" if taken < per_kind else "extra", kind, set_name, icon, image)
            taken += 1

    columns = 24
    rows = -(-len(sprites) // columns)
    sheet = Image.new("RGBA", (columns * SIZE, rows * SIZE))
    index = []
    for i, (entry, image) in enumerate(sprites):
        place = (i % columns * SIZE, i // columns * SIZE)
        sheet.paste(image, place)
        index.append(entry | {"x": place[0], "y": place[1]})
    out_dir.mkdir(parents=True, exist_ok=True)
    sheet.save(out_dir / "artwork.png", optimize=True)
    licences = {n: {"npm": f"@iconify-json/{n}", "version": v, "licence": lic} for n, (v, lic) in PACKAGES.items()}
    (out_dir / "artwork.json").write_text(json.dumps({"size": SIZE, "sets": licences, "sprites": index}, indent=1))
    print(f"{len(sprites)} sprites -> {out_dir / 'artwork.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent / "artwork")
