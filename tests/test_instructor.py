"""The instructor guide: its plans add up with the minutes of the exercises, and its numbers are those of the chapters."""

import json
import re

import pytest
from test_exercises import exercises
from test_structure import ROOT

GUIDE = (ROOT / "book" / "instructor.md").read_text(encoding="utf-8")
MINUTES = {e.number: e.minutes for path in exercises.sources() for e in exercises.read(path)[1]}


def section(title: str) -> str:
    return re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", GUIDE, flags=re.M | re.S).group(1)


@pytest.mark.parametrize("title, total", [("Two hours", 120), ("One day", 360)])
def test_a_plan_adds_up_and_gives_exercises_their_minutes(title, total):
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section(title).splitlines()
        if re.match(r"\| *\d", line)
    ]
    assert sum(int(row[0]) for row in rows) == total
    given = {row[3]: int(row[0]) for row in rows if row[3]}
    assert len(given) >= 3 and given == {number: MINUTES[number] for number in given}


def test_four_weeks_have_every_exercise_once_and_meetings_of_90_minutes():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section("Four weeks").splitlines()
        if re.match(r"\| *\d", line)
    ]
    found = []
    for _, back, shown, work, talk, _, homework in rows:
        assert int(back) + int(talk) + sum(int(re.match(r"\d+", cell).group()) for cell in (shown, work)) == 90
        numbers = [re.findall(r"\d+b?\.\d", cell) for cell in (work, homework)]
        for cell, some in zip((work, homework), numbers):
            minutes = re.search(r"^(\d+):|\((\d+)\)", cell)
            if some:
                assert sum(MINUTES[n] for n in some) == int(minutes.group(1) or minutes.group(2)), cell
        found += sum(numbers, [])
    assert sorted(found) == sorted(MINUTES)


def test_the_rubric_sums_to_100():
    assert sum(int(points) for points in re.findall(r"\| (\d+)/\d+/0 \|", section("Assessment"))) == 100


def test_numbers_of_the_chapters_stand_in_the_chapters():
    parts = re.split(r"\*\*\{doc\}`[^<]*</notebooks/([^>]+)>`\.\*\*", section("Chapter by chapter"))[1:]
    assert len(parts) == 18
    for name, text in zip(parts[::2], parts[1::2]):
        cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        prose = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        figures = re.findall(r"(?<![\d.])\.\d+(?: +\[[^\]]+\])?", " ".join(text.split()))
        missing = [f for f in figures if f not in " ".join(prose.split())]
        assert missing == [], f"{name}: {missing}"
