"""Write ``report.html`` for a fitted topic model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

import lowerbound
from lowerbound.data import Counts
from lowerbound.report import sentences, style
from lowerbound.report.facts import STOPPED, visible_range
from lowerbound.report.style import BLUE, Panel
from lowerbound.report.templates import Section, render
from lowerbound.storage.files import atomic_write
from lowerbound.topics import Csr, TopicModel, diversity, npmi
from lowerbound.topics.kernels import KERNELS
from lowerbound.training import History

Array = NDArray[Any]
_WORDS, _MOST, _ROOTS, _DOCUMENTS = 10, 60, 20, 12  # words per topic; topics, trees and documents that are shown
REFERENCES = {
    "LDA": (
        "D. M. Blei, A. Y. Ng and M. I. Jordan (2003). Latent Dirichlet allocation. JMLR 3.",
        "M. D. Hoffman, D. M. Blei and F. Bach (2010). Online learning for latent Dirichlet allocation. NIPS.",
    ),
    "DeepLDA": (
        "M. Zhou, Y. Cong and B. Chen (2016). Augmentable gamma belief networks. JMLR 17; arXiv:1512.03081.",
        "Y. Cong, B. Chen, H. Liu and M. Zhou (2017). Deep latent Dirichlet allocation with topic-layer-adaptive "
        "stochastic gradient Riemannian MCMC. ICML; arXiv:1706.01724.",
    ),
}
READING = (
    "Perplexity is exp(−mean log p) of the words that were left out of each document, given the others: lower is "
    "better, and a model that gives every word the same probability has as many as there are words. Compare models by "
    "it only on the same documents and words.",
    "NPMI, from −1 to 1, measures how often the words of a topic occur in the same documents, relative to chance "
    "(Bouma 2009); topics that people find coherent tend to have a high value. Diversity is the share of different "
    "words among the most probable words of all topics.",
)


class FittedTopics(Protocol):
    """Interface of a fitted ``LDA`` or ``DeepLDA`` that the report reads."""

    inference: str
    seed_: int

    @property
    def model_(self) -> TopicModel: ...
    @property
    def history_(self) -> History: ...
    @property
    def words_(self) -> tuple[str, ...] | None: ...
    @property
    def components_(self) -> Array: ...
    @property
    def n_topics_(self) -> tuple[int, ...]: ...
    @property
    def score_is_(self) -> str: ...

    def transform(self, X: Any) -> Array: ...
    def perplexity(self, seen: Any, held: Any = None) -> float: ...
    def score(self, X: Any) -> float: ...
    def top_words(self, n: int = 10, layer: int = 1) -> list[dict[str, float]]: ...
    def topic_tree(self, n: int = 5, children: int = 3) -> Any: ...


@dataclass(frozen=True)
class Facts:
    """What the page shows of documents: topics' ``shares [N, K]``, ``use [K]`` and ``npmi [K]``, and their words."""

    counts: Counts
    shares: Array
    use: Array
    npmi: Array
    diversity: float
    words: list[dict[str, float]]
    names: Sequence[str]

    @classmethod
    def of(cls, estimator: FittedTopics, counts: Counts) -> Facts:
        shares = estimator.transform(counts)
        lengths = np.concatenate([_lengths(part) for _, part in counts.slices()])
        topics, words = estimator.components_, estimator.top_words(_WORDS)
        names = estimator.words_ or [f"x{v}" for v in range(counts.n_words)]
        use = lengths @ shares / max(lengths.sum(), 1)
        return cls(counts, shares, use, npmi(topics, counts.csr, _WORDS), diversity(topics), words, names)


def _lengths(part: Csr) -> Array:
    total = np.concatenate([[0.0], np.cumsum(part.counts, dtype=np.float64)])
    found: Array = np.diff(total[part.indptr])
    return found


