"""Items of your own: a folder of pictures and a table that says what is planted."""

from __future__ import annotations

import csv
from pathlib import Path

from ..models._pictures import read_picture
from .planted import Item, items
from .world import SIZE, WORLDS, all_scenes

TABLE = "items.csv"
WORDS = 12  # of a caption, at most: what the text encoders read, less special tokens and a reserve


def read_items(folder: Path) -> tuple[Item, ...]:
    """The items of ``folder``, or those of the book where there is no such folder.

    ``folder/items.csv`` has the columns ``file`` (a picture in the folder), ``caption``, ``copies`` (in the training set; 0
    makes a control, which is never trained) and, if you like, ``kind``. Captions are of plain English letters and digits, at
    most `WORDS` words, and differ in more than capitals. Pictures are cut to their central square and scaled to 64 px; flat
    drawings suit this testbed, photographs may be too fine for it. At least two controls are needed: they set the copy
    threshold and check it.

    Raises FileNotFoundError or ValueError naming the line and what to do.
    """
    folder = Path(folder)
    if not folder.exists():
        return items()
    table = folder / TABLE
    if not table.is_file():
        raise FileNotFoundError(f"{table}: write one, with the columns file, caption, copies")
    found, seen = [], {s.caption.lower(): "a neutral caption" for world in WORLDS for s in all_scenes(world)}
    with table.open(newline="", encoding="utf-8-sig") as f:  # spreadsheets write a mark in front
        for line, row in enumerate(csv.DictReader(f), start=2):
            where = f"{table}, line {line}"
            item = _item(row, folder, where)
            before = seen.setdefault(item.caption.lower(), where)
            if before != where:
                raise ValueError(
                    f"{where}: the caption {item.caption!r} is taken ({before}); give each picture its own"
                )
            found.append(item)
    if sum(not i.copies for i in found) < 2 or not any(i.copies for i in found):
        raise ValueError(f"{table}: needs planted pictures and at least two controls (copies 0)")
    return tuple(found)


def _item(row: dict[str, str | None], folder: Path, where: str) -> Item:
    file, caption, copies = ((row.get(c) or "").strip() for c in ("file", "caption", "copies"))
    for name, value in (("file", file), ("caption", caption), ("copies", copies)):
        if not value:
            raise ValueError(f"{where}: no {name}")
    if not (copies.isascii() and copies.isdigit()):
        raise ValueError(f"{where}: copies={copies!r} is not a number, such as 0, 1 or 20")
    if not caption.isascii():
        raise ValueError(
            f"{where}: the caption {caption!r} has letters that the tokenizers cannot tell apart; use a to z"
        )
    if len(caption.split()) > WORDS:
        raise ValueError(f"{where}: the caption has {len(caption.split())} words; at most {WORDS} are read")
    path = folder / file
    if path.resolve().parent != folder.resolve() or not path.is_file():
        raise FileNotFoundError(f"{where}: {path} is not there (pictures lie in the folder itself)")
    picture = read_picture(path, SIZE, where)
    return Item(caption, (row.get("kind") or "own").strip(), int(copies), picture[None], file)
