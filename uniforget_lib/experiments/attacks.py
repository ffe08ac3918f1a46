"""Is it gone, or only hidden? Every attack on every model of the design, on planted pictures and on pictures that the model
never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from .. import complement, stress
from ..evaluate import bootstrap, copied, difference
from ..models import ModelAdapter
from ..prune import shrink
from ..stress import Recovery
from ..testbed import Item
from . import pruning, unlearning
from .lab import Lab

SEEDS = (100,)  # noises that pictures are drawn from, which no attack knows
EFFORTS = {"paraphrase": 8, "dori": (0, 10, 25, 50), "relearn": (0, 10, 25, 50), "memora": (0, 10, 25)}
TARGETS = {"paraphrase": 20, "relearn": 20, "dori": 12, "memora": 6}  # of each group; MemoRa takes one at a time
# Methods that are attacked: those that leave three quarters of the neutral development pictures right (`settings`). The
# others leave half a wreck, which resists an attack as it resists its prompts.
METHODS = ("none", "twin", "uce", "ablation", "salun")
ONE_BY_ONE = ("none", "twin")  # methods whose cells MemoRa attacks
LONG = (0, 10, 25, 50, 100)  # steps of the long relearning of `curves`
RETRAINED = 400  # steps
ADVERSARIAL = {"rounds": 10, "searched": 50, "steps": 40, "lr": pruning.RETRAIN["lr"]}  # as many weight steps


def groups(lab: Lab, n: int, told: list[Item] | None = None) -> dict[str, tuple[torch.Tensor, list[str], Callable]]:
    """Pictures that an attack asks for, where it starts, and what counts as found: [n, 3, H, W] -> bool [n].

    ``planted``: test items with 20 copies or more. ``control``: items that were never trained. ``neutral``: single pictures
    of held-out neutral captions, which the model could draw in many ways, and was never shown. ``told``: other items, if any
    are given.
    """
    bed = lab.bed

    def items(chosen: list[Item]):
        return bed.targets(chosen), [i.caption for i in chosen], lambda x: bed.distance(x, chosen) <= lab.limit

    captions = lab.study.neutral[:n]
    pictures = bed.real(captions, seed=31)
    planted, controls = bed.planted(at_least=20, split="test"), bed.controls("test")
    return {"planted": items(spread(planted, n)), "control": items(spread(controls, n)),
            "neutral": (pictures, captions, lambda x: copied(x, pictures, lab.limit)),
            "told": items(spread(told, n)) if told else None}  # fmt: skip


def spread(items: list[Item], n: int) -> list[Item]:
    """``n`` of the items (all where there are fewer), of every tier and kind."""
    n = min(n, len(items))
    return [items[k * len(items) // n] for k in range(n)]


def attack(lab: Lab, model: ModelAdapter, name: str, images: torch.Tensor, prompts: list[str]) -> Recovery:
    """One attack, drawn with the testbed's own guidance and steps."""
    options = {"seeds": SEEDS, "sampling_steps": lab.bed.steps}
    with model.guided(lab.bed.cfg):
        if name == "paraphrase":
            return stress.paraphrase(model, prompts, variants=EFFORTS[name], **options)
        return stress.ATTACKS[name](model, images, prompts, efforts=EFFORTS[name], **options)


def recovered(found: Recovery, judge: Callable, *, any_of: bool = False) -> dict[int, np.ndarray]:
    """Effort -> bool [seeds, n]; ``any_of``: found by then, in any of the pictures so far."""
    values = [np.stack([judge(x) for x in images]) for images in found.images]
    if any_of:
        values = np.maximum.accumulate(np.stack(values))
    return dict(zip(found.efforts, values))


def stressed(lab: Lab) -> Iterator:
    """Share of pictures found, for each effort, planted and control: columns such as ``planted 50``. ``excess``: planted less
    control after the last effort."""

    def compute(method: str, when: str, name: str, which: tuple[str, ...]) -> dict:
        model, row = lab.once(("victim", method, when), lambda: unlearning.victim(lab, method, when)), {}
        for group in which:
            images, prompts, judge = groups(lab, TARGETS[name])[group]
            found = recovered(attack(lab, model, name, images, prompts), judge, any_of=name == "paraphrase")
            row |= {f"{group} {effort}": bootstrap(values) for effort, values in found.items()}
        last = max(found)
        return row | {"n": len(prompts), "excess": difference(row[f"planted {last}"], row[f"control {last}"])}

    unlearning.tuned(lab)
    every = [*unlearning.cells(), ("twin", "never")]
    for name in EFFORTS:
        for method in ONE_BY_ONE if name == "memora" else METHODS:
            for when in (when for m, when in every if m == method):
                which = ("planted", "control", "neutral")[: 3 if method == "none" and name != "memora" else 2]
                yield ({"attack": name, "method": method, "pruning": when},
                       lambda m=method, w=when, a=name, g=which: compute(m, w, a, g))  # fmt: skip


