"""``lowerbound score``, ``compare`` and ``report``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowerbound.cli.anomaly_scores import odd_rows
from lowerbound.cli.base import (
    Finite,
    Whole,
    commands,
    counts,
    data_argument,
    fitted,
    is_held_out,
    json_option,
    part_option,
    rows_of,
    run_argument,
    safe_csv_option,
    samples_option,
    seeds,
    source_for,
    table_path,
    tell,
)
from lowerbound.cli.encode_sample_impute import FIT_A_TABLE
from lowerbound.cli.sequences import is_sequences, refuse_but, score_sequences
from lowerbound.cli.table_as_numbers import AsNumbers, OfFrame
from lowerbound.cli.table_options import as_arrow, check_table, keep_option, strict_option
from lowerbound.cli.topics import is_topics, report_topics, text_option
from lowerbound.errors import DataError

if TYPE_CHECKING:
    from lowerbound.estimators import VAE
    from lowerbound.evidence import LogLikelihood

_ODD_SAMPLES = 1000  # importance samples per row for --anomaly


def evidence_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of ``--evidence``; ``--standard-error`` and ``--budget`` apply without it too."""
    options = [
        click.option("--evidence", "judge", is_flag=True, help="Run every check and print a verdict (takes minutes)."),
        click.option(
            "--standard-error",
            type=Finite(0, min_open=True),
            default=0.1,
            help="Target standard error per row, in nats.",
        ),
        click.option("--budget", type=Finite(256), default=3000, help="Maximum draws per row, on average."),
        click.option("--anneal", type=Whole(0), default=50, help="Rows to anneal as well, for --evidence."),
        click.option("--simulate", type=Whole(0), default=50, help="Rows to simulate from the model, for --evidence."),
        click.option("--temperatures", type=counts, default=1000, help="Annealing temperatures, for --evidence."),
        click.option("--chains", type=Whole(2), default=8, help="Annealing chains per row, for --evidence."),
        click.option(
            "--start",
            type=click.Choice(["posterior", "prior"]),
            default="posterior",
            help="Starting distribution of annealing, for --evidence.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@commands.command()
@run_argument
@data_argument
@part_option
@samples_option
@evidence_options
@click.option("--anomaly", is_flag=True, help="Print anomaly scores of a table's rows and cells.")
@click.option("--top", type=counts, default=5, help="Number of rows to show, for --anomaly.")
@click.option("--out", callback=table_path, help="File for the figures of each row: .npy, .csv or .parquet.")
@safe_csv_option
@keep_option
@strict_option
@json_option
def score(
    run: Path,
    data: str,
    part: str,
    samples: int | None,
    judge: bool,
    anomaly: bool,
    top: int,
    out: Path | None,
    keep: tuple[str, ...],
    strict: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate log p(x) of the rows of DATA.

    The estimate is by importance sampling; for a table with missing cells it is log p of the observed cells. The
    number of draws per row is chosen to reach --standard-error within --budget, or set with --samples.

    With --evidence, some rows are also scored by annealed importance sampling, and log p(x) of rows simulated from the
    model is bounded from both sides. A verdict states what was measured, how it can be wrong, and what to do next.

    With --anomaly, −log p(x) of each row of a table is split into the contributions of its cells (1,000 draws per row
    unless --samples is given).

    For a model of sequences, log p(x) is per sequence and per step; only --samples, --out and --json apply.
    """
    if is_sequences(run):
        refuse_but(("run", "data", "samples", "out", "as_json", "separator", "decimal", "missing_values"))
        score_sequences(run, data, samples, out, as_json)
        return
    if judge and anomaly:
        raise click.UsageError("--evidence and --anomaly cannot be combined: give only one of them.")
    _check_draws(judge, samples)
    vae = fitted(run)
    if anomaly and vae.schema_ is None:
        raise DataError(f"--anomaly needs a model of a table, but {run} was fitted to an array; {FIT_A_TABLE}")
    check_table(vae, run, strict, keep, out)
    source = source_for(vae, data)
    x = rows_of(source, part)
    scored = x if vae.schema_ is None else _without(x, [name for name in keep if name not in vae.schema_.names])
    precision = {name: options[name] for name in ("standard_error", "budget")}
    if anomaly:
        result, words = odd_rows(vae, as_arrow(x), _ODD_SAMPLES if samples is None else samples, top, out, keep)
    elif judge:
        from lowerbound.evidence import Settings

        settings = Settings(options["temperatures"], options["chains"], start=options["start"])
        given = {name: options[name] for name in ("anneal", "simulate")}
        train = rows_of(source, "train") if is_held_out(source, part) else None
        found = vae.evidence(scored, settings=settings, train=train, **precision, **given)
        result, words = found.summary(), str(found)
        write_figures(out, found.importance, x, keep)
    else:
        estimate = vae.log_likelihood(scored, samples=samples, **precision)
        result, words = plainly(vae, estimate, is_held_out(source, part))
        write_figures(out, estimate, x, keep)
    tell(result, as_json, words)


def _check_draws(judge: bool, samples: int | None) -> None:
    if judge and samples is not None:
        raise click.UsageError("--evidence chooses the draws per row itself: leave out --samples or --evidence.")


def _without(x: Any, names: Sequence[str]) -> Any:
    """Drop columns that are only to be written."""
    there = set(x.column_names) if names else set()
    return as_arrow(x).drop_columns([name for name in names if name in there]) if names else x


def write_figures(out: Path | None, found: LogLikelihood, x: Any, keep: Sequence[str]) -> None:
    """Write one line per row to ``out``, if given: the columns of ``keep``, then the figures."""
    import numpy as np

    from lowerbound.data import write, write_frame
    from lowerbound.estimators.frames import beside

    if out is None:
        return
    columns = {
        "log_likelihood": found.estimate,
        "standard_error": found.standard_error,
        "ess": found.ess,
        "pareto_k": found.pareto_k,
        "samples": found.samples,
    }
    if keep:
        write_frame(out, beside(as_arrow(x), keep, columns))
    else:
        write(out, np.column_stack(list(columns.values())), list(columns))


def plainly(vae: VAE, found: LogLikelihood, held_out: bool) -> tuple[dict[str, Any], str]:
    """Summarise importance sampling as a dict and as text."""
    from lowerbound.evidence.verdict import draws_words, proposals_words

    draws = f"{draws_words(found)} draws per row {proposals_words(found)}"
    counting, table = vae.model_.likelihood.measure == "counting", vae.schema_ is not None
    result = {
        "rows": len(found.estimate),
        "log_likelihood": found.mean,
        "standard_error": found.mean_standard_error,
        "monte_carlo_error": found.mean_monte_carlo_error,
        "elbo": found.mean_elbo,
        "elbo_standard_error": found.mean_elbo_standard_error,
        "bits_per_dimension": found.bits_per_dimension(vae.shape_) if counting and not table else None,
        "estimator": f"importance sampling, {draws}",
        "bound": "lower, in expectation",
        "measure": vae.model_.likelihood.measure,
        "smallest_ess": float(found.ess.min()),
        "rows_with_ess_below_10": int((found.ess < 10).sum()),
        "rows_unreliable": int((~found.reliable).sum()),
    }
    bits = f" ({result['bits_per_dimension']:.3f} bits per dimension)" if counting and not table else ""
    what = " of observed cells, in the columns' own units" if table else ""
    return (
        result,
        f"{'held-out ' if held_out else ''}log p(x) = {found.mean:.2f} ± {found.mean_standard_error:.2f} nats per row"
        f"{what}{bits}, {result['rows']} rows\n"
        f"  by importance sampling, {draws}: a lower bound in expectation; ± is one standard error over "
        f"rows; Monte Carlo error {found.mean_monte_carlo_error:.3f}\n"
        f"  unreliable rows (Pareto k̂ above its threshold): {result['rows_unreliable']}; "
        f"rows with an effective sample size below 10 (noisy and biased low): {result['rows_with_ess_below_10']}\n"
        f"  ELBO = {found.mean_elbo:.2f} ± {found.mean_elbo_standard_error:.2f} nats per row, a lower bound",
    )


@commands.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@data_argument
@part_option
@samples_option
@click.option("--seed", type=seeds, default=0, help="Seed of the draws and of binarisation.")
@json_option
def compare(runs: tuple[Path, ...], data: str, part: str, samples: int | None, seed: int, as_json: bool) -> None:
    """Compare the models of RUNS by log p(x) on DATA.

    Differences are taken row by row. Runs that differ only in their seed are treated as fits of one model.
    """
    from lowerbound.estimators import compare as compared

    if len(runs) < 2:
        raise click.UsageError("give at least two runs to compare, and then DATA.")
    models: dict[str, list[VAE]] = {}
    for vaes in of_one_kind(runs).values():
        models[" ".join(str(run) for run, _ in vaes)] = [vae for _, vae in vaes]
    if len(models) < 2:
        raise click.UsageError(
            "these runs differ only in their seed, so they are fits of one model; give runs of another model."
        )
    every = [vae for vaes in models.values() for vae in vaes]
    taken = next((vae for vae in every if vae.schema_ is not None), every[0])
    found = compared(models, rows_of(source_for(taken, data), part), samples=samples, seed=seed)
    tell({"differences": found.table()}, as_json, str(found))


def of_one_kind(runs: Sequence[Path]) -> dict[str, list[tuple[Path, VAE]]]:
    """Group the runs that differ only in their seed."""
    from lowerbound.storage.model import read_config

    found: dict[str, list[tuple[Path, VAE]]] = {}
    for run in runs:
        vae = fitted(run)
        settings = dict(read_config(run)["extra"]["parameters"])
        settings.pop("random_state", None)
        found.setdefault(json.dumps(settings, sort_keys=True), []).append((run, vae))
    return found


@commands.command()
@run_argument
@data_argument
@part_option
@samples_option
@click.option("--evidence", "judge", is_flag=True, help="Run every check of score --evidence (takes minutes).")
@text_option
@json_option
def report(run: Path, data: str, part: str, samples: int | None, judge: bool, text: str | None, as_json: bool) -> None:
    """Write RUN/report.html, a report on the model, evaluated on DATA."""
    if is_topics(run):
        report_topics(run, data, text, as_json)
        return
    if text is not None:
        raise click.UsageError("--text is for topic models; leave it out.")
    import numpy as np

    from lowerbound.report import write_report
    from lowerbound.report.facts import count_of, has_posterior

    _check_draws(judge, samples)
    vae = fitted(run)
    source = source_for(vae, data)
    x = rows_of(source, part)
    found: Any = None
    if has_posterior(vae):
        found = vae.evidence(x) if judge else vae.log_likelihood(x, samples=samples)
    names = getattr(source, "names", None)
    shown: Any = OfFrame(vae, x)
    if vae.schema_ is not None:
        shown = AsNumbers.of(vae, as_arrow(x))
        x, names = shown.x, shown.names
    labels = getattr(source, f"{part}_labels", getattr(source, "labels", None))
    page = write_report(
        run,
        shown,
        np.asarray(x),
        labels,
        found,
        title=f"{Path(data).name}: VAE with {count_of(vae)} latents",
        held_out=is_held_out(source, part),
        names=names,
        command=f"lowerbound report {run} {data}",
    )
    tell({"report": str(page)}, as_json, f"report → {page}")
