"""What a run of a notebook took, and the pages that say so: the line under each title, the status page, the landing page.

`measure` adds a cell to the copy of a notebook that is executed; `take` takes it out again and returns what it printed. Runs
of other machines (a GPU's) are kept in ``book/runs.json``: ``python tools/book.py record`` puts the last execution there.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "book" / "runs.json"
GPU_CHECKS = ROOT / "tests" / "benchmarks"

CELL = """\
import json, os, resource, sys, torch
import uniforget_lib
device = uniforget_lib.profile().device
print(json.dumps(uniforget_lib.provenance(seed=0, device=device) | {
    "profile": uniforget_lib.profile().name, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    "gpu_memory": torch.cuda.max_memory_allocated() if device != "cpu" else 0}))
"""


def measure(path: Path) -> None:
    """Append the measuring cell to the notebook in ``path``."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"].append({"cell_type": "code", "id": "measure", "metadata": {"tags": ["measure"]}, "source": CELL,
                              "outputs": [], "execution_count": None})  # fmt: skip
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")


def take(path: Path) -> dict:
    """Remove the measuring cell of an executed notebook; what it printed, and the seconds from the first cell to the last.

    Raises ValueError for a notebook without one.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    found = [cell for cell in cells if "measure" in cell["metadata"].get("tags", [])]
    if not found or not found[0]["outputs"]:
        raise ValueError(f"{path.name}: no measuring cell with an output; execute the notebook first")
    notebook["cells"] = [cell for cell in cells if cell not in found]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    times = [cell["metadata"]["execution"] for cell in notebook["cells"] if cell["metadata"].get("execution")]
    stamps = [datetime.fromisoformat(t.replace("Z", "+00:00")) for some in times for t in some.values()]
    record = json.loads("".join(found[0]["outputs"][0]["text"]))
    return record | {"seconds": round((max(stamps) - min(stamps)).total_seconds(), 1)}


def recorded() -> dict[str, dict]:
    """Profile -> notebook -> run, of other machines."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def record(runs: dict[str, dict]) -> None:
    """Keep ``runs`` (notebook -> run) in `RECORDED`, in the place of older ones of their profile."""
    kept = recorded()
    for name, run in runs.items():
        kept.setdefault(run["profile"], {})[name] = run
    RECORDED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def took(run: dict) -> str:
    minutes = run["seconds"] / 60
    time = f"{minutes:.1f} minutes" if minutes >= 1 else f"{run['seconds']:.0f} seconds"
    gpu = f", {run['gpu_memory'] / 1e9:.1f} GB on the GPU" if run["gpu_memory"] else ""
    return f"{time}, {run['memory'] / 1e9:.1f} GB of memory{gpu}"


def line(name: str, run: dict, others: dict[str, dict]) -> str:
    """Markdown under the title of a notebook: what its run took on every profile, and where its slides are."""
    known = {profile: runs[name] for profile, runs in others.items() if name in runs} | {run["profile"]: run}
    parts = []
    for profile in ("cpu", "colab", "full"):
        other = known.get(profile)
        here = ", the run behind this page" if other is run else ""
        parts.append(f"*{profile}* " + (f"{took(other)} ({machine(other)}{here})" if other else "not measured yet"))
    slides = f'<a href="../slides/{name}.html">Slides</a> of this chapter.'
    return f"**Measured:** {'; '.join(parts)}. {{doc}}`All notebooks </book/status>`. {slides}"


def machine(run: dict) -> str:
    """The card, or how many threads on how many cores; notebooks may run side by side."""
    beside = ", beside another notebook" if run.get("workers", 1) > 1 else ""
    return card(run) if run["gpu_memory"] else f"{run['threads']} of {run['cores']} cores{beside}"


def card(run: dict) -> str:
    return run["device"].partition("(")[2].rstrip(")") or run["device"]


def status(runs: dict[str, dict], others: dict[str, dict]) -> str:
    """Markdown tables of the last runs: a row a notebook; and of the library's checks on a GPU."""
    rows = ["| Notebook | Last CPU run | Last run on a GPU |", "|---|---|---|"]
    for name, run in runs.items():
        known = {profile: found[name] for profile, found in others.items() if name in found} | {run["profile"]: run}
        on = [[r for r in known.values() if bool(r["gpu_memory"]) == gpu] for gpu in (False, True)]
        cells = (
            "; ".join(f"{r['time'][:16].replace('T', ' ')}: {took(r)} ({machine(r)})" for r in found) or "never"
            for found in on
        )
        rows.append(f"| {{doc}}`/notebooks/{name}` | {' | '.join(cells)} |")
    first = next(iter(runs.values()))
    versions = ", ".join(f"{package} {version}" for package, version in first["versions"].items())
    about = f"The runs behind this book: {card(first)}; {versions}; library `{first['library']}`."
    return "\n".join([*rows, "", about, "", *checks()]) + "\n"


def checks() -> list[str]:
    """Markdown lines: what ``python -m uniforget_lib.gpu_check`` found on each card whose report is in the repository."""
    found = ["| Card | When | Checks passed | Versions | Library |", "|---|---|---|---|---|"]
    for path in sorted(GPU_CHECKS.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = report["rows"]
        if not isinstance(rows, list) or not rows or "check" not in rows[0]:
            continue
        meta, passed = report["meta"], sum(bool(row["passed"]) for row in rows)
        versions = ", ".join(f"{p} {meta['versions'][p]}" for p in ("python", "torch", "diffusers"))
        found.append(
            f"| {card(meta)} | {meta['time'][:10]} | {passed} of {len(rows)} | {versions} | `{meta['library']}` |"
        )
    return found


def result(rows: list[dict]) -> str:
    """Markdown: the tour's result in a few sentences, from the rows of its own report."""
    found = {(row["method"], row["level"]): row for row in rows}
    start, ours, chance = (found[key] for key in (("unpruned", "none"), ("uniforget", "medium"), ("random", "medium")))

    def of(row: dict, column: str) -> str:
        return f"{100 * row[column]['mean']:.0f} % [{100 * row[column]['low']:.0f}, {100 * row[column]['high']:.0f}]"

    return (
        f"A small model had memorized pictures that we planted: asked for them, it **copies {of(start, 'copied')}**. UniForget "
        f"was told nothing of them. It removed {100 * ours['removed']:.0f} % of the model's units, those that *neutral* prompts "
        f"can spare. **Now {of(ours, 'copied')} are copied, and {of(ours, 'correct')} of unrelated pictures are right** "
        f"(before: {of(start, 'correct')}). As many units removed at random leave {of(chance, 'copied')} copied, and "
        f"{of(chance, 'correct')} right: forgetting everything is easy. (In brackets: 95 % intervals.)\n"
    )


def figure(notebook: Path, tag: str) -> str:
    """The HTML of the last output of the cell with this tag. Raises ValueError for none."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if tag in cell["metadata"].get("tags", []):
            found = [o["data"]["text/html"] for o in cell["outputs"] if "text/html" in o.get("data", {})]
            if found:
                return "".join(found[-1])
    raise ValueError(f"{notebook.name}: no cell tagged {tag!r} with a figure")
