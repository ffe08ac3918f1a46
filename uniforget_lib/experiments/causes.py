"""What is it that a mask removes? Memory, fine detail, or anything unlike the prompts that it was trained on?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch

from ..evaluate import Outcome, bootstrap, detail, mmd, soften
from ..hooks import masked
from ..locate import random
from ..masks import Mask
from ..testbed import TIERS
from .lab import Lab

DOSES = (0, 1, 3, 15, 40)  # planted prompts of the development split among the neutral ones
LEVELS = ("weak", "medium", "strong")
CHANCE = {"flux": 0.1, "unet": 0.5}  # a random mask that changes neutral pictures about as much as the medium one


def removed(lab: Lab) -> Iterator:
    """How much do the pictures of each group of prompts change, over the variance of neutral pictures? One row a group and
    level, and as many for a random mask. And a blur that takes as much detail, applied to the unpruned model's pictures."""

    def make(level: str) -> Mask:
        if level != "random":
            return lab.mask(level=level)
        chance = random(lab.bed.adapter, kinds=lab.having(lab.config.kinds))
        return lab.once("a random mask", lambda: chance.mask(ratio=CHANCE[lab.bed.family]))

    for level in (*LEVELS, "random"):
        for name, captions in groups(lab).items():

            def compute(level=level, captions=captions) -> dict:
                return {"n": len(captions), "change": bootstrap(lab.changes(make(level), captions), share=False)}

            yield {"level": level, "group": name}, compute
        if level == "random":
            continue
        yield {"level": level, "group": "mask"}, lambda level=level: lab.row(lab.study.outcome(make(level)))
        yield {"level": level, "group": "blur"}, lambda level=level: lab.row(blurred(lab, make(level)))


