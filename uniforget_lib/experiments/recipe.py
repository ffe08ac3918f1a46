"""UniForget's own choices: which modules, how strong, with or without relaxation, which seed, which prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import torch

from ..locate import uniforget_steps
from .lab import Lab

KINDS = (("ffn",), ("norm",), ("head",), ("ffn", "norm"), ("head", "norm"), ("ffn", "norm", "head"))
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)  # times beta of the medium level; the paper's 0.1 ... 10 lie around its 2
NUMBERS = (4, 16, 64, 256)
BUDGETS = (0.25, 1, 4, 16)  # times the steps of `CALIBRATION`


def kinds(lab: Lab) -> Iterator:
    """The paper's ablation of modules (its Table 5): masks of some kinds at the medium strength."""
    for chosen in dict.fromkeys(lab.having(some) for some in KINDS):
        if chosen:
            yield {"kinds": " + ".join(chosen)}, lambda chosen=chosen: lab.judge(lab.mask(kinds=chosen))


def strength(lab: Lab) -> Iterator:
    """The sweep over beta (its Table 4), with the relaxed sigmoid and with the plain one (supplementary Fig. 3).

    ``swing``: mean absolute change of the share of closed gates between steps in the first quarter of the mask training.
    """

    def compute(times: float, relaxed: bool) -> dict:
        beta = times * lab.beta("medium")
        found = lab.score(beta=beta, relaxed=relaxed)
        off = torch.tensor([row["off"] for row in found.history[: max(2, len(found.history) // 4)]])
        loss = torch.tensor([row["regulariser"] for row in found.history])
        swing = {"swing": float(off.diff().abs().mean()), "rises": float((loss.diff() > 0).float().mean())}
        return {"beta": beta, **lab.judge(found.mask(threshold=0)), **swing}

    for relaxed in (True, False):
        for times in STRENGTHS:
            yield {"times": times, "relaxed": relaxed}, lambda times=times, relaxed=relaxed: compute(times, relaxed)


def budget(lab: Lab) -> Iterator:
    """Longer training of the mask, at the medium strength and at equal sparsity. The paper's masks take 2,000 steps."""
    for n in BUDGETS:
        steps = max(1, round(n * lab.config.mask_steps))

        for ratio in ("own", 0.45, 0.6):

            def compute(ratio=ratio, steps=steps) -> dict:
                found = lab.score(mask_steps=steps)
                mask = found.mask(threshold=0) if ratio == "own" else found.mask(ratio=ratio)
                return {"mask steps": steps, "forwards": found.cost, **lab.judge(mask)}

            yield {"times": n, "ratio": ratio}, compute


def agreement(lab: Lab) -> Iterator:
    """Is the same mask found twice? Overlap (IoU) of the removed units with those of the first medium mask, beside the overlap
    that chance gives; and what each mask does."""
    half = len(lab.prompts()) // 2
    variants = {"the first": {}, "another seed": {"seed": lab.config.seed + 1}, "a third seed": {"seed": lab.config.seed + 2},
                "one half of the prompts": {"prompts": lab.prompts()[:half]},
                "the other half": {"prompts": lab.prompts()[half:]},
                "prompts of the other world": {"prompts": lab.prompts("paper")}}  # fmt: skip
    for name, options in variants.items():

        def compute(options=options) -> dict:
            first, mask = lab.mask(), lab.mask(**options)
            return {"iou": first.overlap(mask), "chance": first.overlap_by_chance(mask), **lab.judge(mask)}

        yield {"mask": name}, compute


def prompts(lab: Lab) -> Iterator:
    """How many neutral prompts, and which? Also without a data set of prompts: random words of the model's own
    vocabulary, and no words at all."""
    everything = lab.prompts()
    sets = {f"{n} captions": everything[:n] for n in NUMBERS if n <= len(everything)}
    sets["single objects only"] = [c for c in everything if " left of " not in c and " above " not in c]
    sets["the other world"] = lab.prompts("paper")
    sets["both worlds"] = lab.both()
    sets["random words"] = random_words(lab, len(everything))
    sets["random words, items' names left out"] = random_words(lab, len(everything), without=names(lab))
    sets["the empty prompt"] = [""] * len(everything)
    for name, chosen in sets.items():
        yield {"prompts": name}, lambda chosen=chosen: {"n": len(chosen), **lab.judge(lab.mask(chosen))}


def names(lab: Lab) -> set[str]:
    """Words of items, controls included, that no neutral training prompt has."""
    neutral = {word for world in ("ground", "paper") for c in lab.prompts(world) for word in c.split()}
    return {word for item in lab.bed.items for word in item.caption.split()} - neutral


def random_words(lab: Lab, n: int, seed: int = 0, without: set[str] = frozenset()) -> list[str]:
    """``n`` prompts of two to eight words of the tokenizer's vocabulary, which a stranger can read off the model."""
    words, rng = [w for w in lab.bed.adapter.vocabulary() if w not in without], random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(2, 8))) for _ in range(n)]


def steps(lab: Lab) -> Iterator:
    """A mask for every step of the sampling beside one for all, from the same prompts, strength and number of steps."""

    def own() -> dict:
        config = replace(lab.config, beta=lab.beta("medium"))
        masks = [s.mask(threshold=0) for s in uniforget_steps(lab.bed.adapter, lab.prompts(), config)]
        closed = torch.stack([torch.cat([v == 0 for v in m.values.values()]) for m in masks])
        return {"off": float(closed.float().mean()), **lab.row(lab.study.outcome(masks)),
                "off in every step": float(closed.all(0).float().mean())}  # fmt: skip

    yield {"masks": "one for all steps"}, lambda: lab.judge(lab.mask())
    yield {"masks": "one for each step"}, own
