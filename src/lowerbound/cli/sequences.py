"""Sequences on the command line: ``lowerbound fit STEPS --sequence ID,TIME``, ``sample`` and ``score``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lowerbound.cli.base import INTERRUPTED, Finite, Whole, csv_options, tell
from lowerbound.errors import DataError

if TYPE_CHECKING:
    from lowerbound.estimators import SequenceVAE
    from lowerbound.evidence import LogLikelihood

_OF_FIT = (
    *("data", "separator", "decimal", "missing_values", "out", "sequence", "latent_dim", "draws", "learning_rate"),
    *("batch_size", "epochs", "validation", "patience", "kinds", "pairs", "seed", "threads", "force", "resume"),
    *("checkpoint_every", "as_json"),
)
_SETTINGS = ("latent_dim", "draws", "learning_rate", "batch_size", "epochs", "validation", "patience")
_SAMPLES = 1000  # importance samples per sequence


def _two_names(context: click.Context, option: click.Parameter, given: str | None) -> tuple[str, str] | None:
    names = () if given is None else tuple(name.strip() for name in given.split(","))
    if given is None:
        return None
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise click.BadParameter(f"{given!r} is not two names of columns, such as id,time.")
    return names[0], names[1]


sequence_option = click.option(
    "--sequence",
    metavar="ID,TIME",
    callback=_two_names,
    help="Fit sequences: the columns with the name of the sequence and the time of each row, see below.",
)


def forecast_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of ``sample`` for models of sequences."""
    options = [
        click.option("--steps", type=Whole(1, 10**6), help="Steps to forecast or, without --given, to draw."),
        click.option(
            "--level", type=Finite(0, 1, min_open=True, max_open=True), default=0.9, help="Share of a forecast's "
            "draws in its intervals."
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def is_sequences(run: Path) -> bool:
    """Whether a run holds an estimator of sequences."""
    from lowerbound.storage.model import read_config

    return bool(read_config(run, warn=False)["extra"].get("estimator") == "SequenceVAE")


def refuse_given(names: Iterable[str]) -> None:
    """Refuse options that are for models of sequences alone, if they were given."""
    for name in names:
        if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is for models of sequences; leave it out.")


def refuse_but(apply: Sequence[str] = _OF_FIT) -> None:
    """Refuse options that were given and are not among those that ``apply`` to sequences."""
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name not in apply:
            raise click.UsageError(f"{option.opts[0]} does not apply to models of sequences; leave it out.")


def fit_sequences(data: str, out: Path, sequence: tuple[str, str], given: dict[str, Any], more: dict[str, Any]) -> int:
    """Fit to the sequences in the table ``data``. ``given``: the options; ``more``: those of ``--set``."""
    from lowerbound.estimators import SequenceVAE
    from lowerbound.estimators.parameters import one_of

    source = click.get_current_context().get_parameter_source
    options = {n: given[n] for n in _SETTINGS if source(n) is not ParameterSource.DEFAULT and given[n] != "auto"}
    options |= {"random_state": given["seed"], "threads": given["threads"], "progress": sys.stderr.isatty()}
    try:
        for name in more:
            one_of("--set", name, list(SequenceVAE().get_params(deep=False)))
        estimator = SequenceVAE(**{"sequence": sequence, "schema": given["kinds"], **options, **more})
        estimator.check_parameters()
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error
    table = _table(data)
    every = given["checkpoint_every"]
    estimator.fit(table, run_dir=out, resume="never" if given["force"] else "auto", checkpoint_every=every)
    history, names = estimator.history_, estimator.names(table)
    columns = [str(column.name) for column in estimator.schema_.modelled]
    held_out = history.held_out
    result = {
        "run": str(out),
        "sequences": len(names),
        "steps": len(table),
        "columns": columns,
        "latent_dim": estimator.latent_dim,
        "epochs": len(history.records),
        "stopped": history.stopped,
        "best_epoch": history.best_epoch,
        **{name: held_out.get(name) for name in ("valid_objective", "valid_standard_error")},
    }
    words = (
        f"{len(names):,} sequences of {len(table):,} steps, {len(columns)} columns, {estimator.latent_dim} "
        f"latents per step → {out}\n{len(history.records)} epochs, ended by {history.stopped}"
    )
    if held_out:
        words += f"; best held-out objective {held_out['valid_objective']:.2f} nats per sequence"
    tell(result, given["as_json"], f"{words}; kept epoch {history.best_epoch}")
    return INTERRUPTED if history.stopped == "interrupted" else 0


def sample_sequences(run: Path, rows: int, pairs: Sequence[str], out: Path | None, options: dict[str, Any]) -> None:
    """Write the next steps of the sequences in the file ``--given``; without it, sequences drawn from the model."""
    from lowerbound.cli.table_options import write_rows

    if len(pairs) > 1:
        raise click.UsageError("--given is the file with the sequences to be continued; give it once.")
    estimator, seed = _loaded(run), options["seed"]
    if pairs:
        steps, level = options["steps"] or 1, options["level"]
        found = estimator.forecast(_table(pairs[0], estimator), steps, level=level, seed=seed)
        words = f"the next {steps} steps" if steps > 1 else "the next step"
        words = f"{words} of {len(found) // steps:,} sequences, with intervals of {100 * level:g} %"
    else:
        found = estimator.sample(rows, options["steps"], random_state=seed)
        words = f"{rows:,} sequences of {len(found) // rows:,} steps"
    out = run / ("forecast.csv" if pairs else "sample.csv") if out is None else out
    write_rows(out, found, estimator.schema_.csv)
    result = {"rows": len(found), "seed": seed, "given": list(pairs), "steps": options["steps"], "out": str(out)}
    tell(result, options["as_json"], f"{words} → {out}")


def score_sequences(run: Path, data: str, samples: int | None, out: Path | None, as_json: bool) -> None:
    """Print log p(x) of the sequences in ``data``; write it per sequence to ``out``, if given."""
    estimator = _loaded(run)
    table = _table(data, estimator)
    found = estimator.log_likelihood(table, samples=samples or _SAMPLES)
    if out is not None:
        _write_figures(out, estimator, table, found)
    unreliable, per_step = int((~found.reliable).sum()), float(found.estimate.sum() / len(table))
    result = {
        "sequences": len(found.estimate),
        "steps": len(table),
        "log_likelihood": found.mean,
        "standard_error": found.mean_standard_error,
        "monte_carlo_error": found.mean_monte_carlo_error,
        "per_step": per_step,
        "elbo": found.mean_elbo,
        "bound": "lower, in expectation",
        "sequences_unreliable": unreliable,
    }
    words = (
        f"log p(x) = {found.mean:.2f} ± {found.mean_standard_error:.2f} nats per sequence, {per_step:.3f} per step, of "
        f"observed cells, in the columns' own units; {len(found.estimate):,} sequences\n"
        f"  by importance sampling, {samples or _SAMPLES} draws per sequence: a lower bound in expectation; "
        f"Monte Carlo error {found.mean_monte_carlo_error:.3f}\n"
        f"  unreliable sequences (Pareto k̂ above its threshold): {unreliable}\n"
        f"  ELBO = {found.mean_elbo:.2f} nats per sequence, a lower bound"
    )
    tell(result, as_json, words)


def _write_figures(out: Path, estimator: SequenceVAE, table: Any, found: LogLikelihood) -> None:
    """Write a line per sequence: its name and its figures."""
    import pyarrow as pa

    from lowerbound.data import write_frame

    figures = ("estimate", "standard_error", "ess", "pareto_k")
    columns = {"log_likelihood" if name == "estimate" else name: getattr(found, name) for name in figures}
    write_frame(out, pa.table({estimator.sequence[0]: estimator.names(table), **columns}))


def _loaded(run: Path) -> SequenceVAE:
    from lowerbound.estimators import SequenceVAE, load

    found = load(run)
    assert isinstance(found, SequenceVAE)
    return found


def _table(data: str, estimator: SequenceVAE | None = None) -> Any:
    """Read a table of steps, as that of the fit if there was one."""
    from lowerbound.cli.table_options import types_of
    from lowerbound.data import Csv
    from lowerbound.data.sources import source

    told = csv_options()
    if estimator is None:
        found = source(data, csv=told)
    else:
        fitted = estimator.schema_.csv or Csv()
        told = told if told.missing else Csv(told.separator, told.decimal, fitted.missing)
        found = source(data, types_of(estimator.schema_), told, fitted.separator)
    if not hasattr(found, "column_names"):
        raise DataError(f"{data} is no table with a row per step; give a .csv or .parquet file.")
    return found
