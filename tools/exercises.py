"""Student and instructor notebooks from one source a chapter: ``book/exercises/NAME.py`` (jupytext's percent format).

* ``write``: student notebooks into ``notebooks/exercises`` (they are in git, because Colab opens them from there);
* ``course FOLDER``: student and instructor notebooks, and student notebooks without solutions, into a folder.

A source is a list of cells. An exercise begins with a Markdown cell whose first lines are ::

    ## Exercise 2.1: Count the tokens first
    *Difficulty 1 of 3, about 10 minutes*

and has, in this order, the cells that these tags name:

* ``given`` (or no tag): runs, or is read, everywhere; * ``solution``: the lines between ``### BEGIN SOLUTION`` and
``### END SOLUTION`` are what students write; * ``test``: visible, fails until they have; * ``hint``: a closed box;
* ``answer``: words to the solution, in one closed box with it; * ``mistake``: code that the test must refuse, a solution as
people get it wrong; * ``notes``: for instructors, what the mistake teaches and how to mark.

``tests/test_exercises.py`` proves for every exercise that the stub and the mistake fail and that the solution passes.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "book" / "exercises"
STUDENT = ROOT / "notebooks" / "exercises"
HEADING = re.compile(r"## Exercise (\d+b?\.\d+): (.+)\n\*Difficulty ([123]) of 3, about (\d+) minutes\*\n")
REGION = re.compile(r"( *)### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", re.S)
ROLES = ("given", "solution", "test", "hint", "answer", "mistake", "notes")
# In place of a source's `import uniforget_lib as uf`: the first code cell of every notebook of the book.
INSTALL = """\
try:
    import uniforget_lib as uf
except ModuleNotFoundError:  # on Colab
    %pip install -q "uniforget-lib @ git+https://github.com/uniforget-book/uniforget-book@v0.1.0"
    import uniforget_lib as uf"""
ONCE = ("solution", "hint", "answer", "mistake", "notes")  # the rest of an exercise may have several cells of


@dataclass
class Exercise:
    """``cells``: (role, cell) in the order of the source, the task among them; see the module for the roles."""

    number: str
    title: str
    difficulty: int
    minutes: int
    cells: list = field(default_factory=list)

    def code(self, role: str) -> str:
        """The code of all cells of a role, one after the other."""
        return "\n".join(cell.source for r, cell in self.cells if r == role and cell.cell_type == "code")


def role(cell) -> str:
    tags = [tag for tag in cell.metadata.get("tags", []) if tag in ROLES]
    return tags[0] if tags else "given"


def read(path: Path) -> tuple[list, list[Exercise]]:
    """The cells before the first exercise, and the exercises.

    Raises ValueError naming the file, the exercise and what it lacks.
    """
    intro, found = [], []
    for cell in jupytext.read(path).cells:
        heading = HEADING.match(cell.source + "\n")
        if cell.source.startswith("## Exercise") and not heading:
            raise ValueError(f"{path.name}: {cell.source.splitlines()[:2]} is not a heading and its line of difficulty")
        if heading:
            number, title, difficulty, minutes = heading.groups()
            found.append(Exercise(number, title, int(difficulty), int(minutes)))
        (found[-1].cells if found else intro).append((role(cell), cell))
    for exercise in found:
        roles = [r for r, _ in exercise.cells]
        wrong = [r for r in ONCE if roles.count(r) != 1] + ["test"] * ("test" not in roles)
        if wrong or len(REGION.findall(exercise.code("solution"))) < 1:
            raise ValueError(f"{path.name}, exercise {exercise.number}: needs one cell each of {ONCE}, a test, and in its "
                             f"solution a region ### BEGIN SOLUTION to ### END SOLUTION; wrong: {wrong or 'region'}")  # fmt: skip
    return [cell for _, cell in intro], found


def stub(code: str, number: str) -> str:
    """A solution without what students write."""
    return REGION.sub(rf'\1raise NotImplementedError("exercise {number}: your code here")', code)


def solved(code: str) -> str:
    """A solution without the marks of the region."""
    return REGION.sub(r"\2", code)


def _box(summary: str, text: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{text.strip()}\n\n</details>"


def _code(text: str) -> str:
    return f"```python\n{text.strip()}\n```"


def notebook(path: Path, solutions: str):
    """The notebook of a source; ``solutions``: ``"boxed"`` (for students), ``"none"``, or ``"shown"`` (for instructors)."""
    intro, exercises = read(path)
    cells = [_copy(cell) for cell in intro]
    for exercise in exercises:
        answer = ""
        for name, cell in exercise.cells:
            if name == "solution":
                answer = _code(solved(cell.source))
                shown = solved(cell.source) if solutions == "shown" else stub(cell.source, exercise.number)
                cells.append(new_code_cell(shown))
            elif name == "hint":
                cells.append(new_markdown_cell(_box("Hint", cell.source)))
            elif name == "answer" and solutions == "shown":
                cells.append(new_markdown_cell("**Answer.** " + cell.source))
            elif name == "answer" and solutions == "boxed":
                cells.append(new_markdown_cell(_box("Solution", answer + "\n\n" + cell.source)))
            elif name == "mistake" and solutions == "shown":
                cells.append(
                    new_markdown_cell("**A common mistake**, which the test refuses:\n\n" + _code(cell.source))
                )
            elif name == "notes" and solutions == "shown":
                cells.append(new_markdown_cell("**For instructors.** " + cell.source))
            elif name in ("given", "test"):
                cells.append(_copy(cell))
    for k, cell in enumerate(cells):
        cell["id"] = f"cell-{k}"  # the same for the same source
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def _copy(cell):
    source = INSTALL if cell.source == "import uniforget_lib as uf" else cell.source
    made = new_code_cell(source) if cell.cell_type == "code" else new_markdown_cell(source)
    if "test" in cell.metadata.get("tags", []):
        made.metadata["tags"] = ["raises-exception"]  # "run all" goes on to the next exercise
    return made


def sources() -> list[Path]:
    return sorted(SOURCES.glob("*.py"))


def text(path: Path, solutions: str = "boxed") -> str:
    """The notebook as it stands in its file."""
    made = notebook(path, solutions)
    nbformat.validate(made)
    return nbformat.writes(made, indent=1) + "\n"


def listing() -> str:
    """Markdown: a table of all exercises."""
    rows = ["| Number | Exercise | Difficulty | Minutes |", "|---|---|---|---|"]
    for path in sources():
        for e in read(path)[1]:
            rows.append(
                f"| {{doc}}`{e.number} </notebooks/exercises/{path.stem}>` | {e.title} | {e.difficulty} of 3 | {e.minutes} |"
            )
    return "\n".join(rows) + "\n"


def write(folder: Path, solutions: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sources():
        (folder / f"{path.stem}.ipynb").write_text(text(path, solutions), encoding="utf-8")
    print(f"   exercises: {len(sources())} notebooks in {folder}")


def course(folder: Path) -> None:
    """Notebooks with closed solutions, without any, and with everything."""
    for name, solutions in (("student", "boxed"), ("handout", "none"), ("instructor", "shown")):
        write(folder / name, solutions)


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        write(STUDENT, "boxed")
    elif len(sys.argv) == 3 and sys.argv[1] == "course":
        course(Path(sys.argv[2]))
    else:
        sys.exit("usage: python tools/exercises.py {write | course FOLDER}")
