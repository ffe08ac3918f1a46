"""Report: rows of results with their provenance."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch

from .evaluate.stats import Estimate
from .files import write_bytes


@lru_cache(maxsize=1)
def library_hash() -> str:
    """First 12 digits of the SHA-256 of this library's source files."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def provenance(*, seed: int, device: str | torch.device) -> dict:
    """Versions, seed, device, library hash and time."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "diffusers", "transformers", "numpy", "uniforget-lib"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"seed": seed, "device": f"{device} ({name})", "library": library_hash(), "versions": versions,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}  # fmt: skip


@dataclass
class Report:
    """``rows``: one dict a result, values numbers, strings or `Estimate`; ``meta``: see `provenance`."""

    meta: dict
    rows: list[dict] = field(default_factory=list)

    def add(self, **row) -> None:
        """Append one row."""
        self.rows.append(row)

    def to_frame(self) -> pd.DataFrame:
        """Rows as a table; estimates as ``mean [low, high]``."""
        return pd.DataFrame([{k: str(v) if isinstance(v, Estimate) else v for k, v in r.items()} for r in self.rows])

    def to_json(self, path: str | Path) -> Path:
        """Write rows and provenance to ``path`` and return it."""
        write_bytes(path, json.dumps(asdict(self), indent=1).encode())
        return Path(path)

    @classmethod
    def from_json(cls, path: str | Path) -> Report:
        """Read back what `to_json` wrote."""
        state = json.loads(Path(path).read_text())
        estimate = {"mean", "low", "high"}
        rows = [{k: Estimate(**v) if isinstance(v, dict) and set(v) == estimate else v for k, v in row.items()}
                for row in state["rows"]]  # fmt: skip
        return cls(state["meta"], rows)

    def compare(self, other: Report, on: str | list[str]) -> pd.DataFrame:
        """Both reports' rows side by side, joined on the column(s) ``on``, which must tell a report's rows apart."""
        columns = [on] if isinstance(on, str) else list(on)
        for report, name in ((self, "this report"), (other, "the other report")):
            keys = [tuple(row.get(c) for c in columns) for row in report.rows]
            if any(c not in row for row in report.rows for c in columns):
                raise ValueError(f"on={on!r}: a row of {name} has no such column")
            if len(set(keys)) < len(keys):
                raise ValueError(f"on={on!r}: {name} has several rows for one value; name more columns")
        return self.to_frame().merge(other.to_frame(), on=columns, how="outer", suffixes=("", " (other)"))


def resume(
    path: str | Path, cells: Iterable[tuple[dict, Callable[[], dict]]], meta: dict, limit: int | None = None
) -> Report:
    """Compute the rows that ``path`` does not have yet, at most ``limit`` of them, and write each there as it comes.

    Args:
        cells: a key, and what computes the row under it. A row is there if all of its key is. Every new row gets the
            library's hash and its seconds.
        meta: of a new report. If it has ``settings``, they must be those of the report that is continued.

    Raises ValueError for a report with other settings.
    """
    path = Path(path)
    report = Report.from_json(path) if path.is_file() else Report(meta)
    if report.meta.get("settings") != meta.get("settings"):
        old, new = report.meta.get("settings") or {}, meta.get("settings") or {}
        differ = [f"{k} was {_short(old.get(k))}, is {_short(new.get(k))}" for k in sorted(old.keys() | new.keys())
                  if old.get(k) != new.get(k)]  # fmt: skip
        raise ValueError(f"{path} was made with other settings ({'; '.join(differ)}); choose another folder")
    for key, compute in cells:
        if any(all(row.get(k) == v for k, v in key.items()) for row in report.rows):
            continue
        if limit is not None and limit < 1:
            break
        limit = None if limit is None else limit - 1
        start = perf_counter()
        row = compute()
        report.add(**key, **row, seconds=round(perf_counter() - start, 1), library=library_hash())
        report.to_json(path)
    return report


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
