"""Attacks that try to bring a picture back: ``stress.<name>(adapter, images, prompts, ...) -> Recovery``.

Run each on the never-trained twin as well: what an attack draws out of a model that never saw the picture is no memory.
A new one is a file and a line here. `paraphrase` is called otherwise, for it needs neither pictures nor a gradient.
"""

from ._recovery import Recovery
from .dori import dori
from .memora import memora
from .paraphrase import paraphrase
from .relearn import relearn

ATTACKS = {"dori": dori, "memora": memora, "relearn": relearn}
