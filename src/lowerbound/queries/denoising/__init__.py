"""Denoising under a stated noise model: clean rows given corrupted ones."""

from lowerbound.queries.denoising.clean_rows import Denoised, denoise
from lowerbound.queries.denoising.noise import Flips, Gaussian, Noise, average_pooling

__all__ = ["Denoised", "Flips", "Gaussian", "Noise", "average_pooling", "denoise"]
