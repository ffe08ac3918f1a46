"""Attacks that try to bring a picture back: ``stress.<name>(adapter, images, prompts, ...) -> Recovery``.

Run each on the never-trained twin as well: what an attack draws out of a model that never saw the picture is no memory.
A new one is a file and a line here.
"""

from ._recovery import Recovery
from .dori import dori
from .relearn import relearn

ATTACKS = {"dori": dori, "relearn": relearn}
