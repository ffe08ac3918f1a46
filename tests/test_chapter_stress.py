"""What the prose of the stress chapter says is what the stored experiments, and its own run, found."""

from test_chapter_locate import at, rows
from test_chapter_testbed import report


def test_adversarial_fine_tuning_works_where_it_is_told():
    found = rows("removal", "arm")
    adversarial, kept, both = (found[arm] for arm in ("adversarial", "uniforget, retrained", "uniforget, adversarial"))
    assert at(adversarial["told"], 0) and at(adversarial["told found"], 0.08, 0, 0.25)
    assert at(adversarial["control found"], 0.17) and at(adversarial["copied"], 0.23, 0.05, 0.42)
    assert at(found["retrained"]["copied"], 1) and at(adversarial["found"], 0.33, 0.08, 0.58)
    assert at(kept["copied"], 0.15, 0, 0.30) and at(kept["found"], 0.33, 0.08, 0.58) and at(kept["right"], 0.82)
    assert at(both["copied"], 0.07) and at(both["found"], 0.25) and at(both["right"], 0.52)
    redirected = found["redirected"]
    assert at(redirected["told"], 0) and at(redirected["copied"], 0.20) and at(redirected["told found"], 0.25)
    assert (
        at(redirected["found"], 0.67, 0.42, 0.92) and at(redirected["right"], 0.89) and at(adversarial["right"], 0.79)
    )
