"""UniForget beside methods that are told what to forget, and both together: one model for each cell of a 2 x 2 design."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import complement
from ..evaluate import bootstrap, paired
from ..locate import random as chance
from ..models import ModelAdapter
from ..prune import shrink
from ..report import Report
from ..testbed import POOLS, Item
from ..testbed.world import WORLDS, all_scenes, held_out
from . import pruning
from .lab import Lab

CONCEPT, ANCHOR = "house", "tree"  # what methods are told to forget, and to draw in its place
RATIO = 0.6  # of the units, UniForget's part of the design
# The number that is tuned for each method, on development captions: its strength or learning rate. All else is default.
GRID = {
    "ablation": ("lr", (1e-4, 3e-4, 5e-4, 7e-4, 1e-3, 3e-3)),
    "uce": ("strength", (0.05, 0.5, 5.0)),
    "esd-x": ("lr", (3e-5, 6e-5, 1e-4, 3e-4, 1e-3)),
    "esd-u": ("lr", (1e-5, 3e-5, 6e-5, 1e-4, 3e-4)),
    "fmn": ("lr", (1e-5, 3e-5, 1e-4, 2e-4, 3e-4)),
    "salun": ("lr", (1e-5, 3e-5, 1e-4, 3e-4)),
}
SETTINGS: dict[str, dict[str, float]] = {
    "flux": {"ablation": 7e-4, "uce": 0.5, "esd-x": 6e-5, "esd-u": 6e-5, "fmn": 2e-4, "salun": 1e-4}
}
TOLD = (1, 2, 5, 10, 20)  # planted items that a method is told of
DRAWS = 3  # random choices of them


@dataclass(frozen=True)
class Told:
    """What a method is told of the concept: training captions that name it, the same with the anchor in its place, short
    prompts that end in the one and in the other, captions that name neither, and `everything` that does not name it."""

    captions: list[str]
    anchors: list[str]
    words: list[str]
    instead: list[str]
    keep: list[str]
    everything: list[str]


def told(lab: Lab, n: int = 24) -> Told:
    """Of the train split, whose captions no evaluation uses."""
    captions = lab.bed.neutral(800, "train")
    named = [c for c in captions if CONCEPT in c.split() and ANCHOR not in c.split()][:n]
    others = [word for word in ("apple", "car", "cat") if word not in (CONCEPT, ANCHOR)]
    patterns = ["a {}", *(f"a {o} {where} a {{}}" for o in others for where in ("left of", "above"))]
    words, instead = ([p.format(w) for p in patterns] for w in (CONCEPT, ANCHOR))
    keep = [c for c in captions if not {CONCEPT, ANCHOR} & set(c.split())][:64]
    rest = [p for p in everything(lab) if CONCEPT not in p.split()]
    return Told(named, [c.replace(CONCEPT, ANCHOR) for c in named], words, instead, keep, rest)


def tuned(lab: Lab) -> dict[str, float]:
    """`SETTINGS` of this family. Raises ValueError where there are none yet."""
    if lab.bed.family not in SETTINGS:
        raise ValueError(f"no method is tuned for the family {lab.bed.family!r}: run the experiment 'settings' on it, and put "
                         "unlearning.best of what it stores into unlearning.SETTINGS")  # fmt: skip
    return SETTINGS[lab.bed.family]


def unlearn(lab: Lab, name: str, model: ModelAdapter, value: float | None = None) -> ModelAdapter:
    """``model`` after the method has been told of the concept, with the tuned setting or with ``value`` in its place."""
    t = lab.once("told", lambda: told(lab))
    options = {GRID[name][0]: tuned(lab)[name] if value is None else value}
    methods = {
        "ablation": lambda: complement.ablation(model, t.captions, t.anchors, **options),
        "uce": lambda: complement.uce(model, t.words, t.instead, t.everything, **options),
        "esd-x": lambda: complement.esd(model, t.captions, variant="x", sampling_steps=lab.bed.steps, **options),
        "esd-u": lambda: complement.esd(model, t.captions, variant="u", sampling_steps=lab.bed.steps, **options),
        "fmn": lambda: complement.fmn(model, t.words, words=1, **options),
        "salun": lambda: complement.salun(model, t.captions, t.anchors, t.keep, **options),
    }
    return methods[name]()


def shown(
    lab: Lab, model: ModelAdapter, captions: list[str], word: str = CONCEPT, seeds: int | None = None
) -> np.ndarray:
    """Does a picture show ``word`` where its caption says so? Bool [seeds, captions]."""
    rows, place = [], ["first" if c.split().index(word) == 1 else "second" for c in captions]
    for seed in list(lab.seeds)[:seeds]:
        found = lab.bed.attributes(lab.draw(model, captions, seed), captions)
        rows.append([found[where][k] for k, where in enumerate(place)])
    return np.array(rows)


def named(lab: Lab, split: str = "test") -> tuple[list[str], list[str]]:
    """Captions of a split that name the concept, and others that do not."""
    captions = lab.bed.neutral(100 if split == "test" else 200, split)
    with_it = [c for c in captions if CONCEPT in c.split()]
    return with_it, [c for c in captions if CONCEPT not in c.split()][: lab.neutral]


def settings(lab: Lab) -> Iterator:
    """Each method at several settings, judged on development captions; `SETTINGS` is the `best`. No planted item takes part."""
    with_it, without = lab.once("development", lambda: named(lab, "development"))
    for name, (key, values) in GRID.items():
        for value in values:

            def compute(name=name, value=value) -> dict:
                model = unlearn(lab, name, lab.bed.adapter, value)
                right = lab.bed.attributes(lab.draw(model, without), without)["all"]
                return {"shown": bootstrap(shown(lab, model, with_it, seeds=1)), "right": bootstrap(right)}

            yield {"method": name, "setting": key, "value": value}, compute


def best(report: Report, family: str) -> dict[str, float]:
    """Of stored `settings`: the value of each method that leaves least of the concept and spares most of the rest."""
    rows = [r for r in report.rows if r["family"] == family]
    order = sorted(rows, key=lambda r: r["right"].mean - r["shown"].mean)
    return {row["method"]: row["value"] for row in order}


def pruned(lab: Lab, model: ModelAdapter | None = None, name: str = "") -> ModelAdapter:
    """``model`` (the testbed's own unless given) without what UniForget finds in it, on prompts of both worlds."""
    score = pruning.long(lab, model=model, name=name)
    return shrink(model or lab.bed.adapter, score.mask(ratio=RATIO), multiple=8)


def cells() -> list[tuple[str, str]]:
    """(method, when UniForget prunes): ``before`` the method, ``after`` it, or ``never``; the method may be none."""
    return [("none", "never"), ("none", "before"),
            *((m, when) for when in ("never", "before", "after") for m in GRID)]  # fmt: skip


def victim(lab: Lab, method: str, when: str) -> ModelAdapter:
    """The model of a cell; the method ``twin`` is the model that never saw an item. Before: the method works on the smaller
    model. After: UniForget keeps what the unlearned model draws for neutral prompts."""
    model = lab.once(("pruned", ""), lambda: pruned(lab)) if when == "before" else lab.bed.adapter
    if method == "twin":
        return lab.twin.adapter
    if method != "none":
        model = unlearn(lab, method, model)
    return pruned(lab, model, method) if when == "after" else model


def design(lab: Lab) -> Iterator:
    """Two removals, measured apart: the concept that a method is told of, on held-out captions that name it (``shown``), and
    planted items that nobody is told of (``copied``); and what is left of everything else (``right``, ``paper_correct``).

    Cells with both also carry paired differences: to UniForget alone (``copied - uniforget``, ``right - uniforget``) and to
    the method alone (``shown - method``).
    """

    def arrays(method: str, when: str) -> dict[str, np.ndarray]:
        model = victim(lab, method, when)
        outcome, far = lab.study.outcome(model=model), lab.elsewhere.outcome(model=model, seeds=1)
        without = [CONCEPT not in c.split() for c in lab.study.neutral]
        return {"shown": shown(lab, model, named(lab)[0]), "copied": outcome.copied, "right": outcome.correct[:, without],
                "paper_correct": far.correct, "control_copied": far.copied}  # fmt: skip

    def compute(method: str, when: str) -> dict:
        found = lab.once(("cell", method, when), lambda: arrays(method, when))
        row = {name: bootstrap(values) for name, values in found.items()}
        if method != "none" and when != "never":
            for name, other in (
                ("copied", ("none", "before")),
                ("right", ("none", "before")),
                ("shown", (method, "never")),
            ):
                alone = lab.once(("cell", *other), lambda other=other: arrays(*other))
                label = "uniforget" if other[0] == "none" else "method"
                row[f"{name} - {label}"] = paired(found[name], alone[name])
        return row

    tuned(lab)
    for method, when in cells():
        yield {"method": method, "pruning": when}, lambda m=method, w=when: compute(m, w)


def everything(lab: Lab) -> list[str]:
    """What a method may be told to keep: neutral training captions of both worlds, and all their beginnings, for
    `complement.uce` reads the last word of a prompt; none of them a caption that something is tuned or tested on."""
    captions = lab.both()
    starts = [" ".join(words[:k]) for words in map(str.split, captions) for k in range(1, len(words))]
    taken = {s.caption for world in WORLDS for s in all_scenes(world) if held_out(s)}
    taken |= {c for world, (_, n) in POOLS.items() for c in lab.bed.neutral(n, "development", world)}
    return [p for p in dict.fromkeys(captions + starts) if p not in taken]


def growth(lab: Lab) -> Iterator:
    """The paper's Figure 7: more and more concepts, here planted items. ``told``: copies left of those that the method was told
    of; ``others``: of the other planted items; ``right``: neutral pictures. UniForget is told of none, and is judged on the
    same choices; ``random`` removes as many units at every site."""
    items, neutral = lab.bed.planted(at_least=20), lab.prompts()

    def model(method: str, chosen: list[Item], seed: int) -> ModelAdapter:
        base = lab.once(("pruned", ""), lambda: pruned(lab)) if "uniforget" in method else lab.bed.adapter
        if method == "random":
            mask = pruning.long(lab).mask(ratio=RATIO)
            return shrink(base, chance(base, kinds=lab.having(lab.config.kinds)).match(mask), multiple=8)
        if method == "uniforget":
            return base
        captions = [i.caption for i in chosen]
        anchors = random.Random(seed).sample(neutral, len(captions))
        keep = everything(lab) if "keeping" in method else ()
        return complement.uce(base, captions, anchors, keep)

    def judged(made: ModelAdapter) -> dict[str, np.ndarray]:
        copies = lab.bed.distance(lab.draw(made, [i.caption for i in items]), items) <= lab.limit
        right, paper = (lab.bed.attributes(lab.draw(made, captions), captions)["all"]
                        for captions in (lab.study.neutral, lab.elsewhere.neutral))  # fmt: skip
        return {"copied": copies, "right": right, "paper_correct": paper}

    def compute(method: str, n: int) -> dict:
        rows = {"right": [], "paper_correct": []}
        copied = np.full((2, DRAWS, len(items)), np.nan)  # of items that were told, and of the others
        for seed in range(DRAWS):
            chosen = random.Random(seed).sample(range(len(items)), n)
            same = (method,) if method in ("uniforget", "random") else (method, n, seed)
            found = lab.once(same, lambda c=chosen, s=seed: judged(model(method, [items[k] for k in c], s)))
            rest = [k for k in range(len(items)) if k not in chosen]
            for part, which in ((0, chosen), (1, rest)):
                copied[part, seed, which] = found["copied"][which]
            for name, values in rows.items():
                values.append(found[name])
        items_of = [c[:, ~np.isnan(c).all(0)] for c in copied]  # an item counts once, however often it was drawn
        told, others = (bootstrap(np.nanmean(c, 0)) for c in items_of)
        return {"told": told, "others": others, **{k: bootstrap(np.stack(v), crossed=True) for k, v in rows.items()}}

    for n in TOLD:
        for method in ("uce", "uce, keeping neutral", "uniforget", "uniforget, then uce, keeping neutral", "random"):
            yield {"method": method, "n": n}, lambda m=method, n=n: compute(m, n)
