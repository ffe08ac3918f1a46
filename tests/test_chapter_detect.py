"""What the prose of the chapter on detectors says is what its run found: read off its reports."""

import pytest
from test_chapter_testbed import report


def rows(name, key, family="flux"):
    return {row[key]: row for row in report(name) if row.get("family", family) == family}


def test_what_the_groups_return():
    truth = {name: row["copies, flux"].mean for name, row in rows("truth.json", "group").items()}
    assert truth["planted"] == 1 and truth["neutral"] == truth["strange"] == 0
    assert truth["reworded"] == pytest.approx(0.28, abs=0.04)
    assert 0 < truth["neighbours"] < 0.1 and 0 < truth["control"] < 0.1  # "a few"


def test_the_best_are_the_cheapest():
    found = rows("detect.json", "detector")
    for name in ("webster", "wen", "asthana"):
        assert found[name]["AUROC"].mean > 0.93 and found[name]["evaluations"] <= 4
    assert abs(found["asthana"]["AUROC"].mean - found["wen"]["AUROC"].mean) < 0.01
    assert found["carlini"]["evaluations"] == 32 and found["carlini"]["AUROC"].mean < found["wen"]["AUROC"].mean
    assert found["wen"]["TPR"].mean < found["carlini"]["TPR"].mean < found["webster"]["TPR"].mean
    assert all(0.65 < found[name]["AUROC"].mean < 0.93 for name in ("ren_e", "ren_d"))  # "in between"
    for name in ("jeon", "bright_ending"):
        assert found[name]["AUROC"].low < 0.5 < found[name]["AUROC"].high  # "no help"
    assert found["webster_edges"]["AUROC"].high < 0.5  # "point the wrong way"
    tpr = found["wen"]["TPR"]
    assert 0.25 < tpr.mean < 0.45 and tpr.low < 0.1 and tpr.high > 0.65  # "a third", "three quarters"


def test_an_oddity_detector_wins_against_ordinary_captions_alone():
    found = rows("hard.json", "detector")
    assert found["ren_d"]["against neutral"].mean > 0.97 and found["ren_d"]["against control"].mean < 0.65
    assert found["ren_d"]["against neutral"].mean == max(row["against neutral"].mean for row in found.values())
    for kind in ("neutral", "control", "strange"):  # "the pattern is the same"
        assert abs(found["ren_d"][f"against {kind}"].mean - found["short"][f"against {kind}"].mean) < 0.16
    for name in ("webster", "wen", "asthana"):
        kinds = {k: v.mean for k, v in found[name].items() if k.startswith("against")}
        assert min(kinds.values()) > 0.85 and min(kinds, key=kinds.get) == "against neighbours"


def test_more_noises_help_and_more_steps_do_not():
    found = {(row["steps"], row["seeds"]): row for row in report("more.json") if row["family"] == "flux"}
    assert abs(found[1, 4]["AUROC"].mean - found[1, 1]["AUROC"].mean) < 0.03
    assert found[1, 4]["TPR"].mean == pytest.approx(2 / 3, abs=0.1)
    row = found[8, 1]
    assert row["AUROC"].low < 0.5 < row["AUROC"].high and row["controls_only"].low < 0.5 < row["controls_only"].high


def test_what_the_groups_return_on_the_unet():
    truth = {name: row["copies, unet"].mean for name, row in rows("truth.json", "group").items()}
    assert truth["planted"] == 1 and truth["neutral"] < 0.03 and truth["reworded"] == pytest.approx(0.3, abs=0.04)
    assert 0.07 < truth["control"] < 0.12 and max(truth["neighbours"], truth["strange"]) < 0.07  # "nearly one in ten"


def test_the_unet_orders_the_detectors_anew():
    found = rows("detect.json", "detector", "unet")
    area = {name: row["AUROC"].mean for name, row in found.items()}
    best = sorted(area, key=area.get)[-2:]
    assert set(best) == {"carlini", "wen"} and area["short"] > max(
        v for k, v in area.items() if k not in (*best, "short")
    )
    assert found["wen"]["AUROC"].high > area["carlini"] and found["carlini"]["AUROC"].low < area["wen"]
    assert area["asthana"] < area["wen"] and area["short"] == pytest.approx(0.83, abs=0.02)
    for name in ("webster", "jeon"):  # "near chance"
        assert found[name]["AUROC"].low < 0.5 < found[name]["AUROC"].high
    assert all(found[name]["AUROC"].high < 0.5 for name in ("ren_d", "bright_ending"))  # "the wrong way"


def test_easy_and_hard_change_places_on_the_unet():
    wen = {k: v.mean for k, v in rows("hard.json", "detector", "unet")["wen"].items() if k.startswith("against")}
    assert min(wen["against control"], wen["against strange"]) > 0.94
    assert max(wen["against neutral"], wen["against neighbours"]) < 0.85


def test_on_the_unet_planted_prompts_pull_less_later_on():
    found = {(row["steps"], row["seeds"]): row for row in report("more.json") if row["family"] == "unet"}
    assert found[8, 1]["AUROC"].high < 0.5 and found[8, 1]["controls_only"].mean < 0.2
    assert found[1, 1]["TPR"].mean == pytest.approx(0.15, abs=0.06)
    assert found[1, 4]["TPR"].mean == pytest.approx(0.4, abs=0.11)
    assert found[1, 4]["AUROC"].mean - found[1, 1]["AUROC"].mean < 0.06  # "move the area little"
    assert rows("moved.json", "detector", "unet")["wen"]["hits"] == pytest.approx(3, abs=1)


def test_maps_of_the_unet_have_the_order_of_kim_and_lee():
    area = {name: row["pixel_AUROC"] for name, row in rows("where.json", "map", "unet").items()}
    assert area["curvature"].mean > area["difference"].mean > 0.6
    assert area["bright ending"].low < 0.5 < area["bright ending"].high


def test_thresholds_move():
    wen = rows("moved.json", "detector")["wen"]
    for name, said in {"hits": 13, "misses": 7, "alarms": 4, "passes": 161}.items():
        assert wen[name] == pytest.approx(said, abs=1)  # another machine may round a prompt across the threshold


def test_the_false_alarm_rate_reaches_down_to_one_per_cent():
    assert rows("moved.json", "detector")["wen"]["false_alarms"].low <= 0.01


def test_no_map_tells_the_halves_apart():
    found = rows("where.json", "map")
    assert len(found) == 3 and all(abs(row["IoU"].mean - 0.5) < 0.02 for row in found.values())
    assert sum(row["cut"] == 0 for row in found.values()) == 2  # "for two the best cut does just that"
    area = {name: row["pixel_AUROC"] for name, row in found.items()}
    assert area["bright ending"].low > 0.55 and 0.5 < area["curvature"].mean < 0.6  # "somewhat", "hardly"
    assert area["difference"].low < 0.5 < area["difference"].high  # "not at all"
