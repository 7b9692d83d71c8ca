"""Topic models of documents as counts of words, and ways to learn them."""

from lowerbound.topics.amortised import topic_shares
from lowerbound.topics.batch_vb import BatchVB
from lowerbound.topics.coherence import diversity, npmi, top_words
from lowerbound.topics.collapsed_gibbs import CollapsedGibbs
from lowerbound.topics.csr import Csr
from lowerbound.topics.deep_lda import DeepLDAModel
from lowerbound.topics.gibbs import UpwardDownwardGibbs
from lowerbound.topics.lda import LDAModel
from lowerbound.topics.model import TopicModel
from lowerbound.topics.online_vb import OnlineVB
from lowerbound.topics.perplexity import completed, perplexity
from lowerbound.topics.scir import SCIR
from lowerbound.topics.sgrld import SGRLD
from lowerbound.topics.tlasgr import TLASGR, TLFSGR

__all__ = [
    "SCIR",
    "SGRLD",
    "TLASGR",
    "TLFSGR",
    "BatchVB",
    "CollapsedGibbs",
    "Csr",
    "DeepLDAModel",
    "LDAModel",
    "OnlineVB",
    "TopicModel",
    "UpwardDownwardGibbs",
    "completed",
    "diversity",
    "npmi",
    "perplexity",
    "top_words",
    "topic_shares",
]
