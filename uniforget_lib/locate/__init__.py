"""Locators: ``locate.<name>(adapter, ...) -> Score``, high = implicated. A new one is a file and a line here.

`LOCATORS` need neutral prompts or nothing; `CONTRASTS` must be told memorized prompts too:
``locate.<name>(adapter, prompts, base) -> Score``.
"""

from .baselines import magnitude, random
from .browse import activity
from .contrast import activation, chavhan, chavhan_weights
from .gradient import gradient, integrated
from .nemo import nemo
from .uniforget import UniForget, calibrate, relative_change, uniforget, uniforget_steps

LOCATORS = {"uniforget": uniforget, "random": random, "magnitude": magnitude}
CONTRASTS = {"activation": activation, "chavhan": chavhan, "gradient": gradient, "integrated": integrated, "nemo": nemo}
