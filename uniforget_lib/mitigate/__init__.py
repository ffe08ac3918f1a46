"""Mitigations while sampling: ``mitigate.<name>(adapter, prompts, *, steps, seed, ...) -> images [n, 3, H, W] in [0,
1]``.

The model stays as it is, so whoever has the weights can leave them out; compare with what pruning removes. Pictures are
those of ``adapter.images(prompts, steps=steps, seed=seed)`` where a mitigation changes nothing. A new one is a file and
a line here.
"""

from .random_tokens import random_tokens
from .ren import ren
from .safe_guidance import safe_guidance
from .wen import wen

MITIGATIONS = {"wen": wen, "ren": ren, "random_tokens": random_tokens, "safe_guidance": safe_guidance}
