"""Evaluation: copying, quality, and their uncertainty."""

from .copying import CLOSE, copied, distance, stack, threshold
from .cost import evaluations, flops, graph, time_ratio, weights
from .fidelity import diversity, frechet, kernel, precision, recall, with_interval
from .quality import change, detail, soften
from .roc import Confusion, above, best_cut, bootstrap_tpr, confusion, iou, roc, roc_band, tpr_at
from .stats import Estimate, auroc, bootstrap, bootstrap_auroc, bootstrap_ratio, corrected, difference, paired
from .study import Outcome, Study, control_limit, pool
from .twosample import TwoSample, mmd
