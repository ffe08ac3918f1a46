"""UniForget beside every alternative, at equal sparsity."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from .. import locate
from ..evaluate import pool
from ..masks import Score
from .lab import Lab

METHODS = ("uniforget", "magnitude", "activation", "gradient", "integrated")
RATIOS = {"flux": (0.05, 0.1, 0.2, 0.3, 0.45, 0.6), "unet": (0.2, 0.5, 0.85, 0.95)}  # the U-Net can spare far more
SEVERAL = 3  # random masks a sparsity


def score(lab: Lab, name: str, kinds: tuple[str, ...] | None = None, seed: int = 0) -> Score:
    """A locator's score of the units that UniForget may remove, or of those of ``kinds``. Contrasts are told the planted
    items of the development split."""
    adapter, told, neutral = lab.bed.adapter, lab.captions(), lab.prompts()[:64]
    kinds = kinds or lab.having(lab.config.kinds)
    make = {
        "uniforget": lambda: lab.score(kinds=kinds),
        "random": lambda: locate.random(adapter, kinds=kinds, seed=seed),
        "magnitude": lambda: locate.magnitude(adapter, kinds=kinds),
        "chavhan": lambda: locate.chavhan(adapter, told, neutral[: len(told)]),
        "nemo": lambda: locate.nemo(adapter, told, neutral),
    }
    make |= {n: lambda n=n: locate.CONTRASTS[n](adapter, told, neutral, kinds=kinds)
             for n in ("activation", "gradient", "integrated")}  # fmt: skip
    return lab.once((name, kinds, seed), make[name])


def locators(lab: Lab) -> Iterator:
    """A row for each method and share of units removed.

    ``scope`` says what is ranked: all units that UniForget may remove (``all``), or feed-forward neurons alone (``ffn``,
    for Chavhan's locator, which knows no others; on the U-Net they are all). UniForget's own masks (``own``)
    stand beside baselines that remove as many units at every site; so does NeMo's, on the values of cross-attention. ``forwards`` is the locator's cost.
    """

    def judge(name: str, ratio: float, kinds=None):
        def compute() -> dict:
            found = score(lab, name, kinds)
            return lab.judge(found.mask(ratio=ratio)) | {"forwards": found.cost}

        return compute

    def chance(ratio: float) -> dict:
        masks = [score(lab, "random", seed=s).mask(ratio=ratio) for s in range(SEVERAL)]
        pooled = pool([lab.study.outcome(mask, seeds=1) for mask in masks])
        return {"off": round(masks[0].sparsity(), 4), **lab.row(pooled), **lab.far(masks[0]), "forwards": 0.0}

    def values(name: str) -> dict:
        mask = score(lab, "nemo", ("value",)).mask(threshold=0)
        found = score(lab, name, ("value",))
        return lab.judge(mask if name == "nemo" else found.match(mask)) | {"forwards": found.cost}

    yield {"method": "unpruned", "ratio": 0.0, "scope": "all"}, lambda: lab.judge(None)
    only_ffn = lab.having(lab.config.kinds) == ("ffn",)
    for ratio in RATIOS[lab.bed.family]:
        yield {"method": "random", "ratio": ratio, "scope": "all"}, lambda ratio=ratio: chance(ratio)
        for name in (*METHODS, *(["chavhan"] if only_ffn else [])):
            yield {"method": name, "ratio": ratio, "scope": "all"}, judge(name, ratio)
    for ratio in () if only_ffn else (0.05, 0.1, 0.2):
        for name in ("chavhan", "uniforget", "random"):
            yield {"method": name, "ratio": ratio, "scope": "ffn"}, judge(name, ratio, ("ffn",))
    for level in ("weak", "medium", "strong"):
        yield (
            {"method": "uniforget", "ratio": level, "scope": "own"},
            lambda level=level: lab.judge(lab.mask(level=level)),
        )
        for name in ("random", "magnitude"):
            yield ({"method": name, "ratio": level, "scope": "own"},
                   lambda name=name, level=level: lab.judge(score(lab, name).match(lab.mask(level=level))))  # fmt: skip
    if lab.bed.family == "unet":  # NeMo is defined on the values of cross-attention
        yield {"method": "nemo", "ratio": "own", "scope": "value"}, lambda: values("nemo")
        yield {"method": "random", "ratio": "own", "scope": "value"}, lambda: values("random")


def overlap(lab: Lab) -> Iterator:
    """Do two methods find the same units? Overlap of what they remove at one share, beside that of two random masks with as
    many units removed at every site."""
    for a, b in combinations(METHODS, 2):
        for ratio in (0.05, 0.2, 0.45):

            def compute(a=a, b=b, ratio=ratio) -> dict:
                first, second = (score(lab, name).mask(ratio=ratio) for name in (a, b))
                return {"iou": first.overlap(second), "chance": first.overlap_by_chance(second)}

            yield {"method": a, "other": b, "ratio": ratio}, compute
