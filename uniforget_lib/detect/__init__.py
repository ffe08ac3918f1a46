"""Detectors: ``detect.<name>(adapter, prompts, *, seeds, ...) -> risk[n]``. A new one is a file and a line here."""

from .asthana import asthana
from .bright_ending import bright_ending
from .carlini import carlini
from .jeon import jeon
from .pixels import PIXEL_MAPS, curvature_map, difference_map, ending_map
from .ren import attention_weights, ren_d, ren_e
from .table import risk_table
from .webster import edge_maps, edges, webster, webster_edges
from .wen import gap_curve, wen

DETECTORS = {
    "wen": wen,
    "ren_e": ren_e,
    "ren_d": ren_d,
    "bright_ending": bright_ending,
    "jeon": jeon,
    "asthana": asthana,
    "carlini": carlini,
    "webster": webster,
    "webster_edges": webster_edges,
}
