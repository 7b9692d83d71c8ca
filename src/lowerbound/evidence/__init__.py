"""Estimates of log p(x), and checks of how far to trust them."""

from lowerbound.evidence.adaptive import to_precision
from lowerbound.evidence.annealing import Annealed, Settings, annealed
from lowerbound.evidence.baselines import Baseline, baselines, kind_of
from lowerbound.evidence.black_box import BlackBoxFit, black_box
from lowerbound.evidence.calibration import Calibration, calibrate
from lowerbound.evidence.collapse import Collapse, collapse
from lowerbound.evidence.comparing import Comparison, compare
from lowerbound.evidence.early_estimators import appendix_d
from lowerbound.evidence.gaps import Gaps, gap_report
from lowerbound.evidence.importance import (
    LogLikelihood,
    bits_per_dimension,
    importance_sampling,
    log_likelihood,
    score_rows,
)
from lowerbound.evidence.judging import Evidence, judge_model
from lowerbound.evidence.pareto import pareto_k
from lowerbound.evidence.predictive import PredictiveCheck, predictive_check
from lowerbound.evidence.sandwich import Sandwich, Simulate, Steadiness, sandwich, simulator, steadiness
from lowerbound.evidence.targets import Source, Target, Targets, of_functions, of_model
from lowerbound.evidence.typicality import Terms, Typicality, terms, typicality
from lowerbound.evidence.verdict import Check, Verdict

__all__ = [
    "Annealed",
    "Baseline",
    "BlackBoxFit",
    "Calibration",
    "Check",
    "Collapse",
    "Comparison",
    "Evidence",
    "Gaps",
    "LogLikelihood",
    "PredictiveCheck",
    "Sandwich",
    "Settings",
    "Simulate",
    "Source",
    "Steadiness",
    "Target",
    "Targets",
    "Terms",
    "Typicality",
    "Verdict",
    "annealed",
    "appendix_d",
    "baselines",
    "bits_per_dimension",
    "black_box",
    "calibrate",
    "collapse",
    "compare",
    "gap_report",
    "importance_sampling",
    "judge_model",
    "kind_of",
    "log_likelihood",
    "of_functions",
    "of_model",
    "pareto_k",
    "predictive_check",
    "sandwich",
    "score_rows",
    "simulator",
    "steadiness",
    "terms",
    "to_precision",
    "typicality",
]
