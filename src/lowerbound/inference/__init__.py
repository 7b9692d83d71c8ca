"""Ways to learn a model, and ``fit``, which runs them."""

from lowerbound.inference.aevb import AEVB
from lowerbound.inference.black_box import BlackBox, RowPosteriors, Settled
from lowerbound.inference.conjugate_components import Component, NormalGamma, NormalWishart
from lowerbound.inference.conjugate_models import BayesianMixture, BayesianRegression
from lowerbound.inference.conjugate_nodes import ConjugateModel, Dirichlet, Gamma, Node, NormalVector
from lowerbound.inference.coordinate_ascent import CoordinateAscent
from lowerbound.inference.em import EM
from lowerbound.inference.exact_posterior import exact_posterior
from lowerbound.inference.fitting import Data, Fit, as_rows, fit, held_out_objective, split, use_threads
from lowerbound.inference.full_bayes import FullVB
from lowerbound.inference.kalman import KalmanSmoother, state_space
from lowerbound.inference.local import Local
from lowerbound.inference.log_joint import LogJointModel
from lowerbound.inference.maximum_a_posteriori import MAP
from lowerbound.inference.mcem import MonteCarloEM
from lowerbound.inference.particles import FIVO, particle_filter
from lowerbound.inference.protocol import Inference
from lowerbound.inference.searched import Searched
from lowerbound.inference.semi_amortised import SemiAmortised
from lowerbound.inference.wake_sleep import ReweightedWakeSleep, WakeSleep
from lowerbound.inference.weights import NormalWeights, WeightPosterior
from lowerbound.storage.checkpoints import seed_of
from lowerbound.storage.run import Resume

__all__ = [
    "AEVB",
    "EM",
    "FIVO",
    "MAP",
    "BayesianMixture",
    "BayesianRegression",
    "BlackBox",
    "Component",
    "ConjugateModel",
    "CoordinateAscent",
    "Data",
    "Dirichlet",
    "Fit",
    "FullVB",
    "Gamma",
    "Inference",
    "KalmanSmoother",
    "Local",
    "LogJointModel",
    "MonteCarloEM",
    "Node",
    "NormalGamma",
    "NormalVector",
    "NormalWeights",
    "NormalWishart",
    "Resume",
    "ReweightedWakeSleep",
    "RowPosteriors",
    "Searched",
    "SemiAmortised",
    "Settled",
    "WakeSleep",
    "WeightPosterior",
    "as_rows",
    "exact_posterior",
    "fit",
    "held_out_objective",
    "particle_filter",
    "seed_of",
    "split",
    "state_space",
    "use_threads",
]
