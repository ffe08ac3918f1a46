"""Evaluation: copying, quality, and their uncertainty."""

from .copying import copied, distance, stack, threshold
from .quality import change, detail
from .stats import Estimate, auroc, bootstrap, bootstrap_auroc
from .study import Outcome, Study, control_limit
