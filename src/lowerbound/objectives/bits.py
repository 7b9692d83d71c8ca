"""The ELBO as a description length in bits."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from lowerbound.draw import Draw


class DescriptionLength(NamedTuple):
    """Bits to transmit a row: for the latent (KL) and for the row given the latent. Hinton & van Camp 1993."""

    latent: Tensor
    data: Tensor


def description_length(draw: Draw) -> DescriptionLength:
    """KL and −mean_K log p(x|z) per row in bits, ``[B]``. Their sum, −ELBO in bits, is the cost of bits-back coding."""
    return DescriptionLength(draw.mean_kl / math.log(2), -draw.log_lik.mean(0) / math.log(2))
