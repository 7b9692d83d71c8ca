"""What the estimators of topic models share: documents in, topics and their words out; saving and loading."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if

from lowerbound.checks import TEXTS, TRUTH, WAY_OUT, Check, check_fields, or_none, whole, wrong
from lowerbound.data import Counts
from lowerbound.errors import DataError, FormatError, LockedError
from lowerbound.estimators import inputs
from lowerbound.estimators.documents import as_counts, halves
from lowerbound.estimators.fitting import fit_kept
from lowerbound.estimators.parameters import check_threads, one_of, real
from lowerbound.estimators.parameters import whole as check_whole
from lowerbound.estimators.topic_words import Topic, top_words, trees
from lowerbound.inference import Inference, Resume, seed_of, split
from lowerbound.process import use_threads
from lowerbound.storage.model import Saved, save
from lowerbound.storage.parts import CONFIG, encode
from lowerbound.topics import TopicModel, perplexity
from lowerbound.topics.minibatch import MinibatchProcedure
from lowerbound.topics.variational import VariationalProcedure
from lowerbound.training import Callback, Event, History, Procedure, train

_OF_THE_FITTING = ("callbacks", "progress", "threads")
_WATCHED = 100  # held-out documents of which the perplexity is computed after each epoch
_FITTED: dict[str, Check] = {
    "n_words": whole("a whole number above 0", 1),
    "words": or_none(TEXTS),
    "named": TRUTH,
    "seed": whole("a whole number of 63 bits", 0, 2**63 - 1),
}


def _streams(estimator: TopicEstimator) -> bool:
    """Whether the inference learns from batches, as ``partial_fit`` needs."""
    return estimator.inference in estimator._BY_BATCHES


class TopicEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The methods of ``LDA`` and ``DeepLDA``."""

    _MODEL: ClassVar[type[TopicModel]]
    _INFERENCES: ClassVar[tuple[str, ...]]
    _BY_BATCHES: ClassVar[tuple[str, ...]]  # those of which partial_fit makes sense

    model_: TopicModel
    history_: History
    words_: tuple[str, ...] | None
    seed_: int
    n_features_in_: int

    inference: str
    epochs: int | Literal["auto"]
    batch_size: int
    validation: float
    random_state: int | np.random.RandomState | None
    total_documents: int | None
    threads: int | None
    progress: bool
    callbacks: Sequence[Callback]

    @abstractmethod
    def _model(self, n_words: int) -> TopicModel:
        """A new model of ``n_words`` words."""

    @abstractmethod
    def _learning(self, documents: int) -> Inference[Any]:
        """The way to learn from so many documents."""

    @property
    @abstractmethod
    def _needs_whole(self) -> bool:
        """Whether counts must be whole."""

    @abstractmethod
    def _epochs(self, documents: int) -> int:
        """The number of epochs."""

    @abstractmethod
    def _score(self, counts: Counts) -> float:
        """What ``score`` gives, in nats per word."""

    def fit(
        self,
        X: Any,
        y: object = None,
        *,
        words: Sequence[str] | None = None,
        run_dir: str | Path | None = None,
        resume: Resume = "auto",
        checkpoint_every: int = 1000,
    ) -> Self:
        """Learn from documents ``X [N, V]``, counts of V words; ``y`` is ignored.

        ``X``: an array, a sparse matrix, a data frame whose columns are words, ``data.Documents`` or ``data.Counts``.
        ``words``: the V words. With ``run_dir``, a folder, the fit writes checkpoints there every ``checkpoint_every``
        steps; if it is interrupted, the same call resumes it and ends with the same bytes (see ``lowerbound.fit``).
        """
        run = None if run_dir is None else Path(run_dir)
        with inputs.unchanged_if_refused(self, ValueError, TypeError, LockedError, ImportError):
            counts = self._start(X, words, self._seed(run, resume))
            rows, held_out = split(counts, self.validation, self.seed_)
            watch = [self._watch(held_out)] if isinstance(held_out, Counts) else []
            fit_kept(
                self,
                rows,
                self._learning(len(rows)),
                run,
                watch,
                epochs=self._epochs(len(rows)),
                batch_size=self.batch_size,
                validation=0.0,
                resume=resume,
                checkpoint_every=checkpoint_every,
            )
        return self

    @available_if(_streams)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: object = None, *, words: Sequence[str] | None = None) -> Self:
        """Learn from these documents for one epoch; the first call makes the model. See ``total_documents``."""
        with inputs.unchanged_if_refused(self):
            first = not hasattr(self, "model_")
            counts = self._start(X, words, None) if first else self._counts(X, words)
        if not hasattr(self, "_procedure"):
            procedure = self._learning(len(counts)).start(self.model_, counts)
            assert isinstance(procedure, VariationalProcedure | MinibatchProcedure)
            procedure.rows = len(counts) if self.total_documents is None else int(self.total_documents)
            self._procedure: Procedure = procedure
        done = len(self.history_.records)
        with use_threads(self.threads):
            history = train(
                self._procedure,
                counts.as_sparse(),
                epochs=done + 1,
                first_epoch=done,
                batch_size=self.batch_size,
                seed=self.seed_,
                callbacks=self.callbacks,
            )
        history.records = self.history_.records + history.records
        self.history_ = history
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """The share of each topic in each document, ``[N, K]``; rows sum to 1.

        A document's shares depend on that document, the model and the seed alone. An empty document has the shares
        that are expected before any word is seen.
        """
        counts = self._counts(X)
        shares = [self.model_.transform(part, self.seed_) for _, part in counts.slices()]
        dtype = getattr(X, "dtype", None)
        return np.concatenate(shares).astype(dtype if dtype in (np.float32, np.float64) else np.float64)

    def score(self, X: Any, y: object = None) -> float:
        """``score_is_`` of the documents ``X``, in nats per word; higher is better."""
        return self._score(self._counts(X))

    def perplexity(self, seen: Any, held: Any = None) -> float:
        """exp(−mean log p of the words of ``held [N, V]``), where the topics' shares are inferred from ``seen [N, V]``.

        The rows of ``seen`` and ``held`` are two parts of the same documents. Without ``held``, those of ``seen`` are
        divided into two halves at random.
        """
        given = self._counts(seen)
        if held is None:
            return perplexity(self.model_, *halves(given.csr, self.seed_), self.seed_)
        left = self._counts(held)
        if len(given) != len(left):
            raise ValueError(
                f"seen has {len(given)} documents and held {len(left)}; give two parts of the same documents."
            )
        return perplexity(self.model_, given.csr, left.csr, self.seed_)

    @property
    def components_(self) -> NDArray[Any]:
        """The probability of each word in each topic, ``[K, V]``; rows sum to 1."""
        inputs.check_fitted(self)
        found: NDArray[Any] = self.model_.topics().double().cpu().numpy()
        return found

    @property
    def n_topics_(self) -> tuple[int, ...]:
        """The number of topics of each layer, that of words first."""
        return tuple(phi.shape[1] for phi in self._layers())

    def top_words(self, n: int = 10, layer: int = 1) -> list[dict[str, float]]:
        """The ``n`` most probable words of each topic of a layer, with their probabilities, the most probable first.

        Words without a name are x0, x1, ….
        """
        check_whole("n", n, 1)
        layers = self._layers()
        if layer not in range(1, len(layers) + 1):
            raise ValueError(f"layer is {layer!r}; the model has the layers 1 to {len(layers)}.")
        topics = layers[0]
        for phi in layers[1:layer]:
            topics = topics @ phi
        return top_words(topics.T, self._names(), n)

    def topic_tree(self, n: int = 5, children: int = 3) -> tuple[Topic, ...]:
        """The topics of the last layer by weight, each with its largest topics of the layer below, and so on.

        ``n``: words per topic; ``children``: topics below each. ``print`` shows a tree in indented lines.
        """
        check_whole("n", n, 1)
        check_whole("children", children, 1)
        return trees(self._layers(), self._weights(), self._names(), n, children)

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator into the folder ``path``; ``lowerbound.load`` reads it back."""
        inputs.check_fitted(self)
        save(path, self.model_, None, self._described(), self.history_)

    @classmethod
    def restore(cls, saved: Saved) -> Self:
        """Restore the estimator that ``save`` wrote. Raises ``FormatError`` for an invalid file."""
        what = f"{CONFIG} does not describe a {cls.__name__}"
        defaults = cls().get_params(deep=False)
        given = saved.extra.get("parameters")
        if not isinstance(given, dict) or given.keys() != defaults.keys() - set(_OF_THE_FITTING):
            raise FormatError(f"{what}: its parameters are not those of this version; {WAY_OUT}.")
        fitted = check_fields(saved.extra.get("fitted"), _FITTED, "what was fitted", what)
        estimator = cls(**given)
        try:
            estimator.check_parameters()
        except (TypeError, ValueError) as error:
            raise FormatError(f"{what} ({str(error).split('; ')[0].rstrip('.')}); {WAY_OUT}.") from error
        size, words = fitted["n_words"], fitted["words"]
        if type(saved.model) is not cls._MODEL or saved.model.n_words != size:
            raise wrong(what, "the model", type(saved.model).__name__, f"one of {size} words")
        if words is not None and len(words) != size:
            raise wrong(what, "words of what was fitted", words, f"a list of {size}")
        estimator.model_, estimator.history_ = saved.model.eval(), saved.history
        estimator.n_features_in_, estimator.seed_ = size, fitted["seed"]
        estimator.words_ = None if words is None else tuple(words)
        if fitted["named"]:
            estimator.feature_names_in_ = np.array(words, dtype=object)
        return estimator

    def _described(self) -> dict[str, Any]:
        """The parameters and fitted attributes, for JSON."""
        kept = {name: value for name, value in self.get_params(deep=False).items() if name not in _OF_THE_FITTING}
        if isinstance(self.random_state, np.random.RandomState):
            kept["random_state"] = self.seed_
        fitted = {
            "n_words": self.n_features_in_,
            "words": None if self.words_ is None else list(self.words_),
            "named": hasattr(self, "feature_names_in_"),
            "seed": self.seed_,
        }
        return {"estimator": type(self).__name__, "parameters": encode(kept), "fitted": fitted}

    def check_parameters(self) -> None:
        """Raise ValueError for invalid arguments."""
        one_of("inference", self.inference, self._INFERENCES)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) != "auto":
                check_whole(name, getattr(self, name), 1)
        real("validation", self.validation, 0, below=1)
        if not isinstance(self.random_state, np.random.RandomState | None):
            check_whole("random_state", self.random_state, 0)
        if self.threads is not None:
            check_whole("threads", self.threads, 1)
            check_threads(self.threads)
        if self.total_documents is not None:
            check_whole("total_documents", self.total_documents, 1)

    def _seed(self, run: Path | None, resume: Resume) -> int | None:
        """The seed of the unfinished fit in ``run``, if the estimator has no seed of its own."""
        if run is None or resume != "auto" or self.random_state is not None:
            return None
        return seed_of(run)

    def _start(self, X: Any, words: Sequence[str] | None, seed: int | None) -> Counts:
        """Make a new model for documents ``X``, and give their counts."""
        self.check_parameters()
        counts = self._counts(X, words, reset=True)
        self.seed_ = inputs.seed(self.random_state) if seed is None else seed
        self.model_, self.history_ = self._model(counts.n_words), History()
        self.__dict__.pop("_procedure", None)
        return counts

    def _counts(self, X: Any, words: Sequence[str] | None = None, reset: bool = False) -> Counts:
        """The counts of documents ``X``, if they suit the model; ``reset``: its words are those of ``X``."""
        if not reset:
            inputs.check_fitted(self)
        counts, named = as_counts(self, X, words, reset)
        if reset:
            self.words_ = named
        elif named is not None and self.words_ is not None and named != self.words_:
            raise DataError(
                "X counts other words than the model was fitted to; read the documents with words=…, its words_."
            )
        if self._needs_whole and not counts.whole:
            raise DataError(
                f"X holds counts that are not whole numbers, which {type(self).__name__}(inference="
                f'"{self.inference}") needs; round them, or use LDA(inference="online").'
            )
        return counts

    def _watch(self, held_out: Counts) -> Callback:
        """Note in the history, after each epoch, the perplexity of one half of held-out documents given the other."""
        some = held_out.subset(torch.arange(min(len(held_out), _WATCHED)))
        seen, held = halves(some.csr, self.seed_)

        def watch(event: Event) -> None:
            if event.record is not None:
                event.record["valid_perplexity"] = perplexity(self.model_, seen, held, self.seed_)

        return watch

    @abstractmethod
    def _layers(self) -> list[NDArray[Any]]:
        """Φˡ ``[K_{l−1}, K_l]`` of each layer, whose columns sum to 1; K₀ = V."""

    @abstractmethod
    def _weights(self) -> NDArray[Any]:
        """The share of each topic of the last layer before any word is seen, ``[K_T]``."""

    def _names(self) -> Sequence[str]:
        return self.words_ or [f"x{v}" for v in range(self.n_features_in_)]

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.input_tags.categorical = self._needs_whole
        return tags
