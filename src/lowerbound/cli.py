"""The command line: argv → calls. Results go to files and, with ``--json``, to stdout; words go to stderr.

Nothing heavy is imported until a verb runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lowerbound.errors import (
    DataError,
    FormatError,
    LockedError,
    LowerboundError,
    OutOfMemoryError,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from lowerbound.data import Dataset, Table
    from lowerbound.estimators import VAE

BAD_DATA, MISSING, MEMORY, IO, LOCKED, INTERRUPTED = 65, 66, 71, 74, 75, 130

NO_MEMORY = "there is not enough memory for this; lower --batch-size, --draws or --hidden, or take fewer rows"

data_argument = click.argument("data")
run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
part_option = click.option(
    "--part", type=click.Choice(["train", "test"]), default="test", show_default=True, help="Of a named dataset."
)
samples_option = click.option(
    "--samples", type=click.IntRange(min=2), default=1000, show_default=True, help="Draws of importance sampling."
)


def table_path(context: click.Context, option: click.Parameter, out: str | None) -> Path | None:
    """A path that figures can be written to, by its suffix: refused before they are computed."""
    if out is None or Path(out).suffix.lower() in (".npy", ".csv", ".parquet"):
        return None if out is None else Path(out)
    raise click.BadParameter(f"{out} cannot be written by its suffix; use .npy, .csv or .parquet.")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; leave with 0, 2 usage, 65 bad data, 66 missing input, 71 memory, 74 I/O, 75 locked, 130 Ctrl-C."""
    warnings.showwarning = lambda message, *_: say(f"warning: {message}", "yellow")
    try:
        code = commands(arguments, prog_name="lowerbound", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted", "red")
        code = INTERRUPTED
    except FileNotFoundError as error:
        # The system's own has a number: it is of a place to write in, for what is to be read is worded here.
        code = fail(error, MISSING) if error.errno is None else fail(in_words(error), IO)
    except LockedError as error:
        code = fail(error, LOCKED)
    except (DataError, FormatError, ValueError) as error:
        code = fail(error, BAD_DATA)
    except OSError as error:
        short = is_out_of_memory(error)
        code = fail(MemoryError(NO_MEMORY), MEMORY) if short else fail(in_words(error), IO)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        code = fail(error if isinstance(error, OutOfMemoryError) else MemoryError(NO_MEMORY), MEMORY)
    except (LowerboundError, ImportError) as error:
        code = fail(error, 1)
    sys.exit(code or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lowerbound")
def commands() -> None:
    """Learn, use and check deep latent-variable models by auto-encoding variational Bayes.

    DATA is a name (digits, mnist) or a path: .npy, .npz, .csv, .parquet, an idx file (.gz too), or a folder of MNIST's
    idx files. RUN is the folder of a fitted model.
    """


def fit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``fit``: each is the argument of ``VAE`` of the same name, with the same default."""
    at_least_1 = click.IntRange(min=1)
    options = [
        click.option("--latent-dim", type=click.IntRange(1, 10**6), default=10, help="Number of latents."),
        click.option("--likelihood", default="auto", help="auto, or Bernoulli, Normal, Categorical, …"),
        click.option("--network", type=click.Choice(["mlp", "conv"]), default="mlp", help="Kind of networks."),
        click.option("--hidden", default="256,128", help="Sizes of the encoder's hidden layers."),
        click.option("--activation", default="SiLU", help="Of hidden layers: SiLU, Tanh, ReLU or GELU."),
        click.option(
            "--prior", default=None, help="Normal, LearnedNormal, VampPrior, …  [default: what suits the posterior]"
        ),
        click.option("--posterior", default="DiagonalNormal", help="DiagonalNormal, Bernoulli, …"),
        click.option("--objective", default="elbo", help="elbo, elbo_sampled, elbo_entropy or iwae."),
        click.option("--gradient", default=None, help="An estimator by name.  [default: what the posterior allows]"),
        click.option("--draws", type=at_least_1, default=1, help="Latents drawn for each row and step."),
        click.option("--beta", type=click.FloatRange(min=0), default=1.0, help="Weight of the KL."),
        click.option("--warm-up", type=click.FloatRange(min=0), default=0.0, help="Passes over which it grows from 0."),
        click.option("--free-bits", type=click.FloatRange(min=0), default=0.0, help="Nats that each latent has free."),
        click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-3, help="Of Adam."),
        click.option("--batch-size", type=at_least_1, default=100, help="Rows a step."),
        click.option("--passes", type=at_least_1, default=200, help="Passes over the data, at most."),
        click.option("--validation", type=click.FloatRange(0, 1, max_open=True), default=0.1, help="Share held out."),
        click.option("--patience", type=at_least_1, default=20, help="Passes without improvement before stopping."),
        click.option(
            "--binarise", type=click.Choice(["none", "fixed", "afresh"]), default="none", help="Grey → 0 or 1."
        ),
        click.option("--device", default="cpu", help="cpu, cuda, …"),
        click.option(
            "--precision", type=click.Choice(["float32", "tf32", "bf16"]), default="float32", help="Of products."
        ),
        click.option("--compile", is_flag=True, default=False, help="Compile the step first: 20 seconds, then faster."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@commands.command()
@data_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the model.")
@fit_options
@click.option("--recipe", help="An assembly named after its paper, for all that is not given: iwae, vamp_prior, …")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Any argument of VAE, as latent_dim=20.")
@click.option("--white", type=click.FloatRange(0, min_open=True), help="Largest grey value.  [default: by the data]")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Fixes every random draw.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
@click.option("--force", is_flag=True, help="Replace what is already in the folder.")
@click.option("--resume", is_flag=True, help="Go on with the fit of the same options that was cut short there, if any.")
@click.option("--checkpoint-every", type=click.IntRange(min=1), default=1000, help="Steps between checkpoints.")
@json_option
def fit(
    data: str,
    out: Path,
    seed: int,
    hidden: str,
    force: bool,
    resume: bool,
    checkpoint_every: int,
    as_json: bool,
    recipe: str | None,
    pairs: tuple[str, ...],
    **options: Any,
) -> int | None:
    """Fit a variational auto-encoder to DATA.

    With --recipe, what is not given is as the paper of that name has it. A fit that was cut short, by a kill or a power
    cut, goes on with the same command and --resume, to the same bytes.
    """
    refuse_to_replace(out, force, resume)
    vae = estimator(recipe, options | {"hidden": sizes(hidden)}, settings(pairs))
    source = load(data)
    x = rows_of(source, "train")
    if vae.white is None and hasattr(source, "white"):
        vae.set_params(white=source.white)
    vae.set_params(random_state=seed, progress=sys.stderr.isatty())
    vae.fit(x, run_dir=out, resume="never" if force else "auto", checkpoint_every=checkpoint_every)
    result = fit_result(vae, out)
    words = f"{result['likelihood']}, {result['latent_dim']} latents: {result['passes']} passes, stopped by "
    tell(result, as_json, f"{words}{result['stopped']}, kept pass {result['best_pass']} → {out}")
    return INTERRUPTED if vae.history_.stopped == "interrupted" else None


def refuse_to_replace(out: Path, force: bool, resume: bool) -> None:
    """Refuse a folder that holds a model or a fit, unless told to replace it or to go on."""
    from lowerbound.io import holds_model
    from lowerbound.training import checkpoints

    if force and resume:
        raise click.UsageError("--force starts anew and --resume goes on: give one of them.")
    if force or resume:
        return
    if checkpoints.unfinished(out) or (checkpoints.listed(out) and not holds_model(out)):
        raise click.UsageError(
            f"{out} holds a fit that was cut short; give --resume to go on with it, or --force to start anew."
        )
    if holds_model(out):
        raise click.UsageError(f"{out} already holds a model; give --force to replace it, or another --out.")


def fit_result(vae: VAE, out: Path) -> dict[str, Any]:
    """What a fit did."""
    history = vae.history_
    best = next((r for r in history.records if r["pass"] == history.best_pass), {})
    return {
        "run": str(out),
        "likelihood": type(vae.model_.likelihood).__name__,
        "latent_dim": vae.latent_dim,
        "passes": len(history.records),
        "stopped": history.stopped,
        "best_pass": history.best_pass,
        "objective": vae.objective,
        "objective_is_bound": vae.objective_is_bound,
        "valid_objective": best.get("valid_objective"),
    }


@commands.command()
@run_argument
@data_argument
@part_option
@click.option("--out", callback=table_path, required=True, help=".npy, .csv or .parquet")
@json_option
def encode(run: Path, data: str, part: str, out: Path, as_json: bool) -> None:
    """Write the posterior means and standard deviations of DATA's latents."""
    import numpy as np

    from lowerbound.data import write

    vae = fitted(run)
    mean, scale = vae.encode(rows_of(load(data), part))
    names = [f"{kind}{i}" for kind in ("mean", "sd") for i in range(vae.latent_dim)]
    write(out, np.hstack([mean, scale]), names)
    tell({"rows": len(mean), "columns": names, "out": str(out)}, as_json, f"{len(mean)} rows → {out}")


@commands.command()
@run_argument
@click.option("-n", "--rows", type=click.IntRange(min=1), default=16, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", callback=table_path, required=True, help=".npy, .csv or .parquet")
@json_option
def sample(run: Path, rows: int, seed: int, out: Path, as_json: bool) -> None:
    """Write rows drawn from the model."""
    from lowerbound.data import write

    vae = fitted(run)
    names = [str(name) for name in getattr(vae, "feature_names_in_", [])] or None
    write(out, vae.sample(rows, random_state=seed), names)
    tell({"rows": rows, "seed": seed, "out": str(out)}, as_json, f"{rows} rows → {out}")


@commands.command()
@run_argument
@data_argument
@part_option
@samples_option
@click.option("--out", callback=table_path, help="Per-row figures: .npy, .csv or .parquet")
@json_option
def score(run: Path, data: str, part: str, samples: int, out: Path | None, as_json: bool) -> None:
    """Estimate log p(x) of DATA by importance sampling."""
    import numpy as np

    from lowerbound.data import write
    from lowerbound.evidence import bits_per_dimension

    vae, source = fitted(run), load(data)
    found = vae.log_likelihood(rows_of(source, part), samples=samples)
    if out is not None:
        columns = {"log_likelihood": found.estimate, "standard_error": found.standard_error, "ess": found.ess}
        write(out, np.column_stack(list(columns.values())), list(columns))
    counting = vae.model_.likelihood.measure == "counting"
    result = {
        "rows": len(found.estimate),
        "log_likelihood": found.mean,
        "standard_error": found.mean_standard_error,
        "monte_carlo_error": found.mean_monte_carlo_error,
        "elbo": found.mean_elbo,
        "elbo_standard_error": found.mean_elbo_standard_error,
        "bits_per_dimension": bits_per_dimension(found.mean, vae.shape_) if counting else None,
        "estimator": f"importance sampling, {samples} draws a row",
        "bound": "lower, in expectation",
        "measure": vae.model_.likelihood.measure,
        "smallest_ess": float(found.ess.min()),
        "rows_with_ess_below_10": int((found.ess < 10).sum()),
    }
    bits = f" ({result['bits_per_dimension']:.3f} bits per dimension)" if counting else ""
    held_out = "held-out " if is_held_out(source, part) else ""
    tell(
        result,
        as_json,
        f"{held_out}log p(x) = {found.mean:.2f} ± {found.mean_standard_error:.2f} nats per row{bits}, "
        f"{result['rows']} rows\n"
        f"  by importance sampling, {samples} draws a row: a lower bound in expectation; ± is one standard error over "
        f"rows; Monte Carlo error {found.mean_monte_carlo_error:.3f}\n"
        f"  {result['rows_with_ess_below_10']} rows have an effective sample size below 10: theirs are rough, and low\n"
        f"  ELBO = {found.mean_elbo:.2f} ± {found.mean_elbo_standard_error:.2f} nats per row, a lower bound",
    )


@commands.command()
@run_argument
@data_argument
@part_option
@samples_option
@json_option
def report(run: Path, data: str, part: str, samples: int, as_json: bool) -> None:
    """Write RUN/report.html: pictures and figures of the model on DATA."""
    import numpy as np

    from lowerbound.report import write_report

    vae, source = fitted(run), load(data)
    x = rows_of(source, part)
    labels = getattr(source, f"{part}_labels", getattr(source, "labels", None))
    page = write_report(
        run,
        vae,
        np.asarray(x),
        labels,
        vae.log_likelihood(x, samples=samples),
        title=f"{Path(data).name}: VAE with {vae.latent_dim} latents",
        held_out=is_held_out(source, part),
        names=getattr(source, "names", None),
        command=f"lowerbound report {run} {data}",
    )
    tell({"report": str(page)}, as_json, f"report → {page}")


@commands.command()
@data_argument
@json_option
def check(data: str, as_json: bool) -> int | None:
    """Say what a fit would do with DATA, and what is wrong with it, without fitting."""
    from lowerbound.data import Dataset
    from lowerbound.estimators.preview import preview

    source = load(data)
    found = preview(source.train, None, data) if isinstance(source, Dataset) else preview(source.x, source.names, data)
    tell(asdict(found), as_json, found.words())
    return BAD_DATA if found.problems else None


@commands.command()
@run_argument
@json_option
def info(run: Path, as_json: bool) -> int | None:
    """Show what the folder RUN holds, and whether it is whole."""
    from lowerbound.contents import contents

    found = contents(run)
    tell(found.as_dict(), as_json, "\n".join(found.lines()))
    return BAD_DATA if found.problems else None


def load(data: str) -> Dataset | Table:
    """A named dataset, or a file's table."""
    from lowerbound.data import load

    return load(data)


def rows_of(source: Dataset | Table, part: str) -> Any:
    """The rows to use: a part of a named dataset, or all of a file; with their column names where they have them."""
    from lowerbound.data import Dataset

    if isinstance(source, Dataset):
        return source.train if part == "train" else source.test
    if source.names is None:
        return source.x
    import pyarrow

    return pyarrow.table({name: source.x[:, i] for i, name in enumerate(source.names)})


def is_held_out(source: Dataset | Table, part: str) -> bool:
    """Whether a fit by the command line cannot have seen these rows: of a file, nobody knows."""
    from lowerbound.data import Dataset

    return isinstance(source, Dataset) and part == "test"


def fitted(run: Path) -> VAE:
    """The estimator saved in ``run``."""
    from lowerbound.estimators import VAE, load

    found = load(run)
    if not isinstance(found, VAE):
        raise FormatError(f"{run} holds a model but no VAE estimator: read it in Python, with lowerbound.load.")
    return found


def sizes(text: str) -> tuple[int, ...]:
    """Layer sizes from text: 256,128 → (256, 128)."""
    try:
        layers = tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        layers = (0,)
    if any(size < 1 for size in layers):
        raise click.BadParameter(f"{text!r} is not a list of sizes such as 256,128.", param_hint="--hidden")
    return layers


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE each, the value as JSON where it is JSON and as text where it is not."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE, as latent_dim=20.", param_hint="--set")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def estimator(recipe: str | None, options: dict[str, Any], more: dict[str, Any]) -> VAE:
    """The estimator of a recipe, or the plain one. Its mistakes are those of usage, refused before data are read."""
    from lowerbound.estimators import VAE
    from lowerbound.estimators.parameters import check_parameters, one_of
    from lowerbound.recipes import RECIPES

    source = click.get_current_context().get_parameter_source
    try:
        for name in more:
            one_of("--set", name, list(VAE().get_params(deep=False)))
        if recipe is None:
            vae = VAE(**options | more)
        else:
            one_of("recipe", recipe, list(RECIPES))
            told = {name: value for name, value in options.items() if source(name) is not ParameterSource.DEFAULT}
            vae = RECIPES[recipe](**told | more)
        check_parameters(vae.get_params(deep=False))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return vae


def tell(result: dict[str, Any], as_json: bool, words: str) -> None:
    """The result: JSON on stdout where asked for (null for what is not finite), and words on stderr."""
    if as_json:
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in result.items()
        }
        click.echo(json.dumps(plain, allow_nan=False))
    say(words)


def say(words: str, colour: str | None = None) -> None:
    words = "".join(c if c.isprintable() or c == "\n" else "?" for c in words)  # names may come from a file
    click.secho(words, err=True, fg=None if os.environ.get("NO_COLOR") else colour)


def in_words(error: OSError) -> OSError:
    """The system's own error as a sentence; one that is a sentence already, as it is."""
    if error.errno is None:
        return error
    where = f"{error.filename}: " if error.filename else ""
    return OSError(f"{where}{error.strerror}; give another path, or mend what is in the way.")


def fail(error: BaseException, code: int) -> int:
    """One line on stderr, and the code to leave with."""
    say(f"error: {' '.join(str(error).split())}", "red")
    return code
