"""How generative image models memorize, and how to make them forget.

The pipeline, in the order of the book and of the folders::

    adapter = load("testbed")                          # or a hub id: models/
    risk    = detect.wen(adapter, prompts)             # which prompts are memorized?       detect/
    score   = locate.uniforget(adapter, neutral)       # which units can be spared?         locate/
    mask    = score.mask(threshold=0)                  # units to remove                    masks.py
    small   = shrink(adapter, mask)                    # a pipeline that forgets, lighter   prune.py
    evaluate.copied(...), evaluate.change(...)         # what it forgets, what it costs     evaluate/

`masked` applies a mask inside a ``with`` block; `Testbed` is the model whose memories are planted and known;
`Report` carries results with their provenance.
"""

from . import complement, detect, evaluate, live, locate, mitigate, stress, sweeps, viz
from .hooks import attention, count, masked, masked_steps, record
from .locate import UniForget
from .masks import Mask, Score
from .models import ModelAdapter, load
from .profile import profile
from .prune import bake, save, shrink
from .report import Report, provenance
from .sampler import rollout
from .sites import Ref, Site
from .sweeps import sweep
from .testbed import Testbed

__version__ = "0.1.0"
__all__ = [
    "Mask", "ModelAdapter", "Ref", "Report", "Score", "Site", "Testbed", "UniForget", "attention", "bake",
    "complement", "count", "detect", "evaluate", "live", "load", "locate", "masked", "masked_steps", "mitigate", "profile",
    "provenance", "record", "rollout", "save", "shrink", "stress", "sweep", "sweeps", "viz",
]  # fmt: skip
