"""Streams of random numbers: each part of a fit has its own, so that none moves another."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, *stream: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one stream of draws of a seed: other streams of that seed are independent of it."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return torch.Generator(device=device).manual_seed(int(state[0]))
