"""Topic models of documents as counts of words, and ways to learn them."""

from lowerbound.topics.amortised import topic_shares
from lowerbound.topics.csr import Csr
from lowerbound.topics.model import TopicModel

__all__ = ["Csr", "TopicModel", "topic_shares"]
