"""Mitigations while sampling beside pruning: what do they leave, and what do they cost a picture?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from .. import detect, mitigate
from ..evaluate import bootstrap, evaluations
from ..masks import Mask
from . import pruning
from .lab import Lab

Sample = Callable[[Sequence[str], int], Tensor]  # (prompts, seed) -> images
CONCEPT = (
    "the emblem the portrait the postcard the poster"  # that safe guidance is to avoid: what most planted captions say
)
RATIO = 0.6  # of the units, UniForget's part


def methods(lab: Lab) -> dict[str, Sample]:
    """Name -> how to sample. What is tuned is tuned on neutral captions: Wen's target is the gap that those of the development
    split have at the first step."""
    adapter, steps = lab.bed.adapter, lab.bed.steps
    words = sorted({w for c in lab.prompts() for w in c.split()})

    def gap() -> float:
        neutral = lab.bed.neutral(lab.neutral, "development")
        return lab.once("gap", lambda: float(detect.wen(adapter, neutral, sampling_steps=steps).mean()))

    def make(name: str, options: Callable[[], dict]) -> Sample:
        return lambda prompts, seed: mitigate.MITIGATIONS[name](adapter, prompts, steps=steps, seed=seed, **options())

    return {
        "none": lambda prompts, seed: adapter.images(prompts, steps=steps, seed=seed),
        "wen": make("wen", lambda: {"target": gap()}),
        "wen, half the target": make("wen", lambda: {"target": gap() / 2}),
        "ren, padding": make("ren", lambda: {"drop": "padding"}),
        "ren, padding and end": make("ren", lambda: {"drop": "summary"}),
        "random words, 1": make("random_tokens", lambda: {"count": 1, "words": words}),
        "random words, 4": make("random_tokens", lambda: {"count": 4, "words": words}),
        "safe guidance, weak": make("safe_guidance", lambda: {"config": "weak", "concept": CONCEPT}),
        "safe guidance, strong": make("safe_guidance", lambda: {"config": "strong", "concept": CONCEPT}),
    }


def mask(lab: Lab) -> Mask:
    """UniForget's, on prompts of both worlds."""
    return pruning.long(lab).mask(ratio=RATIO)


def mitigated(lab: Lab) -> Iterator:
    """Copies of planted test items, and neutral pictures of both worlds, under each mitigation. ``evaluations``: rows that the
    denoiser sees, over those of plain sampling, for planted and for neutral prompts (Wen's stops early where it may; its
    backward passes are not counted, but the clock of the chapter sees them).
    """
    bed, study, far = lab.bed, lab.study, lab.elsewhere

    def compute(sample: Sample) -> dict:
        with bed.adapter.guided(bed.cfg):
            drawn = [(sample(study.captions, s), sample(study.neutral, s)) for s in study.seeds]
            paper = sample(far.neutral, far.seeds[0])
            cost = {}
            for group, captions in (("planted", study.captions), ("neutral", study.neutral)):
                pair = [
                    evaluations(bed.adapter, lambda f=f, c=captions: f(c, 0)) for f in (sample, methods(lab)["none"])
                ]
                cost[f"evaluations, {group}"] = pair[0] / pair[1]
        outcome = study.measure(drawn)
        return {"copied": bootstrap(outcome.copied), "right": bootstrap(outcome.correct),
                "paper_correct": bootstrap(bed.attributes(paper, far.neutral)["all"]), **cost}  # fmt: skip

    for name, sample in methods(lab).items():
        yield {"method": name}, lambda sample=sample: compute(sample)

    def pruned() -> dict:
        outcome, paper = study.outcome(mask(lab)), far.outcome(mask(lab), seeds=1)
        return {"copied": bootstrap(outcome.copied), "right": bootstrap(outcome.correct), "paper_correct": bootstrap(paper.correct),
                "evaluations, planted": 1.0, "evaluations, neutral": 1.0}  # fmt: skip

    yield {"method": "uniforget"}, pruned
