"""The testbed: small models whose memories are planted and known. `Testbed` is its one entry point."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..evaluate import CLOSE, Estimate, distance, stack
from ..files import check_sums
from ..models import WEIGHTS, ModelAdapter, load
from . import card
from .descriptor import Descriptor, load_descriptor
from .folder import read_items
from .judge import Judge, load_judge
from .planted import TIERS, Item, items, touched
from .world import SIZE, WORLDS, all_scenes, draw, neutral_prompts, parse, unseen_order

SPLITS = ("train", "development", "test", "unseen")
POOLS = {"ground": (800, 400), "paper": (300, 150)}  # captions of the train and the development split
FAMILIES = ("flux", "unet")

# Strengths of UniForget on each family, named by what they cost on neutral development prompts (relative change of the
# latents .03, .1, .3): what ``python -m uniforget_lib.testbed.levels`` prints. No planted prompt takes part.
LEVELS = {
    "flux": {"weak": 1.0, "medium": 3.1, "strong": 10.0},
    "unet": {"weak": 0.49, "medium": 3.2, "strong": 26.0},
}
# A twenty-fifth of the paper's mask steps, so a smaller learning rate: at the paper's 0.5 even beta 0.01 changed neutral
# pictures by 0.1. The seed draws noise that no evaluation draws.
CALIBRATION = {"steps": 4, "mask_steps": 80, "batch": 8, "lr": 0.2, "seed": 1000}


@dataclass(frozen=True)
class Testbed:
    """A pipeline, the ground truth about it, and judges.

    Attributes:
        adapter: the pipeline, planted items and all.
        judge: reads attributes off pictures of the neutral worlds. descriptor: recognises copies.
        items: what is planted, and controls. folder: where it was loaded from. family: ``"flux"`` or ``"unet"``.
        close: distance of a copy, at most. steps, cfg: of the sampling that `images` and every evaluation use. (A
            locator uses its own number of steps, and the adapter's guidance: none.)

    Neutral prompts come in splits that share no caption. Methods are calibrated on ``train``, tuned on ``development``;
    results are reported on ``test``, whose *combinations* were never trained. A fourth split, ``unseen``, has pairs of
    objects that were trained in no layout in this order: they measure the limit of composition, and nothing else.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name
    adapter: ModelAdapter
    judge: Judge
    descriptor: Descriptor | None = None
    items: tuple[Item, ...] = ()
    folder: Path = WEIGHTS
    family: str = "flux"
    close: float = CLOSE
    steps: int = 8
    cfg: float = 2.0

    @classmethod
    def load(cls, family: str = "flux", *, folder: str | Path = WEIGHTS, device: str = "cpu", **options) -> Testbed:
        """The shipped testbed of a family, or what ``testbed.train --out FOLDER`` made, with items of your own too.

        Raises ValueError for an unknown family, or when a shipped file does not match its SHA-256 sum; FileNotFoundError
        naming what a folder lacks.
        """
        if family not in FAMILIES:
            raise ValueError(f"family={family!r}: use one of {FAMILIES}")
        folder = Path(folder)
        if folder == WEIGHTS:
            for part in ("judge", "descriptor"):
                check_sums(folder / part)
        adapter = _adapter(folder, family, device, options)
        judges = load_judge(folder / "judge", device), load_descriptor(folder / "descriptor", device)
        return cls(adapter, *judges, read_items(folder / "items"), folder, family)

    def twin(self, **options) -> Testbed:
        """The same testbed around the control model, which was trained alike, except that it never saw an item."""
        options = {"dtype": self.adapter.dtype} | options
        adapter = _adapter(self.folder, f"{self.family}_control", str(self.adapter.device), options)
        return replace(self, adapter=adapter)

    def images(self, prompts: Sequence[str], *, seed: int = 0) -> Tensor:
        """What the model draws for ``prompts``: [n, 3, 64, 64] in [0, 1]; see `ModelAdapter.images`."""
        with self.adapter.guided(self.cfg):
            return self.adapter.images(prompts, steps=self.steps, seed=seed)

    # Ground truth
    def planted(self, copies: int | None = None, at_least: int = 1, kind: str | None = None,
                split: str | None = None) -> list[Item]:  # fmt: skip
        """Planted items: of one tier (``copies``) or of all tiers with ``at_least`` copies; of one ``kind`` or of all.

        Whatever is tuned on items (the threshold of a detector, say) is tuned on those of the split ``development`` and
        reported on ``test``: every other item of a kind, so that each has half of every kind.
        """
        tiers = sorted({i.copies for i in self.items if i.copies})
        kinds = sorted({i.kind for i in self.items})
        if copies is not None and copies not in tiers:
            raise ValueError(f"copies={copies}: the tiers are {tuple(tiers)}")
        if kind is not None and kind not in kinds:
            raise ValueError(f"kind={kind!r}: the kinds are {kinds}")
        if split not in (None, "development", "test"):
            raise ValueError(f"split={split!r}: items have the splits 'development' and 'test'")
        found = [i for i in self.items if i.copies]
        if split:
            by_kind = [[i for i in found if i.kind == k] for k in dict.fromkeys(i.kind for i in found)]
            found = [i for same in by_kind for i in same[split == "test" :: 2]]
        return [i for i in found if kind in (None, i.kind) and (i.copies == copies if copies else i.copies >= at_least)]

    def controls(self, split: str | None = None) -> list[Item]:
        """Items of the same making that were never trained: those of a split, or all (None).

        The copy threshold is set on ``calibration``; false copies and detectors are reported on ``test``.
        """
        found = [i for i in self.items if not i.copies]
        if split is None:
            return found
        if split not in ("calibration", "test"):
            raise ValueError(f"split={split!r}: controls have the splits 'calibration' and 'test'")
        return found[split == "test" :: 2]  # every other one: all kinds in both

    def neutral(self, n: int, split: str = "test", world: str = "ground") -> list[str]:
        """``n`` distinct neutral captions of a split and a world (``"ground"``, or ``"paper"``, the second domain)."""
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: use one of {SPLITS}")
        if world not in WORLDS:
            raise ValueError(f"world={world!r}: use one of {tuple(WORLDS)}")
        if n < 1:
            raise ValueError(f"n={n}: ask for at least one caption")
        if split in ("test", "unseen"):
            other = {s.caption for s in all_scenes(world) if unseen_order(s) == (split == "test")}
            return neutral_prompts(n, seed=11, held=True, world=world, without=touched() | other)
        train, development = POOLS[world]
        pool = neutral_prompts(train + development, seed=12, world=world)
        chosen = pool[:train] if split == "train" else pool[train:]
        if n > len(chosen):
            raise ValueError(f"n={n}: the {split} split of the world {world!r} has {len(chosen)} captions")
        return chosen[:n]

    def targets(self, chosen: Sequence[Item]) -> Tensor:
        """The pictures that the items were planted with (a template's first variant): [n, 3, 64, 64] in [0, 1]."""
        return stack([i.image for i in chosen])

    # Judges
    def distance(self, images: Tensor, chosen: Sequence[Item]) -> np.ndarray:
        """Relative distance of images [n, 3, 64, 64] to their items: [n]; 1 is that of an empty picture.

        Of a template, only the fixed part counts. See `evaluate.distance`.
        """
        if len(images) != len(chosen):
            raise ValueError(f"{len(images)} images for {len(chosen)} items: give one image for each")
        targets, found = self.targets(chosen), np.empty(len(chosen))
        for columns in {i.columns for i in chosen}:
            rows = [k for k, i in enumerate(chosen) if i.columns == columns]
            found[rows] = distance(images[rows, ..., :columns], targets[rows, ..., :columns])
        return found

    def similarity(self, images: Tensor, chosen: Sequence[Item]) -> np.ndarray:
        """What the descriptor says: cosine of images [n, 3, 64, 64] with their items, [n]. Of a template, the varying part is
        taken from the target."""
        targets = self.targets(chosen)
        fixed = images.clone()
        for row, item in enumerate(chosen):
            fixed[row, ..., item.columns :] = targets[row, ..., item.columns :]
        return self.descriptor.similarity(fixed, targets)

    def attributes(self, images: Tensor, captions: list[str]) -> dict[str, np.ndarray]:
        """Attribute -> bool [n]: does each picture show what its neutral caption says? (``all``: everything.)"""
        return self.judge.correct(images, [parse(c) for c in captions])

    def real(self, captions: list[str], seed: int = 0) -> Tensor:
        """A real picture of each neutral caption, as the training set would hold it: [n, 3, 64, 64] in [0, 1]."""
        rng = random.Random(seed)
        return stack([draw(parse(c), rng) for c in captions])

    def card(self, *, limit: float, prompts: int = 96, seeds: Sequence[int] = range(4),
             twin: Testbed | None = None) -> dict[str, Estimate]:  # fmt: skip
        """What a reader must know before believing anything measured here; see `card.measure`."""
        pictures = card.gallery(self, prompts=prompts, seeds=seeds)
        other = twin and {"planted": card.drawn(twin, [i.caption for i in self.planted()], seeds)}
        return card.measure(self, pictures, limit=limit, twin=other)


def _adapter(folder: Path, name: str, device: str, options: dict) -> ModelAdapter:
    shipped = {"flux": "testbed", "unet": "testbed-unet", "flux_control": "testbed-control",
               "unet_control": "testbed-unet-control"}  # fmt: skip
    if name.startswith("unet"):
        options = {"guidance": 1.0} | options  # as in the other family: `Testbed.images` adds its own
    if folder == WEIGHTS:
        return load(shipped[name], device=device, **options)
    if not (folder / name / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder / name} holds no pipeline: train the stage {name} (testbed.train --out {folder})"
        )
    return load(folder / name, device=device, **options)


__all__ = ["CALIBRATION", "FAMILIES", "LEVELS", "SIZE", "SPLITS", "TIERS", "WORLDS", "Item", "Testbed", "items"]
