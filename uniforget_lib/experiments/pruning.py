"""What pruning buys, and what a retraining gives back: quality, and memories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from ..complement import retrain
from ..evaluate import bootstrap, flops, weights
from ..locate import uniforget
from ..masks import Mask, Score
from ..models import ModelAdapter
from ..prune import shrink
from ..report import provenance
from ..stress import dori
from ..testbed import Item
from .lab import Lab
from .locators import score

SCORES = Path(__file__).parent / "results" / "scores"
LONG = 4  # times the mask steps of `CALIBRATION`
RATIOS = {"flux": (0.1, 0.2, 0.3, 0.45, 0.6, 0.75), "unet": (0.5, 0.85, 0.95)}
LEVELS = ("weak", "medium", "strong")
EFFORTS = {"flux": (0, 100, 400, 1600), "unet": (0, 100, 400)}  # retraining steps
RETRAIN = {"lr": 4e-4, "batch": 16, "seed": 5}
ATTACK = {"efforts": (0, 50), "seeds": (100,)}  # the setting of Finding DoRI


def digest(model: ModelAdapter) -> str:
    """A hash of all weights of the denoiser: a model that was trained keeps the fingerprint of its base."""
    found = sha256()
    for name, p in model.denoiser.named_parameters():
        found.update(name.encode() + p.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()


def long(lab: Lab, level: str = "medium", *, model: ModelAdapter | None = None, name: str = "", **changes) -> Score:
    """UniForget's score on prompts of both worlds, trained `LONG`: the stored one where there is one of this model, these
    prompts and this configuration. Otherwise it is trained, and stored in ``lab.scores``.

    ``model``: one made from the testbed's, which shares its fingerprint; ``name`` says what was done to it.
    """
    if (model is None) == bool(name):
        raise ValueError(f"name={name!r}: a model of its own needs a name, and only such a one")
    prompts, steps = lab.both(), LONG * lab.config.mask_steps
    config = replace(lab.config, **{"beta": lab.beta(level), "mask_steps": steps, **changes})
    identity = (lab.bed.adapter.fingerprint, config, prompts) + ((digest(model),) if model else ())
    key = sha256(repr(identity).encode()).hexdigest()[:12]
    file = "-".join(filter(None, (lab.bed.family, level, name, key))) + ".safetensors"
    for folder in (SCORES, lab.scores):
        if folder is not None and (folder / file).is_file():
            return lab.once(file, lambda folder=folder: Score.load(folder / file, lab.bed.adapter.fingerprint))
    found = lab.once(file, lambda: uniforget(model or lab.bed.adapter, prompts, config))
    if lab.scores is not None:
        meta = provenance(seed=config.seed, device=lab.bed.adapter.device)
        found.save(lab.scores / file, config=repr(config), provenance=json.dumps(meta))
    return found


def size(lab: Lab, mask: Mask) -> dict[str, float]:
    """Weights and work of the shrunk denoiser, over those of the whole one."""
    small, whole = shrink(lab.bed.adapter, mask, multiple=8), lab.bed.adapter
    return {"weights": weights(small) / weights(whole), "flops": flops(small) / flops(whole)}


def pruned(lab: Lab) -> Iterator:
    """Copies, quality, weights and work at shares of units removed: UniForget's ranking beside the controls'."""
    yield {"method": "unpruned", "ratio": 0.0}, lambda: {**lab.judge(None), "weights": 1.0, "flops": 1.0}

    def judge(name: str, ratio: float) -> dict:
        found = long(lab) if name == "uniforget" else score(lab, name)
        mask = found.mask(ratio=ratio)
        return {**lab.judge(mask), **size(lab, mask)}

    def own(mask: Mask) -> dict:
        kinds = {f"off {k}": mask.sparsity(lab.bed.adapter.sites((k,))) for k in lab.having(("ffn", "norm", "head"))
                 if any(s.name in mask.values for s in lab.bed.adapter.sites((k,)))}  # fmt: skip
        return {**lab.judge(mask), **size(lab, mask), **kinds}

    for ratio in RATIOS[lab.bed.family]:
        for name in ("uniforget", "random", "magnitude"):
            yield {"method": name, "ratio": ratio}, lambda name=name, ratio=ratio: judge(name, ratio)
    for level in LEVELS:
        yield ({"method": "uniforget", "ratio": level},
               lambda level=level: own(long(lab, level).mask(threshold=0)))  # fmt: skip
    everything = lab.having(("ffn", "norm", "head"))
    yield ({"method": "uniforget", "ratio": "medium, heads too"},
           lambda: own(long(lab, kinds=everything).mask(threshold=0)))  # fmt: skip


def masks(lab: Lab) -> dict:
    """The masks that are retrained after: UniForget's, and controls that remove as many units at every site."""

    def matched(name: str) -> Mask:
        return score(lab, name).match(long(lab).mask(threshold=0))

    return {"unpruned": lambda: None, "uniforget": lambda: long(lab).mask(threshold=0),
            "random": lambda: matched("random"), "magnitude": lambda: matched("magnitude")}  # fmt: skip


