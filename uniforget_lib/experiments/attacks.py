"""Is it gone, or only hidden? Every attack on every model of the design, on planted pictures and on pictures that the model
never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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


class Group(NamedTuple):
    """Pictures that an attack asks for, [n, 3, H, W]; where it starts; and what counts as found: [n, 3, H, W] -> bool [n]."""

    images: torch.Tensor
    prompts: list[str]
    judge: Callable[[torch.Tensor], np.ndarray]


def groups(lab: Lab, n: int, told: list[Item] | None = None) -> dict[str, Group | None]:
    """What is attacked, ``n`` pictures a group or all that there are.

    ``planted``: test items with 20 copies or more. ``control``: items that were never trained. ``neutral``: single pictures
    of held-out neutral captions, which the model could draw in many ways, and was never shown. ``told``: other items, if any
    are given.
    """
    bed = lab.bed

    def items(chosen: list[Item]) -> Group:
        return Group(bed.targets(chosen), [i.caption for i in chosen], lambda x: bed.distance(x, chosen) <= lab.limit)

    captions = lab.study.neutral[:n]
    pictures = bed.real(captions, seed=31)
    planted, controls = bed.planted(at_least=20, split="test"), bed.controls("test")
    return {"planted": items(spread(planted, n)), "control": items(spread(controls, n)),
            "neutral": Group(pictures, captions, lambda x: copied(x, pictures, lab.limit)),
            "told": items(spread(told, n)) if told else None}  # fmt: skip


def spread(items: list[Item], n: int) -> list[Item]:
    """``n`` of the items (all where there are fewer), evenly spread over their order, which is by tier and kind."""
    n = min(n, len(items))
    return [items[k * len(items) // n] for k in range(n)]


def attack(
    lab: Lab, model: ModelAdapter, name: str, chosen: Group, efforts: Sequence[int] | None = None
) -> dict[int, np.ndarray]:
    """One attack on a group of `groups`: effort -> what is found, bool [noises, n]. A variant counts from its effort on."""
    images, prompts, judge = chosen
    efforts, options = EFFORTS[name] if efforts is None else efforts, {"seeds": SEEDS, "sampling_steps": lab.bed.steps}
    with model.guided(lab.bed.cfg):
        if name == "paraphrase":
            found = stress.paraphrase(model, prompts, variants=efforts, **options)
        else:
            found = stress.ATTACKS[name](model, images, prompts, efforts=efforts, **options)
    return recovered(found, judge, any_of=name == "paraphrase")


def recovered(found: Recovery, judge: Callable, *, any_of: bool = False) -> dict[int, np.ndarray]:
    """Effort -> bool [noises, n]; ``any_of``: found by then, in any of the pictures so far."""
    values = [np.stack([judge(x) for x in images]) for images in found.images]
    if any_of:
        values = np.maximum.accumulate(np.stack(values))
    return dict(zip(found.efforts, values))


def stressed(lab: Lab) -> Iterator:
    """Share of pictures found, for each effort, planted and control: columns such as ``planted 50``. ``excess``: planted less
    control after the last effort."""

    def compute(method: str, when: str, name: str, which: tuple[str, ...]) -> dict:
        model, row = lab.once(("victim", method, when), lambda: unlearning.victim(lab, method, when)), {}
        chosen = groups(lab, TARGETS[name])
        for group in which:
            found = attack(lab, model, name, chosen[group])
            row |= {f"{group} {effort}": bootstrap(values) for effort, values in found.items()}
        last = max(found)
        excess = difference(row[f"planted {last}"], row[f"control {last}"])
        return row | {"n": len(chosen["planted"].prompts), "excess": excess}

    unlearning.tuned(lab)
    every = [*unlearning.cells(), ("twin", "never")]
    for name in EFFORTS:
        for method in ONE_BY_ONE if name == "memora" else METHODS:
            for when in (when for m, when in every if m == method):
                which = ("planted", "control", "neutral")[: 3 if method == "none" and name != "memora" else 2]
                yield ({"attack": name, "method": method, "pruning": when},
                       lambda m=method, w=when, a=name, g=which: compute(m, w, a, g))  # fmt: skip


def repaired(lab: Lab, model: ModelAdapter) -> ModelAdapter:
    """``model`` after a brief retraining on real neutral pictures."""
    images, captions = lab.once(("pictures", "real"), lambda: pruning.pictures(lab))
    return complement.retrain(model, images, captions, steps=RETRAINED, **pruning.RETRAIN)


def curves(lab: Lab) -> Iterator:
    """Relearning, twice as long, at every strength of UniForget (its own share of units), after a retraining, and on models
    that nothing was taken from. One row an effort."""
    makes = {"unpruned": lambda: lab.bed.adapter, "twin": lambda: lab.twin.adapter,
             **{level: lambda level=level: less(lab, level) for level in pruning.LEVELS},
             "medium, retrained": lambda: repaired(lab, less(lab, "medium"))}  # fmt: skip

    def relearn(model: str) -> dict[str, dict[int, np.ndarray]]:
        victim, chosen = makes[model](), groups(lab, TARGETS["relearn"])
        return {group: attack(lab, victim, "relearn", chosen[group], LONG) for group in ("planted", "control")}

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
    start = less(lab, "medium") if "uniforget" in arm else bed.adapter
    if "retrained" in arm:
        return repaired(lab, start)
    items = bed.planted(at_least=20, split="development")
    captions = [i.caption for i in items]
    strong = lab.once("strong", lambda: less(lab, "strong"))
    instead = lab.draw(strong, captions, seed=40)  # a model whose memory is suppressed says what to draw instead
    neutral = lab.once(("pictures", "real"), lambda: pruning.pictures(lab))
    options = ADVERSARIAL | ({"searched": 0} if arm == "redirected" else {})
    return complement.adversarial(start, bed.targets(items), captions, instead, *neutral, **options)


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
        drawn = [lab.draw(model, [i.caption for i in items], seed) for seed in lab.seeds]
        row["told"] = bootstrap(np.stack([bed.distance(x, items) <= lab.limit for x in drawn]))
        columns = [("dori", "told", "told found"), ("dori", "planted", "found"), ("dori", "control", "control found"),
                   ("relearn", "planted", "relearned"), ("relearn", "control", "control relearned")]  # fmt: skip
        for name, group, column in columns:
            found = attack(lab, model, name, groups(lab, TARGETS[name], told=items)[group])
            row[column] = bootstrap(found[max(found)])
        return row

    for arm in ("retrained", "uniforget, retrained", "redirected", "adversarial", "uniforget, adversarial"):
        yield {"arm": arm}, lambda arm=arm: compute(arm)
