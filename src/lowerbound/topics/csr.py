"""Documents as compressed sparse rows, as the learners and kernels of topic models take them."""

from lowerbound.data.csr import Csr

__all__ = ["Csr"]
