"""What the build writes by itself: runs and their tables, the landing page's result, slides."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
runs = pytest.importorskip("runs")
slides = pytest.importorskip("slides", reason="needs nbconvert: pip install -e .[book]")

RUN = {"seed": 0, "device": "cpu (x86_64)", "library": "abc", "versions": {"python": "3.11", "torch": "2.13", "diffusers": "0.42"},
       "time": "2026-11-26T10:20:30+00:00", "profile": "cpu", "cores": 2, "threads": 1, "memory": 2 * 10**9, "gpu_memory": 0,
       "seconds": 90.0}  # fmt: skip
GPU = RUN | {"profile": "full", "device": "cuda (NVIDIA H200)", "gpu_memory": 16 * 10**9, "seconds": 30.0}


def cell(source, outputs=(), **metadata):
    return {
        "cell_type": "code",
        "metadata": metadata,
        "source": source,
        "outputs": list(outputs),
        "execution_count": None,
    }


def test_measuring_cell_comes_and_goes(tmp_path):
    path = tmp_path / "a.ipynb"
    stamp = lambda second: {"iopub.execute_input": f"2026-11-26T10:00:{second:02}Z"}  # noqa: E731
    path.write_text(json.dumps({"cells": [cell("x", execution=stamp(1)), cell("y", execution=stamp(31))]}))
    with pytest.raises(ValueError, match="a.ipynb: no measuring cell"):
        runs.take(path)
    runs.measure(path)
    made = json.loads(path.read_text())
    compile(made["cells"][-1]["source"], "cell", "exec")
    made["cells"][-1]["outputs"] = [{"text": json.dumps(RUN)}]
    path.write_text(json.dumps(made))
    assert runs.take(path) == RUN | {"seconds": 30.0}
    assert [c["source"] for c in json.loads(path.read_text())["cells"]] == ["x", "y"]


def test_measuring_cell_prints_what_the_tables_need(capsys):
    exec(runs.CELL, {})
    found = json.loads(capsys.readouterr().out)
    assert set(RUN) - {"seconds"} == set(found) and found["memory"] > 2**20


def test_status_names_every_run_and_never_claims_one_that_was_not_made():
    text = runs.status({"00_tour": RUN, "01_testbed": RUN}, {"full": {"00_tour": GPU}})
    tour, testbed = (next(line for line in text.splitlines() if name in line) for name in ("00_tour", "01_testbed"))
    assert "1.5 minutes, 2.0 GB" in tour and "NVIDIA H200" in tour and "16.0 GB on the GPU" in tour
    built_there = runs.status({"00_tour": GPU}, {"cpu": {"00_tour": RUN}})
    assert "1 of 2 cores" in built_there and "NVIDIA H200" in built_there and "never" not in built_there
    assert runs.line("00_tour", GPU, {}).startswith(
        "**Measured:** *cpu* not measured yet; *colab* not measured yet; *full* 30 s"
    )
    assert "never" in testbed and "H200" not in testbed
    assert "NVIDIA H200" in "\n".join(runs.checks()), "the report of the card is in tests/benchmarks"
    assert "not measured yet" in runs.line("01_testbed", RUN, {}) and "H200" in runs.line(
        "00_tour", RUN, {"full": {"00_tour": GPU}}
    )


def test_record_keeps_runs_of_other_profiles(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RECORDED", tmp_path / "runs.json")
    runs.RECORDED.write_text("{}")
    runs.record({"a": RUN, "b": RUN})
    runs.record({"a": GPU})
    runs.record({"b": RUN | {"seconds": 1.0}})
    kept = runs.recorded()
    assert kept["full"] == {"a": GPU} and kept["cpu"]["a"] == RUN and kept["cpu"]["b"]["seconds"] == 1.0


def test_landing_page_says_what_the_report_says():
    estimate = lambda mean: {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}  # noqa: E731

    def row(method, level, copied, right):
        return {
            "method": method,
            "level": level,
            "removed": 0.42,
            "copied": estimate(copied),
            "correct": estimate(right),
        }

    rows = [row("unpruned", "none", 0.9, 0.8), row("uniforget", "medium", 0.5, 0.7), row("random", "medium", 0.3, 0.2)]
    text = runs.result(rows)
    for part in (
        "90 % [80, 100]",
        "42 %",
        "50 % [40, 60]",
        "70 % [60, 80]",
        "80 % [70, 90]",
        "30 % [20, 40]",
        "20 % [10, 30]",
    ):
        assert part in text
    with pytest.raises(KeyError):
        runs.result(rows[:2])


FIGURE = '<div><div class="plotly-graph-div"></div></div>'
OPENING = "# A title\n\nWhy.\n\n**You will learn to**\n\n* do one thing. More of it.\n* do another\n\n**Before you start:** nothing."


def test_slides_have_goals_figures_short_tables_and_notes(tmp_path):
    path = tmp_path / "a.ipynb"
    html = lambda text: {"data": {"text/html": text}}  # noqa: E731
    table = "<table><tr></tr>" + "<tr></tr>" * 30 + "</table>"
    cells = [{"cell_type": "markdown", "source": OPENING, "metadata": {}},
             {"cell_type": "markdown", "source": "## Part\n\n$$x$$ (eq-x)\n\nSee {term}`units <unit>` {cite}`a`.", "metadata": {}},
             {"cell_type": "markdown", "source": "Said before.\n\n```\n# no heading\n```", "metadata": {}},
             cell("", [html(FIGURE), html(table)]),
             {"cell_type": "markdown", "source": "How to read it.\n\n## Key takeaways\n\n* Remember.\n\n## Last\n\nNot lost.", "metadata": {}}]  # fmt: skip
    path.write_text(json.dumps({"cells": cells}))
    text = slides.deck(path, [])
    assert text.count("<section>") == 5 and text.count(FIGURE) == 1 and table not in text
    assert "<h2># no heading" not in text
    for prose in ("Why.", "Said before.", "See ", "How to read it.", "Not lost."):
        assert prose in text, "all prose is somewhere in the notes"
    assert "<li>do one thing.</li>" in text and "More of it" not in text.split("</section>")[0].split("<aside")[0]
    notes = text.split(FIGURE)[1].split("</section>")[0]
    assert '<aside class="notes">' in notes and "How to read it." in notes
    assert "$$x$$" in text and "{term}" not in text and "eq-x" not in text and "units" in text
    assert "http" not in slides.PAGE
