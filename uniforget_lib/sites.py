"""What can be masked: blocks of input channels of a Linear, addressed by module name."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("ffn", "head", "value", "norm")


@dataclass(frozen=True)
class Ref:
    """Channels ``start:stop`` of the Linear named ``linear`` (of the denoiser)."""

    linear: str
    start: int
    stop: int


@dataclass(frozen=True)
class Site:
    """``units`` maskable units of ``width`` channels each.

    ``readers`` are the *input columns* that a unit's activation enters by; to mask the unit is to scale them. A unit
    with several readers (a joint attention head writes to the image and the text stream) is scaled in all of them.
    ``writers`` are the *output rows* that produce the activation; shrinking removes them as well. Two kinds have no
    readers, and the output rows of their ``writers`` are masked instead: ``norm``, where the paper masks shift, scale and
    gate, the rows of the adaptive layer-norm Linear; and ``value``, a channel of the values that an attention takes from
    the *text* (NeMo's neurons).
    """

    name: str
    kind: str
    units: int
    width: int
    readers: tuple[Ref, ...]
    writers: tuple[Ref, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"site {self.name!r}: kind {self.kind!r} is not one of {KINDS}")
        for ref in self.readers:
            if ref.stop - ref.start != self.units * self.width:
                raise ValueError(f"site {self.name!r}: {ref} does not hold {self.units} units of width {self.width}")

    @property
    def masked_refs(self) -> tuple[Ref, ...]:
        """Where the mask acts: the readers, or, where there are none, the writers."""
        return self.readers or self.writers
