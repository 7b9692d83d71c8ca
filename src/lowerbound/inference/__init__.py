"""Ways to learn a model, and ``fit``, which runs them."""

from lowerbound.inference.aevb import AEVB
from lowerbound.inference.fitting import Fit, fit, split, use_threads

__all__ = ["AEVB", "Fit", "fit", "split", "use_threads"]
