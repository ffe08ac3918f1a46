"""Find the strengths of UniForget on the testbed: ``python -m uniforget_lib.testbed.levels`` prints ``LEVELS``.

To be run again after every training. Prompts of the ``train`` split are calibrated on, those of ``development`` set the
levels; no planted prompt and no test prompt takes part.
"""

from ..locate import UniForget, calibrate
from . import CALIBRATION, FAMILIES, Testbed

TARGETS = {"weak": 0.03, "medium": 0.1, "strong": 0.3}  # relative change of neutral latents
BETAS = (0.15, 0.5, 1.5, 5.0, 15.0, 45.0)


def main() -> None:
    found = {}
    for family in FAMILIES:
        testbed = Testbed.load(family)
        train, check = testbed.neutral(256, "train"), testbed.neutral(64, "development")
        levels, rows = calibrate(testbed.adapter, train, check, TARGETS, BETAS, UniForget(**CALIBRATION))
        for row in rows:
            print(family, {k: round(v, 4) for k, v in row.items()})
        found[family] = {name: float(f"{beta:.2g}") for name, beta in levels.items()}
    print("LEVELS =", found)


if __name__ == "__main__":
    main()
