"""Report: rows of results with their provenance."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