def groups(lab: Lab) -> dict[str, list[str]]:
    """Captions by what they have in common with the prompts that a mask is trained on."""
    bed, trained = lab.bed, lab.prompts()
    test = bed.neutral(lab.neutral)
    sharp = np.argsort(-np.mean([detail(bed.real(test, seed=s)) for s in range(4)], axis=0))
    planted = bed.planted(at_least=20, split="test")
    plainness = np.argsort(detail(bed.targets(planted)))
    tenth, third = max(1, len(test) // 10), max(1, len(planted) // 3)
    found = {"trained on": trained[: lab.neutral], "held out": test, "held out, the sharpest tenth": [test[k] for k in sharp[:tenth]],
             "the other world": bed.neutral(lab.neutral, world="paper"),
             "controls": [i.caption for i in bed.controls("test")],
             "planted": [i.caption for i in planted],
             "planted, the plainest third": [planted[k].caption for k in plainness[:third]]}  # fmt: skip
    for kind in dict.fromkeys(i.kind for i in planted):
        found[f"planted, {kind}"] = [i.caption for i in planted if i.kind == kind]
    for copies in (1, 5):
        found[f"in the data {copies} times"] = [i.caption for i in bed.planted(copies=copies, split="test")]
    return found


def blurred(lab: Lab, mask: Mask) -> Outcome:
    """The unpruned model's pictures, softened until neutral ones have the detail that they have under ``mask``."""
    under, plain = lab.study.outcome(mask).detail.mean(), lab.study.outcome().detail.mean()
    share = min(1.0, float(under / plain))
    return lab.study.measure([tuple(soften(x, share) for x in pair) for pair in lab.study.plain])


def tiers(lab: Lab) -> Iterator:
    """Are firm memories harder to remove? Copies left of test items by how often they were in the data."""
    for level in (None, *LEVELS):
        for copies in TIERS[1:]:
            items = lab.bed.planted(copies=copies, split="test")
            yield ({"level": level or "unpruned", "copies": copies},
                   lambda level=level, items=items: drawn(lab, level, items)[1])  # fmt: skip


def contents(lab: Lab) -> Iterator:
    """Which memories? Copies left by kind: of neutral content under an invented name (``scene``), of other content under a
    neutral caption (``sentence``), and of other content under an invented name. Items of both splits: UniForget is told
    of none. ``said``: share of pictures that show what a neutral caption says."""
    for level in (None, *LEVELS):
        for kind in dict.fromkeys(i.kind for i in lab.bed.items):

            def compute(level=level, kind=kind) -> dict:
                items = lab.bed.planted(kind=kind, at_least=20)
                pictures, row = drawn(lab, level, items)
                if kind == "sentence":
                    captions = [i.caption for i in items]
                    right = np.stack([lab.bed.attributes(p, captions)["all"] for p in pictures])
                    row["said"] = bootstrap(right)
                return row

            yield {"level": level or "unpruned", "kind": kind}, compute


def drawn(lab: Lab, level: str | None, items: list) -> tuple[list[torch.Tensor], dict]:
    """Pictures of each seed for items, under UniForget's mask of a level or under none, and the share of copies."""
    with masked(lab.bed.adapter, lab.mask(level=level)) if level else nullcontext():
        pictures = [lab.bed.images([i.caption for i in items], seed=s) for s in lab.seeds]
    left = np.stack([lab.bed.distance(images, items) <= lab.limit for images in pictures])
    return pictures, {"n": len(items), "copied": bootstrap(left)}


def dose(lab: Lab) -> Iterator:
    """Planted prompts, of the development split, that slipped in among the neutral ones; judged on the *other* items."""
    known = [i.caption for c in (100, 20, 5, 1) for i in lab.bed.planted(copies=c, split="development")]
    for level in ("medium", "strong"):
        for n in (d for d in DOSES if d <= len(known)):

            def compute(n=n, level=level) -> dict:
                prompts = lab.prompts()
                return lab.judge(lab.mask(known[:n] + prompts[: len(prompts) - n], level))

            yield {"planted prompts": n, "level": level}, compute


def sites(lab: Lab) -> Iterator:
    """The medium mask with one site given back, and with one site alone."""
    for site in lab.bed.adapter.sites(lab.config.kinds):

        def compute(site=site, alone=False) -> dict:
            mask = lab.mask()
            kept = {n: v if (n == site.name) == alone else torch.ones_like(v) for n, v in mask.values.items()}
            outcome = lab.study.outcome(Mask(kept, mask.fingerprint), seeds=1)
            return {"kind": site.kind, "units": site.units, "site off": float((mask.values[site.name] == 0).float().mean()),
                    "copied": bootstrap(outcome.copied), "correct": bootstrap(outcome.correct),
                    "neutral_change": bootstrap(outcome.neutral_change, share=False),
                    "to_twin": bootstrap(outcome.to_twin, share=False)}  # fmt: skip

        yield {"site": site.name, "mask": "all but this"}, compute
        yield {"site": site.name, "mask": "this alone"}, lambda f=compute: f(alone=True)


def when(lab: Lab) -> Iterator:
    """At which step of the sampling does it happen? The medium mask in some of the steps, the whole model in the others."""
    n = lab.bed.steps
    when = {f"only {k}": {k} for k in range(n)} | {f"before {k}": set(range(k)) for k in range(2, n + 1, 2)}
    when |= {f"from {k}": set(range(k, n)) for k in range(2, n, 2)}
    for name, chosen in when.items():

        def compute(chosen=chosen) -> dict:
            mask = lab.mask()
            ones = Mask({name: torch.ones_like(v) for name, v in mask.values.items()}, mask.fingerprint)
            return lab.row(lab.study.outcome([mask if k in chosen else ones for k in range(n)]))

        yield {"steps": name}, compute


def latents(lab: Lab) -> Iterator:
    """The paper's analysis figures: do latents of memorized prompts leave those of the unpruned model, and neutral ones not? As
    distances of distributions (MMD with a permutation test), from other noise than that which the mask was trained on."""
    groups = {"planted": lab.captions("test"), "neutral": lab.bed.neutral(lab.neutral),
              "controls": [i.caption for i in lab.bed.controls("test")]}  # fmt: skip
    for level in LEVELS:
        for name, prompts in groups.items():

            def compute(level=level, prompts=prompts) -> dict:
                before = lab.bed.adapter.latents(prompts, steps=lab.bed.steps, seed=11).flatten(1).numpy()
                with masked(lab.bed.adapter, lab.mask(level=level)):
                    after = lab.bed.adapter.latents(prompts, steps=lab.bed.steps, seed=12).flatten(1).numpy()
                other = lab.bed.adapter.latents(prompts, steps=lab.bed.steps, seed=12).flatten(1).numpy()
                row = {}
                for where, moved in (("unpruned, other noise", other), ("under the mask", after)):
                    found = mmd(before, moved, paired=True)
                    size = bootstrap(np.linalg.norm(moved, axis=1), share=False)
                    row |= {f"distance, {where}": found.distance, f"p, {where}": found.p, f"magnitude, {where}": size}
                return row

            yield {"level": level, "group": name}, compute
