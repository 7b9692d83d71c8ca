"""The minimum-description-length view: nats as bits."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from lowerbound.draw import Draw


class DescriptionLength(NamedTuple):
    """Bits to send a row: its latent beyond the prior's, and the row given the latent. Hinton & van Camp 1993."""

    latent: Tensor
    data: Tensor


def description_length(draw: Draw) -> DescriptionLength:
    """KL and −mean_K log p(x|z) of each row in bits, ``[B]``: their sum is −ELBO in bits, as bits-back coding pays."""
    return DescriptionLength(draw.mean_kl / math.log(2), -draw.log_lik.mean(0) / math.log(2))
