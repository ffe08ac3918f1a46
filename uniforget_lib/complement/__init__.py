"""Unlearning methods that are told what to forget: ``complement.<name>(adapter, forget, ...) -> adapter``, a copy.

A new one is a file and a line here. `retrain` is none of them: it is told what to keep, and repairs a pruned model; nor
is `adversarial`, which must be given the very pictures.
"""

from .ablation import ablation
from .adversarial import adversarial
from .esd import esd
from .fmn import fmn
from .retrain import retrain
from .salun import salun
from .uce import uce

METHODS = {"ablation": ablation, "esd": esd, "fmn": fmn, "salun": salun, "uce": uce}
