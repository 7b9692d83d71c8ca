"""Latent Dirichlet allocation as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowerbound.data import Counts
from lowerbound.estimators.parameters import real
from lowerbound.estimators.parameters import whole as check_whole
from lowerbound.estimators.topics import TopicEstimator
from lowerbound.inference import Inference
from lowerbound.process import seeded
from lowerbound.topics import BatchVB, CollapsedGibbs, LDAModel, OnlineVB
from lowerbound.topics.lda import infer
from lowerbound.training import Callback

_EPOCHS = {"online": 10, "batch": 50, "gibbs": 200}


class LDA(TopicEstimator):
    """Latent Dirichlet allocation: θ_d ~ Dir(α), β_k ~ Dir(η), each word of document d from β_k of a topic k ~ θ_d.

    Blei, Ng & Jordan 2003. Documents are counts of words.

    Parameters
    ----------
    n_topics : number of topics, K.
    inference : "online", variational Bayes in batches (Hoffman, Blei & Bach 2010): for many documents, and for
        ``partial_fit``. "batch", variational Bayes with all documents per update. "gibbs", collapsed Gibbs sampling,
        which needs numba and whole counts, takes more epochs, and usually ends at a lower perplexity.
    alpha, eta : α of the topics' shares, a number or one per topic; η of the topics' words (None: 1/K for both).
    learn_alpha, learn_eta : whether to learn them; α then differs from topic to topic.
    samples : "gibbs" keeps the topics of so many sweeps, from the second half of them, and ``perplexity`` averages the
        probability of a word over them; ``components_``, ``transform`` and ``score`` are those of the last sweep.
    epochs : number of epochs ("auto": 10 online, 50 batch, 200 sweeps of Gibbs).
    batch_size : documents per step.
    validation : share of documents held out, of which the history records the perplexity after each epoch.
    total_documents : for ``partial_fit``, the number of documents in all (None: those of the first call).
    random_state : seed. The same seed and number of threads give the same bytes; global generators are not touched.
    threads, progress, callbacks : CPU threads; whether to show a progress bar; functions of an ``Event``.

    Attributes
    ----------
    components_ : probability of each word in each topic, ``[K, V]``. words_ : the words, if known. model_ : the fitted
    ``topics.LDAModel``. history_ : the record of training. score_is_ : what ``score`` gives. n_features_in_,
    feature_names_in_.

    Examples
    --------
    >>> import numpy as np, lowerbound as lb
    >>> counts = np.random.default_rng(0).poisson([[9, 9, 0, 0], [0, 0, 9, 9]] * 50)
    >>> lda = lb.LDA(2, random_state=0).fit(counts, words=["tide", "moon", "goal", "team"])
    >>> sorted(sorted(words) for words in lda.top_words(2))
    [['goal', 'team'], ['moon', 'tide']]
    >>> lda.transform(counts).shape
    (100, 2)
    """

    model_: LDAModel

    _MODEL = LDAModel
    _INFERENCES = ("online", "batch", "gibbs")
    _BY_BATCHES = ("online",)
    score_is_ = "lower bound on log p per word"

    def __init__(
        self,
        n_topics: int = 10,
        *,
        inference: Literal["online", "batch", "gibbs"] = "online",
        alpha: float | Sequence[float] | None = None,
        eta: float | None = None,
        learn_alpha: bool = False,
        learn_eta: bool = False,
        samples: int = 4,
        epochs: int | Literal["auto"] = "auto",
        batch_size: int = 128,
        validation: float = 0.0,
        total_documents: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        threads: int | None = None,
        progress: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.n_topics = n_topics
        self.inference = inference
        self.alpha = alpha
        self.eta = eta
        self.learn_alpha = learn_alpha
        self.learn_eta = learn_eta
        self.samples = samples
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation = validation
        self.total_documents = total_documents
        self.random_state = random_state
        self.threads = threads
        self.progress = progress
        self.callbacks = callbacks

    def check_parameters(self) -> None:
        """Raise ValueError for invalid arguments."""
        super().check_parameters()
        check_whole("n_topics", self.n_topics, 1)
        check_whole("samples", self.samples, 1)
        for value in () if self.alpha is None else np.atleast_1d(self.alpha):
            real("alpha", float(value), 0, above=True)
        if self.eta is not None:
            real("eta", self.eta, 0, above=True)
        for name in ("learn_alpha", "learn_eta"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give True or False.")

    def _model(self, n_words: int) -> LDAModel:
        several = isinstance(self.alpha, Sequence | np.ndarray)
        alpha = [float(each) for each in self.alpha] if several else self.alpha  # type: ignore[union-attr]
        with seeded(self.seed_):
            samples = int(self.samples) if self.inference == "gibbs" else 1
            return LDAModel(n_words, int(self.n_topics), alpha, self.eta, samples)

    def _learning(self, documents: int) -> Inference[Any]:
        makers: dict[str, Callable[..., Inference[LDAModel]]]
        makers = {"online": OnlineVB, "batch": BatchVB, "gibbs": CollapsedGibbs}
        return makers[self.inference](learn_alpha=bool(self.learn_alpha), learn_eta=bool(self.learn_eta))

    def _epochs(self, documents: int) -> int:
        return _EPOCHS[self.inference] if self.epochs == "auto" else self.epochs

    def _score(self, counts: Counts) -> float:
        words = sum(float(part.counts.sum(dtype=np.float64)) for _, part in counts.slices())
        return sum(float(infer(self.model_, part).bound.sum()) for _, part in counts.slices()) / max(words, 1.0)

    @property
    def _needs_whole(self) -> bool:
        return self.inference == "gibbs"

    def _layers(self) -> list[NDArray[Any]]:
        return [self.components_.T]

    def _weights(self) -> NDArray[Any]:
        alpha: NDArray[Any] = (self.model_.alpha / self.model_.alpha.sum()).double().cpu().numpy()
        return alpha