def write_topics_report(
    folder: Path, estimator: FittedTopics, counts: Counts, *, title: str, command: str | None = None
) -> Path:
    """Write ``report.html`` (self-contained) to ``folder``; return its path.

    ``counts``: documents of the fitted words, from which use, NPMI and perplexity are computed.
    """
    title = sentences.legible(title)
    facts, history = Facts.of(estimator, counts), estimator.history_
    order = np.argsort(-facts.use, kind="stable")
    trees = estimator.topic_tree(6, 4)
    deep = bool(trees[0].children)
    with style.drawing():
        sections = [_topics(facts, deep), *([_tree(len(trees))] if deep else [])]
        sections += [_use(facts), _course(history), _documents(len(counts))]
    page = render(
        "topics.html.j2",
        title=title,
        lead=_lead(estimator, counts),
        headline=_headline(estimator, facts),
        sections=sections,
        topics=[_card(facts, int(k)) for k in order[:_MOST]],
        trees=trees[:_ROOTS],
        documents=_rows(facts),
        reading=READING,
        chosen=(),
        configuration=_configuration(estimator, counts),
        command=None if command is None else sentences.legible(command),
        references=REFERENCES[type(estimator).__name__],
    )
    with atomic_write(folder / "report.html", follow=True) as file:
        file.write(page.encode("utf-8", "replace"))
    return folder / "report.html"


def _lead(estimator: FittedTopics, counts: Counts) -> str:
    """What was fitted, and the documents of the page, in one sentence."""
    sizes = estimator.n_topics_
    what = (
        "Latent Dirichlet allocation" if len(sizes) == 1 else f"Deep latent Dirichlet allocation in {len(sizes)} layers"
    )
    topics = (
        f"{sizes[0]} topic{'s' if sizes[0] > 1 else ''}" if len(sizes) == 1 else f"{'–'.join(map(str, sizes))} topics"
    )
    return (
        f"{what}: {topics}, learnt by the inference {estimator.inference!r}; {len(counts):,} documents of "
        f"{counts.n_words:,} different words."
    )


@dataclass(frozen=True)
class Headline:
    """The perplexity of the page's documents, how it was found, and other figures."""

    perplexity: str
    vocabulary: str
    how: str
    facts: tuple[tuple[str, str], ...]


def _headline(estimator: FittedTopics, facts: Facts) -> Headline:
    counts = facts.counts
    words = sum(int(part.counts.sum(dtype=np.float64)) for _, part in counts.slices())
    how = (
        f"Of {len(counts):,} documents of {words:,} words: the topics' shares of each are inferred from a random half "
        "of its words, and the other half is predicted. If the documents were used in the fit, the figure is too low."
    )
    some = np.isfinite(facts.npmi)
    each = (
        ("Score", f"{sentences.number(estimator.score(counts), 3)} nats per word: {estimator.score_is_}"),
        ("NPMI", f"{facts.npmi[some].mean():.3f} on average over topics" if some.any() else "not defined here"),
        ("Diversity", f"{facts.diversity:.0%} of the topics' 25 most probable words differ"),
    )
    return Headline(f"{estimator.perplexity(counts):,.0f}", f"{counts.n_words:,}", how, each)


def _topics(facts: Facts, deep: bool) -> Section:
    count = len(facts.use)
    where = " of the first layer" if deep else ""
    text = (
        f"The most probable words of each topic{where} with their probabilities, the topic with the largest share of "
        "all words first."
    )
    if count > _MOST:
        text += f" {_MOST} of {count} topics are shown."
    return Section("Topics", (text,), (), "topics")


def _card(facts: Facts, k: int) -> dict[str, Any]:
    """A topic for the page: its number, use and coherence, and its words with bars."""
    words = facts.words[k]
    top = max(words.values())
    npmi = f" · NPMI {sentences.number(float(facts.npmi[k]), 2)}" if np.isfinite(facts.npmi[k]) else ""
    bars = [(word, f"{value:.3f}", round(100 * value / top)) for word, value in words.items()]
    return {"number": k, "about": f"{facts.use[k]:.1%} of words{npmi}", "words": bars}


def _tree(count: int) -> Section:
    text = (
        "Each topic of the last layer, with its share before any word is seen, and below it the topics of the next "
        "layer with the largest weights in it. A topic is named by its layer and its number there; layer 1 is that of "
        "the topics above."
    )
    if count > _ROOTS:
        text += f" {_ROOTS} of {count} topics of the last layer are shown."
    return Section("Tree of topics", (text,), (), "tree")


