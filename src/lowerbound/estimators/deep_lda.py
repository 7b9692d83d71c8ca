"""Deep latent Dirichlet allocation as a scikit-learn estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowerbound.data import Counts
from lowerbound.estimators.documents import halves
from lowerbound.estimators.parameters import one_of, real
from lowerbound.estimators.parameters import whole as check_whole
from lowerbound.estimators.topics import TopicEstimator
from lowerbound.inference import Inference
from lowerbound.process import seeded
from lowerbound.topics import SCIR, SGRLD, TLASGR, TLFSGR, DeepLDAModel, UpwardDownwardGibbs, perplexity
from lowerbound.training import Callback

_MINIBATCHES, _MOST_EPOCHS, _SWEEPS = 3500, 60, 300
_LEARNERS: dict[str, Callable[[], Inference[DeepLDAModel]]] = {
    "tlasgr": TLASGR,
    "tlfsgr": TLFSGR,
    "sgrld": SGRLD,
    "scir": SCIR,
    "gibbs": UpwardDownwardGibbs,
}


class DeepLDA(TopicEstimator):
    """Deep latent Dirichlet allocation, the Poisson gamma belief network: topics of words, topics of topics, ….

    Zhou, Cong & Chen 2016. Documents are whole counts of words; ``link`` allows other data.

    Parameters
    ----------
    layers : the number of topics of each layer, that of words first; no layer has more than the one below.
    inference : "tlasgr", topic-layer-adaptive stochastic gradient Riemannian MCMC in minibatches (Cong et al. 2017).
        "scir", exact steps of a Cox–Ingersoll–Ross process, without error of the step size (Baker et al. 2018).
        "tlfsgr" and "sgrld", its predecessors, for comparison. "gibbs", upward-downward Gibbs sampling of all documents
        at once, which keeps all their variables in memory.
    eta : η of the prior Dirichlet of topics.
    link : "counts"; "binary", of 0 and 1; "positive", of numbers of 0 or more.
    epochs : number of epochs ("auto": those of 3,500 minibatches, at most 60; 300 sweeps of "gibbs").
    batch_size : documents per minibatch.
    burn_in, collected : Gibbs sweeps of ``transform``; the topics' shares are averaged over those collected.
    samples : the topics of so many epochs, from the second half of them, are kept, and ``perplexity`` and ``score``
        average the probability of a word over them: one sample of a chain predicts worse than several do together.
        ``components_`` and ``transform`` are those of the last epoch.
    validation, total_documents, random_state, threads, progress, callbacks : see ``LDA``.

    Attributes
    ----------
    components_ : probability of each word in each topic of the first layer, ``[K₁, V]``. model_ : the fitted
    ``topics.DeepLDAModel``. words_, history_, score_is_, n_features_in_, feature_names_in_ : see ``LDA``.

    Examples
    --------
    >>> import numpy as np, lowerbound as lb
    >>> counts = np.random.default_rng(0).poisson([[9, 9, 0, 0], [0, 0, 9, 9]] * 20)
    >>> deep = lb.DeepLDA([2, 1], epochs=20, random_state=0).fit(counts, words=["tide", "moon", "goal", "team"])
    >>> sorted(sorted(words) for words in deep.top_words(2))
    [['goal', 'team'], ['moon', 'tide']]
    >>> (tree,) = deep.topic_tree()
    >>> tree.layer, len(tree.children)
    (2, 2)
    """

    model_: DeepLDAModel

    _MODEL = DeepLDAModel
    _INFERENCES = tuple(_LEARNERS)
    _BY_BATCHES = ("tlasgr", "tlfsgr", "sgrld", "scir")
    score_is_ = "estimated log p per word of one half of each document given the other"

    def __init__(
        self,
        layers: Sequence[int] = (128, 64, 32),
        *,
        inference: Literal["tlasgr", "tlfsgr", "sgrld", "scir", "gibbs"] = "tlasgr",
        eta: float = 0.05,
        link: Literal["counts", "binary", "positive"] = "counts",
        epochs: int | Literal["auto"] = "auto",
        batch_size: int = 200,
        burn_in: int = 100,
        collected: int = 100,
        samples: int = 4,
        validation: float = 0.0,
        total_documents: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        threads: int | None = None,
        progress: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.layers = layers
        self.inference = inference
        self.eta = eta
        self.link = link
        self.epochs = epochs
        self.batch_size = batch_size
        self.burn_in = burn_in
        self.collected = collected
        self.samples = samples
        self.validation = validation
        self.total_documents = total_documents
        self.random_state = random_state
        self.threads = threads
        self.progress = progress
        self.callbacks = callbacks

    def check_parameters(self) -> None:
        """Raise ValueError for invalid arguments."""
        super().check_parameters()
        layers: Any = self.layers
        sizes = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else []
        if not sizes:
            raise ValueError(f"layers is {self.layers!r}; give the number of topics of each layer, such as [64, 32].")
        for size in sizes:
            check_whole("layers", size, 1)
        if any(above > below for below, above in pairwise(sizes)):
            raise ValueError(f"layers is {sizes}, which grows upwards; give each layer at most the topics below it.")
        real("eta", self.eta, 0, above=True)
        one_of("link", self.link, ("counts", "binary", "positive"))
        check_whole("burn_in", self.burn_in, 0)
        check_whole("collected", self.collected, 1)
        check_whole("samples", self.samples, 1)

    def _model(self, n_words: int) -> DeepLDAModel:
        numbers = {name: int(getattr(self, name)) for name in ("burn_in", "collected", "samples")}
        with seeded(self.seed_):
            return DeepLDAModel(n_words, [int(k) for k in self.layers], float(self.eta), link=self.link, **numbers)

    def _learning(self, documents: int) -> Inference[Any]:
        return _LEARNERS[self.inference]()

    def _epochs(self, documents: int) -> int:
        if self.epochs != "auto":
            return self.epochs
        minibatches = math.ceil(documents / self.batch_size)
        return _SWEEPS if self.inference == "gibbs" else min(_MOST_EPOCHS, math.ceil(_MINIBATCHES / minibatches))

    @property
    def _needs_whole(self) -> bool:
        return self.link != "positive"

    def _score(self, counts: Counts) -> float:
        if self.link != "counts":
            raise ValueError(f"score needs counts of words, and link is {self.link!r}; it is not defined here.")
        seen, held = halves(counts.csr, self.seed_)
        return -math.log(perplexity(self.model_, seen, held, self.seed_))

    def _layers(self) -> list[NDArray[Any]]:
        return [phi.double().cpu().numpy() for phi in self.model_.phi]

    def _weights(self) -> NDArray[Any]:
        found: NDArray[Any] = self.model_.weights(len(self.model_.layers)).double().cpu().numpy()
        return found
