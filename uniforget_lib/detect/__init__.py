"""Detectors: ``detect.<name>(adapter, prompts, *, steps, seeds) -> risk[n]``. A new one is a file and a line here."""

from .wen import wen

DETECTORS = {"wen": wen}
