"""Exercises: every stub fails, the usual mistake fails, the solution passes; student notebooks are those of the sources."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
exercises = pytest.importorskip("exercises", reason="needs jupytext: pip install -e .[book]")
SOURCES = exercises.sources()


def run(code: str, names: dict) -> None:
    exec(compile(code, "<exercise>", "exec"), names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_stub_and_mistake_fail_and_solution_passes(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    intro, found = exercises.read(path)
    assert len(found) >= 2
    names = {"__name__": "__exercise__"}
    for cell in intro:
        if cell.cell_type == "code":
            run(cell.source, names)
    for exercise in found:
        run(exercise.code("given"), names)
        test, solution = exercise.code("test"), exercise.code("solution")
        with pytest.raises(NotImplementedError, match=exercise.number):
            run(exercises.stub(solution, exercise.number) + "\n" + test, names)
        run(exercise.code("mistake"), names)
        with pytest.raises(AssertionError):
            run(test, names)
        run(exercises.solved(solution), names)
        run(test, names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_student_notebooks_are_those_of_the_sources(path):
    written = ROOT / "notebooks" / "exercises" / f"{path.stem}.ipynb"
    assert written.read_text(encoding="utf-8") == exercises.text(path), "run: python tools/exercises.py write"


def test_every_chapter_has_exercises_and_numbers_are_its_own():
    chapters = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")} - {"00_tour", "07_your_model"}
    assert {p.stem for p in SOURCES} == chapters
    for path in SOURCES:
        start = path.stem.split("_")[0].lstrip("0")
        numbers = [e.number for e in exercises.read(path)[1]]
        assert numbers == [f"{start}.{k + 1}" for k in range(len(numbers))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_handouts_have_no_solution_and_student_notebooks_hide_it(path):
    for exercise in exercises.read(path)[1]:
        secret = max(exercises.REGION.search(exercise.code("solution")).group(2).splitlines(), key=len).strip()
        cells = {kind: json.loads(exercises.text(path, kind))["cells"] for kind in ("none", "boxed", "shown")}
        where = {
            kind: ["".join(c["source"]) for c in some if secret in "".join(c["source"])] for kind, some in cells.items()
        }
        assert where["none"] == []
        assert where["boxed"] and all(source.startswith("<details>") for source in where["boxed"])
        assert any(c["cell_type"] == "code" and secret in "".join(c["source"]) for c in cells["shown"])


def test_a_source_that_lacks_something_is_refused(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("# %% [markdown]\n# ## Exercise 1.1: A\n# *Difficulty 1 of 3, about 5 minutes*\n#\n# Do it.\n")
    with pytest.raises(ValueError, match="x.py, exercise 1.1"):
        exercises.read(path)
    path.write_text("# %% [markdown]\n# ## Exercise one\n")
    with pytest.raises(ValueError, match="not a heading"):
        exercises.read(path)
