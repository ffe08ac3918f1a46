"""The template notebook takes a model of one's own through the pipeline, by papermill parameters, and resumes."""

import json
import os

import papermill
import pytest
from conftest import tiny_sd
from PIL import Image
from test_structure import ROOT

from uniforget_lib import Report
from uniforget_lib.sweeps import read_neutral, read_pictures, read_suspects

NOTEBOOK = ROOT / "notebooks" / "07_your_model.ipynb"
NEUTRAL = ["a cat on a blue ground", "a tree on a white ground", "a house", "a dog left of a car"]


def prompts(folder, rows):
    (folder / "mine.csv").write_text("caption,file\n" + "".join(f"{caption},{file}\n" for caption, file in rows))
    return folder / "mine.csv"


@pytest.mark.slow
def test_template_runs_on_a_model_of_ones_own_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFORGET_PROFILE", "cpu")
    tiny_sd().pipe.save_pretrained(tmp_path / "model")
    Image.new("RGB", (90, 70), "red").save(tmp_path / "a.png")
    (tmp_path / "neutral.txt").write_text("\n".join(NEUTRAL) + "\n\n")
    given = {"MODEL": str(tmp_path / "model"), "PROMPTS": str(prompts(tmp_path, [("my dog rex", "a.png"), ("a cafe", "a.png")])),
             "NEUTRAL": str(tmp_path / "neutral.txt"), "FOLDER": str(tmp_path / "out"), "MASK_STEPS": 2, "BATCH": 2, "STEPS": 2, "GUIDANCE": 1.5,
             "ATTACK_STEPS": 1}  # fmt: skip
    rows = []
    for strengths in ([0.05], [0.05, 0.1]):
        options = {"kernel_name": "python3", "progress_bar": False, "cwd": str(tmp_path)}
        papermill.execute_notebook(NOTEBOOK, tmp_path / "done.ipynb", given | {"STRENGTHS": strengths}, **options)
        rows.append(Report.from_json(tmp_path / "out" / "sweep" / "sweep.json").rows)
    assert [len(r) for r in rows] == [4, 7] and rows[1][:4] == rows[0], "the second run kept the rows of the first"
    assert all("copied" in row for row in rows[1])
    made = tmp_path / "out"
    tested = json.loads((made / "model" / "tested.json").read_text())
    assert tested["meta"]["strength"] == 0.1 and (made / "model" / "uniforget.json").is_file()
    assert json.loads((tmp_path / "done.ipynb").read_text())["metadata"]["papermill"]["exception"] is None
    attacked = Report.from_json(made / "attacked.json").rows
    assert {(r["model"], r["goal"]) for r in attacked} == {
        (m, g) for m in ("unpruned", "pruned") for g in ("suspects", "mirrored")
    }


def test_suspects_are_read_or_refused_by_line(tmp_path):
    Image.new("RGBA", (90, 70), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (90, 70), "red").save(tmp_path / "a.png")
    captions, files = read_suspects(prompts(tmp_path, [("my dog", "a.png"), ('"a cafe, at night"', "clear.png")]))
    pictures = read_pictures(files, 32)
    assert captions == ["my dog", "a cafe, at night"] and pictures.shape == (2, 3, 32, 32)
    assert pictures[0, 0].min() > 0.99 and pictures[0, 1].max() < 0.01 and pictures[1].min() > 0.99
    assert read_suspects(prompts(tmp_path, [("my dog", "")])) == (["my dog"], None)
    for rows, error, text in (([("", "a.png")], ValueError, "line 2: no caption"), ([("x", "c.png")], FileNotFoundError, "line 2"),
                              ([("a cafe, at night", "a.png")], ValueError, "line 2: more fields"),
                              ([("x", "a.png"), ("y", "")], ValueError, "2 rows, 1 with"), ([], ValueError, "0 rows")):  # fmt: skip
        with pytest.raises(error, match=text):
            read_suspects(prompts(tmp_path, rows))
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="b.png is no picture"):
        read_pictures([tmp_path / "b.png"], 32)
    (tmp_path / "mine.csv").write_text("my dog\nmy cat\n")
    with pytest.raises(ValueError, match="must name the columns"):
        read_suspects(tmp_path / "mine.csv")
    (tmp_path / "neutral.txt").write_text("a cat\n\n a tree \na cat\n")
    assert read_neutral(tmp_path / "neutral.txt") == ["a cat", "a tree"]


@pytest.fixture(scope="module")
def swept():
    path = ROOT / "_build" / "executed" / "out" / "testbed" / "sweep" / "sweep.json"
    if not path.is_file():
        if os.environ.get("UNIFORGET_REQUIRE_BOOK"):
            pytest.fail(f"{path} is missing: the template was not executed")
        pytest.skip("the template was not executed: run `make book`")
    return {(row["method"], row["strength"]): row for row in Report.from_json(path).rows}


@pytest.mark.parametrize("strength", [3.1, 10.0])
def test_what_the_page_says_of_the_testbed_is_what_its_run_found(swept, strength):
    """UniForget's points lie to the left of the controls', which remove as many units; the intervals are apart."""
    ours = swept["uniforget", strength]
    for method in ("random", "magnitude"):
        other = swept[method, strength]
        assert other["removed"] == ours["removed"] and other["neutral_change"].low > ours["neutral_change"].high
