"""Is the testbed fit for its purpose? The quantities that its conclusions rest on, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..evaluate import Estimate, bootstrap, bootstrap_ratio, copied, detail
from .planted import TIERS

if TYPE_CHECKING:
    from . import Testbed


def measure(testbed: Testbed, *, limit: float, prompts: int = 128,
            seeds: Sequence[int] = range(4)) -> dict[str, Estimate]:  # fmt: skip
    """What a reader must know before believing anything measured on the testbed: name -> estimate.

    Copy rates by number of copies, and of the ``test`` controls, on which ``limit`` was not set; the share of held-out
    neutral captions that are drawn with every attribute right, beside the judge's own rate on real pictures of them;
    and detail (high-frequency energy) as ratios: drawn to real neutral pictures; planted to neutral training
    pictures; and, as drawn, items with 20 or more copies to neutral pictures.
    """
    captions = testbed.neutral(prompts)
    real, trained = testbed.real(captions), testbed.real(testbed.neutral(prompts, "train"))
    drawn = [testbed.images(captions, seed=s) for s in seeds]
    found, recalled = {}, []
    groups = {f"copied, {c} copies": testbed.planted(copies=c) for c in TIERS}
    for name, chosen in {**groups, "copied, controls": testbed.controls("test")}.items():
        images = [testbed.images([i.caption for i in chosen], seed=s) for s in seeds]
        found[name] = bootstrap(np.stack([copied(x, testbed.targets(chosen), limit) for x in images]))
        if chosen[0].copies >= 20:
            recalled.append(np.stack([detail(x) for x in images]))
    found["judge right, real pictures"] = bootstrap(testbed.attributes(real, captions)["all"])
    found["attributes right, drawn"] = bootstrap(np.stack([testbed.attributes(x, captions)["all"] for x in drawn]))
    neutral, training = np.stack([detail(x) for x in drawn]), detail(testbed.targets(testbed.planted()))
    found["detail, neutral: drawn / real"] = bootstrap_ratio(neutral, detail(real))
    found["detail, training: planted / neutral"] = bootstrap_ratio(training, detail(trained))
    found["detail, drawn: copied items / neutral"] = bootstrap_ratio(np.concatenate(recalled, axis=1), neutral)
    return found
