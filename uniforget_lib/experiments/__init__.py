"""Experiments that take too long for a notebook: ``python -m uniforget_lib.experiments kinds --family flux``.

An experiment is a function of a `Lab` that yields *cells*: a key, and how to compute the row under it. Rows are stored as
they come, each with the library's hash and its seconds, so that an interrupted run goes on where it was; notebooks read
them with `stored`. A new experiment is one function and a line in `EXPERIMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..report import Report, provenance, resume
from . import attacks, causes, locators, mitigations, pruning, recipe, unlearning
from .lab import Lab

EXPERIMENTS: dict[str, Callable[[Lab], Iterable]] = {
    "locators": locators.locators,
    "overlap": locators.overlap,
    "kinds": recipe.kinds,
    "strength": recipe.strength,
    "budget": recipe.budget,
    "agreement": recipe.agreement,
    "prompts": recipe.prompts,
    "steps": recipe.steps,
    "removed": causes.removed,
    "contents": causes.contents,
    "tiers": causes.tiers,
    "dose": causes.dose,
    "sites": causes.sites,
    "when": causes.when,
    "latents": causes.latents,
    "pruned": pruning.pruned,
    "retrained": pruning.retrained,
    "settings": unlearning.settings,
    "design": unlearning.design,
    "growth": unlearning.growth,
    "mitigated": mitigations.mitigated,
    "stressed": attacks.stressed,
    "curves": attacks.curves,
    "removal": attacks.removal,
}
RESULTS = Path(__file__).parent / "results"


def stored(name: str, folder: Path = RESULTS) -> Report:
    """What an experiment found when it was last run. Raises ValueError for a name without results."""
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise ValueError(
            f"{name!r} has no results in {folder}; there are {sorted(p.stem for p in Path(folder).glob('*.json'))}"
        )
    return Report.from_json(path)


def run(name: str, lab: Lab, folder: Path = RESULTS, limit: int | None = None) -> Report:
    """Compute the rows of an experiment that are not stored yet, at most ``limit`` of them.

    Raises ValueError for an unknown name, before anything is computed.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment {name!r}: use one of {sorted(EXPERIMENTS)}")
    cells = (({"family": lab.bed.family, **key}, compute) for key, compute in EXPERIMENTS[name](lab))
    return resume(Path(folder) / f"{name}.json", cells, provenance(seed=0, device=lab.bed.adapter.device), limit)


def forget(name: str, family: str, folder: Path = RESULTS) -> None:
    """Drop the stored rows of an experiment on one family, if there are any; those of the other family stay."""
    path = Path(folder) / f"{name}.json"
    if path.is_file():
        report = Report.from_json(path)
        report.rows = [row for row in report.rows if row["family"] != family]
        report.to_json(path)
