"""Ways to learn a model, and ``fit``, which runs them."""

from lowerbound.inference.aevb import AEVB
from lowerbound.inference.fitting import Data, Fit, as_rows, fit, split, use_threads

__all__ = ["AEVB", "Data", "Fit", "as_rows", "fit", "split", "use_threads"]
