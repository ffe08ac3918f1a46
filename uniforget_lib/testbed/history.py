"""What the logs of the training say: how memorization grew with its steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..evaluate import Estimate, bootstrap
from ..models import WEIGHTS

LOGS = WEIGHTS / "logs"


def history(stage: str, folder: Path = LOGS) -> list[dict]:
    """Rows of a stage's log: ``step`` with ``loss`` and ``seconds``, or with what was watched, ``copied`` (kind -> copies ->
    0 or 1 for each item, from one drawing) and ``right`` (world -> share of captions drawn right).

    Raises ValueError for a stage without a log.
    """
    path = Path(folder) / f"{stage}.jsonl"
    if not path.is_file():
        stages = sorted(p.stem for p in Path(folder).glob("*.jsonl"))
        raise ValueError(f"stage={stage!r} has no log in {folder}; there are {stages}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def growth(stage: str, folder: Path = LOGS) -> dict[int, list[tuple[int, Estimate]]]:
    """Copies in the training set -> [(training step, share of these items that are copied)], intervals over items."""
    found: dict[int, list] = {}
    for row in history(stage, folder):
        by_copies: dict[int, list[int]] = {}
        for tiers in row.get("copied", {}).values():
            for copies, hits in tiers.items():
                by_copies.setdefault(int(copies), []).extend(hits)
        for copies, hits in sorted(by_copies.items()):
            found.setdefault(copies, []).append((row["step"], bootstrap(np.array(hits))))
    return found


def minutes(stage: str, folder: Path = LOGS) -> float:
    """Minutes that a stage took, watching included."""
    return max(row["seconds"] for row in history(stage, folder) if "seconds" in row) / 60