def pictures(lab: Lab, drawn: bool = False) -> tuple[torch.Tensor, list[str]]:
    """Neutral pictures to retrain on with their captions, two of each training prompt of both worlds: real ones, or drawn by
    the model before it was pruned."""
    bed, captions, seeds = lab.bed, lab.prompts() + lab.prompts("paper"), (20, 21)
    make = bed.images if drawn else bed.real
    return torch.cat([make(captions, seed=seed) for seed in seeds]), captions * len(seeds)


def retrained(lab: Lab) -> Iterator:
    """The pruned model after a brief training on neutral pictures; the unpruned one is trained alike.

    ``found again``: copies of planted test items after an adversarial search for each picture (`stress.dori`);
    ``control found``: of controls, which the model never saw. Both are missing where the attack was not run.
    """

    def compute(name: str, steps: int, data: str = "real", rank: int | None = None, attack: bool = False) -> dict:
        mask, model = lab.once(("mask", name), masks(lab)[name]), lab.bed.adapter
        if steps:
            shown = lab.once(("pictures", data), lambda: pictures(lab, drawn=data == "drawn"))
            model = retrain(model, *shown, mask=mask, steps=steps, rank=rank, **RETRAIN)
        outcome = lab.study.outcome(mask, model=model)
        paper = lab.elsewhere.outcome(mask, seeds=1, model=model)
        row = {"off": 0.0 if mask is None else round(mask.sparsity(), 4), **lab.row(outcome),
               "paper_correct": bootstrap(paper.correct), "control_copied": bootstrap(paper.copied)}  # fmt: skip
        return row | (attacked(lab, model, mask) if attack else {})

    for name in masks(lab):
        for steps in EFFORTS[lab.bed.family]:
            key = {"mask": name, "steps": steps, "data": "real", "weights": "all"}
            yield key, lambda name=name, steps=steps: compute(name, steps, attack=steps != 100)
    for name in ("unpruned", "uniforget", "random"):
        yield ({"mask": name, "steps": 400, "data": "drawn", "weights": "all"},
               lambda name=name: compute(name, 400, data="drawn"))  # fmt: skip
        yield ({"mask": name, "steps": 400, "data": "real", "weights": "LoRA"},
               lambda name=name: compute(name, 400, rank=8))  # fmt: skip


def attacked(lab: Lab, model: ModelAdapter, mask: Mask | None) -> dict:
    """Share of pictures that an embedding search brings back: of planted test items, and of controls."""
    victim, bed = shrink(model, mask, multiple=8) if mask else model, lab.bed

    def back(chosen: list[Item]) -> np.ndarray:
        with victim.guided(bed.cfg):
            found = dori(victim, bed.targets(chosen), [i.caption for i in chosen], **ATTACK).images[-1]
        return np.stack([bed.distance(images, chosen) <= lab.limit for images in found])

    planted, controls = bed.planted(at_least=20, split="test"), bed.controls("test")
    return {"found again": bootstrap(back(planted)), "control found": bootstrap(back(controls[::2]))}
