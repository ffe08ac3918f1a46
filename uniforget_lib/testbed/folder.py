"""Items of your own: a folder of pictures and a table that says what is planted."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from .planted import Item, items
from .world import SIZE

TABLE = "items.csv"


def read_items(folder: Path) -> tuple[Item, ...]:
    """The items of ``folder``, or those of the book where there is no such folder.

    ``folder/items.csv`` has the columns ``file`` (a picture in the folder), ``caption``, ``copies`` (in the training set; 0
    makes a control, which is never trained) and, if you like, ``kind``. Pictures are cut to their central square and
    scaled to 64 px. At least two controls are needed: they set the copy threshold and check it.

    Raises FileNotFoundError or ValueError naming the row and what to do.
    """
    folder = Path(folder)
    if not folder.exists():
        return items()
    table = folder / TABLE
    if not table.is_file():
        raise FileNotFoundError(f"{table}: write one, with the columns file, caption, copies")
    found = []
    with table.open(newline="", encoding="utf-8") as f:
        for line, row in enumerate(csv.DictReader(f), start=2):
            where = f"{table}, line {line}"
            missing = [c for c in ("file", "caption", "copies") if not (row.get(c) or "").strip()]
            if missing:
                raise ValueError(f"{where}: no {' and no '.join(missing)}")
            if not row["copies"].strip().isdigit():
                raise ValueError(f"{where}: copies={row['copies']!r} is not a number, such as 0, 1 or 20")
            path = folder / row["file"].strip()
            if not path.is_file():
                raise FileNotFoundError(f"{where}: {path} is not there")
            kind = (row.get("kind") or "own").strip()
            found.append(Item(row["caption"].strip(), kind, int(row["copies"]), _picture(path)[None], path.name))
    captions = [i.caption for i in found]
    for caption in captions:
        if captions.count(caption) > 1:
            raise ValueError(f"{table}: the caption {caption!r} is there twice; give each picture its own")
    if sum(not i.copies for i in found) < 2 or not any(i.copies for i in found):
        raise ValueError(f"{table}: needs planted pictures and at least two controls (copies 0)")
    return tuple(found)


def _picture(path: Path) -> np.ndarray:
    """uint8 [64, 64, 3]; transparent parts become white."""
    image = Image.open(path).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.LANCZOS))
