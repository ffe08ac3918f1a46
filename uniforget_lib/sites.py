"""What can be masked: blocks of input channels of a Linear, addressed by module name."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("ffn", "head", "value", "norm")  # value: one channel of what an attention passes on, a part of a head


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
    ``writers`` are the *output rows* that produce the activation; shrinking removes them as well. Sites of kind
    ``norm`` have no readers: the paper masks the output rows (shift, scale, gate) of the adaptive layer-norm Linear,
    so ``writers`` are masked there.
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
        """Where the mask acts: the readers, or the writers of a norm site."""
        return self.writers if self.kind == "norm" else self.readers
