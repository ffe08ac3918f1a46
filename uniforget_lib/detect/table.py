"""Risks of a list of prompts as a table: what a user runs on prompts of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from torch import Tensor

from ..files import write_bytes
from ..models.base import ModelAdapter, check_prompts
from ..progress import progress

Detector = Callable[..., Tensor]


def risk_table(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    detectors: Mapping[str, Detector],
    *,
    limits: Mapping[str, float] | None = None,
    seeds: Sequence[int] | None = None,
    batch: int = 16,
    save: str | Path | None = None,
) -> pd.DataFrame:
    """Risks of ``prompts``, a row each, in their order.

    Args:
        detectors: name -> detector: of `DETECTORS`, say, or a partial of one with options.
        limits: name -> threshold; adds a column ``<name> flagged``: risk >= limit. There is no threshold that fits all
            models: set it on prompts of this one that are known not to be memorized (`evaluate.tpr_at`).
        seeds: of every detector, instead of its own.
        save: a ``.csv`` or ``.parquet`` (which needs pyarrow) to keep the table in. It is written after every detector,
            so what was computed is not lost.

    Columns: prompt, tokens (special ones included, and as many as the model reads at most), then a risk for every detector. A prompt that occurs twice is
    computed once. Raises, before anything is computed, for bad prompts as the detectors do, and ValueError for limits of
    detectors that are not there and for another kind of file.
    """
    prompts, limits = check_prompts(prompts), dict(limits or {})
    if not detectors:
        raise ValueError("detectors is empty; give at least one")
    if limits.keys() - detectors.keys():
        raise ValueError(f"limits: {sorted(limits.keys() - detectors.keys())} are none of the detectors "
                         f"{sorted(detectors)}")  # fmt: skip
    path = None if save is None else _check_path(Path(save))
    distinct = list(dict.fromkeys(prompts))
    frame = pd.DataFrame({"prompt": distinct, "tokens": adapter.prompt_lengths(distinct).tolist()})
    options = {} if seeds is None else {"seeds": seeds}
    for name in progress(list(detectors), desc="detectors"):
        frame[name] = detectors[name](adapter, distinct, batch=batch, **options).tolist()
        if name in limits:
            frame[f"{name} flagged"] = frame[name] >= limits[name]
        table = frame.set_index("prompt").loc[prompts].reset_index()
        if path is not None:
            text = table.to_csv(index=False).encode() if path.suffix == ".csv" else table.to_parquet(index=False)
            write_bytes(path, text)
    return table


def _check_path(path: Path) -> Path:
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"save={str(path)!r}: its name must end in .csv or .parquet")
    if path.suffix == ".parquet" and not (find_spec("pyarrow") or find_spec("fastparquet")):
        raise ValueError(f"save={str(path)!r}: parquet needs pyarrow (pip install pyarrow); .csv needs nothing")
    return path
