"""The template notebook takes a model of one's own through the pipeline, by papermill parameters, and resumes."""

import json

import papermill
import pytest
from conftest import tiny_sd
from PIL import Image
from test_chapter_testbed import report
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
             "NEUTRAL": str(tmp_path / "neutral.txt"), "FOLDER": str(tmp_path / "out"), "MASK_STEPS": 3, "LEARNING_RATE": 3.0, "BATCH": 2, "STEPS": 2, "GUIDANCE": 1.5,
             "ATTACK_STEPS": 1}  # fmt: skip
    rows = []
    for strengths in ([0.05], [0.05, 0.1]):
        options = {"kernel_name": "python3", "progress_bar": False, "cwd": str(tmp_path)}
        papermill.execute_notebook(NOTEBOOK, tmp_path / "done.ipynb", given | {"STRENGTHS": strengths}, **options)
        rows.append(Report.from_json(tmp_path / "out" / "sweep" / "sweep.json").rows)
    assert [len(r) for r in rows] == [4, 7] and rows[1][:4] == rows[0], "the second run kept the rows of the first"
    assert all("copied" in row for row in rows[1])
    made = tmp_path / "out"
    tested = json.loads((made / "model-0.1" / "tested.json").read_text())
    assert tested["meta"]["strength"] == 0.1 and (made / "model-0.05" / "uniforget.json").is_file(), (
        "that of the first run is still there"
    )
    assert json.loads((tmp_path / "done.ipynb").read_text())["metadata"]["papermill"]["exception"] is None
    attacked = Report.from_json(made / "model-0.1" / "attacked.json").rows
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
                              ([("a cafe, at night", "a.png")], ValueError, "line 2: not as many fields"),
                              ([("x", "a.png"), ("y", "")], ValueError, "2 rows, 1 with"), ([], ValueError, "0 rows")):  # fmt: skip
        with pytest.raises(error, match=text):
            read_suspects(prompts(tmp_path, rows))
    for text in ("caption,source\na cafe, at night\n", "caption,file\na cafe\n"):
        (tmp_path / "mine.csv").write_text(text)
        with pytest.raises(ValueError, match="name the columns|needs quotes"):
            read_suspects(tmp_path / "mine.csv")
    for read in (read_suspects, read_neutral):
        with pytest.raises(FileNotFoundError, match="nowhere.csv is not there .looked in"):
            read(tmp_path / "nowhere.csv")
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="b.png is no picture"):
        read_pictures([tmp_path / "b.png"], 32)
    (tmp_path / "mine.csv").write_text("my dog\nmy cat\n")
    with pytest.raises(ValueError, match="must name the columns"):
        read_suspects(tmp_path / "mine.csv")
    (tmp_path / "neutral.txt").write_text("a cat\n\n a tree \na cat\n")
    assert read_neutral(tmp_path / "neutral.txt") == ["a cat", "a tree"]


@pytest.mark.parametrize("strength", [3.1, 10.0])
def test_what_the_page_says_of_the_testbed_is_what_its_run_found(strength):
    """UniForget's points lie to the left of the controls', which remove as many units; the intervals are apart."""
    rows = {(row["method"], row["strength"]): row for row in report("testbed/sweep/sweep.json")}
    ours = rows["uniforget", strength]
    for method in ("random", "magnitude"):
        other = rows[method, strength]
        assert other["removed"] == ours["removed"] > 0 and other["neutral_change"].low > ours["neutral_change"].high


def test_the_control_of_the_attack_is_as_the_page_says():
    """The unpruned model knows the suspects without a search, and draws mirrored pictures only with one."""
    rows = {(row["model"], row["goal"]): row for row in report("testbed/model-10/attacked.json")}
    assert rows["unpruned", "suspects"]["copied after 0"].mean > 0.8
    mirrored = rows["unpruned", "mirrored"]
    assert mirrored["copied after 0"].mean == 0 < mirrored["copied after 10"].mean