def repaired(lab: Lab, ratio: float | None) -> ModelAdapter:
    """UniForget's model (its own share of units, or ``ratio``), retrained briefly; ``ratio`` 0 prunes nothing."""
    score = pruning.long(lab)
    mask = score.mask(threshold=0) if ratio is None else score.mask(ratio=ratio)
    base = lab.bed.adapter if ratio == 0 else shrink(lab.bed.adapter, mask, multiple=8)
    images, captions = lab.once(("pictures", "real"), lambda: pruning.pictures(lab))
    return complement.retrain(base, images, captions, steps=RETRAINED, **pruning.RETRAIN)


def curves(lab: Lab) -> Iterator:
    """Relearning, twice as long, at every strength of UniForget (its own share of units), after a retraining, and on models
    that nothing was taken from. One row an effort."""
    makes = {"unpruned": lambda: lab.bed.adapter, "twin": lambda: lab.twin.adapter,
             **{level: lambda level=level: less(lab, level) for level in pruning.LEVELS},
             "medium, retrained": lambda: repaired(lab, None)}  # fmt: skip

    def relearn(model: str) -> dict[str, dict[int, np.ndarray]]:
        victim, found = makes[model](), {}
        for group in ("planted", "control"):
            images, prompts, judge = groups(lab, TARGETS["relearn"])[group]
            with victim.guided(lab.bed.cfg):
                way = stress.relearn(victim, images, prompts, efforts=LONG, seeds=SEEDS, sampling_steps=lab.bed.steps)
            found[group] = recovered(way, judge)
        return found

    for model in makes:
        for effort in LONG:

            def compute(model=model, effort=effort) -> dict:
                found = lab.once(("relearned", model), lambda: relearn(model))
                return {group: bootstrap(values[effort]) for group, values in found.items()}

            yield {"model": model, "effort": effort}, compute


def less(lab: Lab, level: str) -> ModelAdapter:
    """The model without what UniForget's mask of this strength removes."""
    return shrink(lab.bed.adapter, pruning.long(lab, level).mask(threshold=0), multiple=8)


def defended(lab: Lab, arm: str) -> ModelAdapter:
    """The model of an arm of `removal`."""
    bed = lab.bed
    if "retrained" in arm:
        return repaired(lab, None if "uniforget" in arm else 0)
    items = bed.planted(at_least=20, split="development")
    captions = [i.caption for i in items]
    strong = lab.once("strong", lambda: less(lab, "strong"))
    with strong.guided(bed.cfg):  # a model whose memory is suppressed says what to draw instead
        instead = strong.images(captions, steps=bed.steps, seed=40)
    neutral = lab.once(("pictures", "real"), lambda: pruning.pictures(lab))
    start = less(lab, "medium") if "uniforget" in arm else bed.adapter
    options = ADVERSARIAL | ({"searched": 0} if arm == "redirected" else {})
    return complement.adversarial(start, bed.targets(items), captions, instead, *neutral, **options)


def relearned(lab: Lab, model: ModelAdapter) -> dict:
    """Copies after the last effort of relearning: of planted test items, and of controls, each twenty at once."""
    row = {}
    for group, name in (("planted", "relearned"), ("control", "control relearned")):
        images, prompts, judge = groups(lab, TARGETS["relearn"])[group]
        found = recovered(attack(lab, model, "relearn", images, prompts), judge)
        row[name] = bootstrap(found[max(found)])
    return row


def removal(lab: Lab) -> Iterator:
    """Towards removal: adversarial fine-tuning (`complement.adversarial`) on the items of the *development* split, with and
    without UniForget before it; ``redirected``: the same training without its search. ``told``: copies left of those items;
    ``copied``: of test items, which it was not told of. The same for what a search of fifty steps finds (``told found``,
    ``found``, ``control found``), and for fifty steps of relearning (``relearned``, ``control relearned``)."""
    bed = lab.bed
    items = bed.planted(at_least=20, split="development")

    def compute(arm: str) -> dict:
        model = defended(lab, arm)
        outcome, far = lab.study.outcome(model=model), lab.elsewhere.outcome(model=model, seeds=1)
        row = {"copied": bootstrap(outcome.copied), "right": bootstrap(outcome.correct)}
        row["paper_correct"] = bootstrap(far.correct)
        chosen = groups(lab, TARGETS["dori"], told=items)
        for group, name in (("told", "told found"), ("planted", "found"), ("control", "control found")):
            images, prompts, judge = chosen[group]
            found = recovered(attack(lab, model, "dori", images, prompts), judge)
            row[name] = bootstrap(found[max(found)])
        with model.guided(bed.cfg):
            drawn = [model.images([i.caption for i in items], steps=bed.steps, seed=s) for s in lab.seeds]
        told = bootstrap(np.stack([bed.distance(x, items) <= lab.limit for x in drawn]))
        return row | {"told": told, **relearned(lab, model)}

    for arm in ("retrained", "uniforget, retrained", "redirected", "adversarial", "uniforget, adversarial"):
        yield {"arm": arm}, lambda arm=arm: compute(arm)