def _use(facts: Facts) -> Section:
    figure = Figure((5.6, 2.7), layout="constrained")
    axes, use = figure.subplots(), np.sort(facts.use)[::-1]
    axes.bar(np.arange(1, len(use) + 1), 100 * use, color=BLUE, width=0.8 if len(use) <= 60 else 1.0)
    axes.set_xlabel("topics, by use")
    axes.set_ylabel("% of words")
    axes.set_xlim(0.4, max(len(use), 4) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    few = int((facts.use < 0.1 / len(use)).sum())
    text = "The share of each topic in all words of these documents."
    if few:
        text += f" {few} topic{'s have' if few > 1 else ' has'} less than a tenth of an even share."
    return Section("Topic use", (text,), (Panel.of(style.png(figure), "Bars of the share of words of each topic."),))


def _course(history: History) -> Section:
    """Perplexity of held-out documents, or else the objective, over epochs."""
    records, figure = history.records, Figure((5.6, 3.0), layout="constrained")
    name = "valid_perplexity" if any("valid_perplexity" in record for record in records) else "train_objective"
    points = [(record.get("epoch", i + 1), record[name]) for i, record in enumerate(records) if name in record]
    if not points:
        return Section("Training", ("The fit has no records of its epochs.",), ())
    what = "perplexity of held-out documents" if name == "valid_perplexity" else "objective, nats per document"
    text = f"The {what}, after each epoch; {'lower' if name == 'valid_perplexity' else 'higher'} is better."
    if name != "valid_perplexity":
        text += " No documents were held out (validation=), so there is no perplexity over epochs."
    axes = figure.subplots()
    low, high, _ = visible_range([np.array([value for _, value in points])])
    axes.plot(*zip(*points, strict=True), color=BLUE, marker="o" if len(points) <= 30 else "", markersize=3)
    axes.set_ylim(low, high)
    axes.set_xlabel("epoch")
    axes.set_ylabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color="#eceef2", linewidth=0.8)
    return Section("Training", (text,), (Panel.of(style.png(figure), f"Line chart of the {what} by epoch."),))


def _documents(count: int) -> Section:
    text = "The largest topics of some documents, evenly spaced; documents count from 0."
    return Section("Documents", (text,), (), "documents") if count else Section("Documents", ("None.",), ())


def _rows(facts: Facts) -> list[dict[str, Any]]:
    """Documents for the page: their words, and their largest topics with the first words of each."""
    found = []
    for d in np.unique(np.linspace(0, len(facts.counts) - 1, _DOCUMENTS).astype(int)):
        words, counts = facts.counts.subset(torch.tensor([d])).csr.row(0)
        frequent = [facts.names[v] for v in words[np.argsort(-counts, kind="stable")[:_WORDS]]]
        largest = [int(k) for k in np.argsort(-facts.shares[d], kind="stable")[:3] if facts.shares[d, k] >= 0.01]
        topics = [(f"{100 * facts.shares[d, k]:.0f}", k, " ".join(list(facts.words[k])[:3])) for k in largest]
        found.append({"number": int(d), "words": f"{counts.sum():,.0f}", "topics": topics, "frequent": frequent})
    return found


def _configuration(estimator: FittedTopics, counts: Counts) -> sentences.Pairs:
    history, model = estimator.history_, estimator.model_
    numbers = sum(value.numel() for value in model.buffers())
    return (
        ("Model", " ".join(repr(estimator).split())),
        ("Topics", " – ".join(map(str, estimator.n_topics_))),
        ("Words", f"{counts.n_words:,}"),
        ("Numbers in the model", f"{numbers:,}"),
        ("Seed", str(estimator.seed_)),
        ("Epochs run", f"{len(history.records)}; {STOPPED.get(str(history.stopped), 'not recorded')}"),
        ("Kernels", KERNELS),
        ("Versions", f"lowerbound {lowerbound.__version__}, torch {torch.__version__}"),
    )
