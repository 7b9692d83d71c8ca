"""Markov chain Monte Carlo for many chains of many rows at once, given log-densities as functions of tensors."""

from lowerbound.mcmc.hamiltonian import Path, Point, slope_of, trajectory, transition
from lowerbound.mcmc.step_size import StepSize, warm_up

__all__ = ["Path", "Point", "StepSize", "slope_of", "trajectory", "transition", "warm_up"]
