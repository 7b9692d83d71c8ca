"""Topic models of documents as counts of words, and ways to learn them."""

from lowerbound.topics.amortised import topic_shares
from lowerbound.topics.csr import Csr
from lowerbound.topics.deep_lda import DeepLDAModel
from lowerbound.topics.gibbs import UpwardDownwardGibbs
from lowerbound.topics.model import TopicModel
from lowerbound.topics.scir import SCIR
from lowerbound.topics.sgrld import SGRLD
from lowerbound.topics.tlasgr import TLASGR, TLFSGR

__all__ = [
    "SCIR",
    "SGRLD",
    "TLASGR",
    "TLFSGR",
    "Csr",
    "DeepLDAModel",
    "TopicModel",
    "UpwardDownwardGibbs",
    "topic_shares",
]
