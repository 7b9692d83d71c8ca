"""Topic models on the command line: ``lowerbound fit DOCS --model lda`` and ``report``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lowerbound.cli.base import INTERRUPTED, Finite, Whole, csv_options, sizes, tell

if TYPE_CHECKING:
    from lowerbound.data import Documents
    from lowerbound.estimators.topics import TopicEstimator

MODELS = {"lda": "LDA", "deep-lda": "DeepLDA"}
_ENOUGH, _HELD_OUT = 100, 0.05  # documents from which on some are held out by default; their share
OF_TOPICS = ("topics", "layers", "text", "vocabulary", "min_count", "max_share")
_OF_BOTH = (
    *("data", "separator", "decimal", "missing_values", "out", "model", "inference", "batch_size", "epochs"),
    *("validation", "pairs", "seed", "threads", "force", "resume", "checkpoint_every", "as_json"),
)
text_option = click.option("--text", metavar="COLUMN", help="Column that holds the texts, if DOCS is a table.")
_OPTIONS = (
    click.option(
        "--model",
        type=click.Choice(["vae", *MODELS]),
        default="vae",
        help="Model to fit. For lda and deep-lda, DATA are documents: see below.",
    ),
    click.option("--topics", type=Whole(1, 10**5), default=50, help="Number of topics, for lda."),
    click.option("--layers", default="128,64,32", help="Topics of each layer, for deep-lda, that of words first."),
    text_option,
    click.option("--vocabulary", type=click.Path(path_type=Path), help="File of the words to count, one per line."),
    click.option("--min-count", type=Whole(1), default=2, help="Least number of occurrences of a word."),
    click.option(
        "--max-share", type=Finite(0, 1, min_open=True), default=0.5, help="Largest share of documents with a word."
    ),
)


def topic_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--model`` and the options of topic models."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_options(model: str) -> None:
    """Refuse options that were given and do not apply to the model."""
    context = click.get_current_context()
    other = {"topics": "deep-lda", "layers": "lda"}  # which the one model has, and the other not
    for option in context.command.params:
        name = option.name or ""
        fits = name in _OF_BOTH or (name in OF_TOPICS) == (model != "vae")
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and (not fits or other.get(name) == model):
            raise click.UsageError(f"{option.opts[0]} does not apply to --model {model}; leave it out.")


def fit_topics(data: str, out: Path, model: str, given: dict[str, Any], more: dict[str, Any]) -> int | None:
    """Fit a topic model to the documents ``data``. ``given``: the options; ``more``: those of ``--set``."""
    from lowerbound.data import read_words

    estimator = topic_estimator(model, given, more)
    words = None if given["vocabulary"] is None else read_words(given["vocabulary"])
    documents = read(data, given["text"], words, min_count=given["min_count"], max_share=given["max_share"])
    if given["validation"] == "auto" and "validation" not in more:
        estimator.set_params(validation=_HELD_OUT if len(documents.counts) >= _ENOUGH else 0.0)
    estimator.fit(
        documents,
        run_dir=out,
        resume="never" if given["force"] else "auto",
        checkpoint_every=given["checkpoint_every"],
    )
    history = estimator.history_
    last = history.records[-1] if history.records else {}
    result = {
        "run": str(out),
        "model": model,
        "inference": estimator.inference,
        "topics": list(estimator.n_topics_),
        "documents": len(documents.counts),
        "words": documents.counts.n_words,
        "left_out": documents.left_out,
        "epochs": len(history.records),
        "stopped": history.stopped,
        "valid_perplexity": last.get("valid_perplexity"),
    }
    tell(result, given["as_json"], _in_words(result))
    return INTERRUPTED if history.stopped == "interrupted" else None


def topic_estimator(model: str, given: dict[str, Any], more: dict[str, Any]) -> TopicEstimator:
    """Make the estimator from the options; raise usage errors before documents are read."""
    from lowerbound import estimators
    from lowerbound.estimators.parameters import one_of

    make = getattr(estimators, MODELS[model])
    options: dict[str, Any] = {"n_topics": given["topics"]} if model == "lda" else {}
    if model == "deep-lda":
        options["layers"] = list(sizes(given["layers"], "--layers"))
    settings = {name: given[name] for name in ("inference", "batch_size", "epochs", "validation")}
    options |= {name: value for name, value in settings.items() if value not in (None, "auto")}
    options |= {"random_state": given["seed"], "threads": given["threads"], "progress": sys.stderr.isatty()}
    try:
        for name in more:
            one_of("--set", name, list(make().get_params(deep=False)))
        estimator: TopicEstimator = make(**options | more)
        estimator.check_parameters()
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error
    return estimator


def read(data: str, text: str | None, words: Sequence[str] | None, **options: Any) -> Documents:
    """Read documents, CSV files as the options declare."""
    from lowerbound.data import read_documents

    return read_documents(data, text=text, words=words, csv=csv_options(), **options)


def _in_words(result: dict[str, Any]) -> str:
    sizes = "–".join(map(str, result["topics"]))
    lines = [
        f"{result['documents']:,} documents of {result['words']:,} different words, {sizes} topics → {result['run']}",
        f"{result['epochs']} epochs of {result['inference']}, ended by {result['stopped']}",
    ]
    if result["left_out"]:
        lines[0] += f" ({result['left_out']:,} occurrences of other words left out)"
    if result["valid_perplexity"] is not None:
        lines[-1] += f"; perplexity of held-out documents {result['valid_perplexity']:,.0f}"
    return "\n".join(lines)


def is_topics(run: Path) -> bool:
    """Whether a run holds an estimator of a topic model."""
    from lowerbound.storage.model import read_config

    return read_config(run, warn=False)["extra"].get("estimator") in MODELS.values()


def report_topics(run: Path, data: str, text: str | None, as_json: bool) -> None:
    """Write RUN/report.html on a topic model and the documents ``data``."""
    from lowerbound.estimators import load
    from lowerbound.estimators.topics import TopicEstimator
    from lowerbound.report.topics import write_topics_report

    estimator = load(run)
    assert isinstance(estimator, TopicEstimator)
    documents = read(data, text, estimator.words_)
    sizes = "–".join(map(str, estimator.n_topics_))
    column = "" if text is None else f" --text {text}"
    page = write_topics_report(
        run,
        estimator,
        documents.counts,
        title=f"{Path(data).name}: {sizes} topics",
        command=f"lowerbound report {run} {data}{column}",
    )
    tell({"report": str(page)}, as_json, f"report → {page}")
