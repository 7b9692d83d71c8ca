"""``lowerbound fit``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lowerbound.cli.base import (
    INTERRUPTED,
    commands,
    counts,
    csv_told,
    data_argument,
    json_option,
    rows_of,
    seeds,
    tell,
)
from lowerbound.cli.table_options import schema_option

if TYPE_CHECKING:
    from lowerbound.estimators import VAE


def fit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``fit``: each is the argument of ``VAE`` of the same name, with the same default."""
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
        click.option(
            "--objective", default="auto", help="elbo, elbo_sampled, elbo_entropy, iwae; auto: iwae for holes."
        ),
        click.option("--gradient", default=None, help="An estimator by name.  [default: what the posterior allows]"),
        click.option(
            "--draws", type=counts, default=None, help="Latents drawn per row and step.  [default: 1; 20 of iwae]"
        ),
        click.option("--beta", type=click.FloatRange(min=0), default=1.0, help="Weight of the KL."),
        click.option("--warm-up", type=click.FloatRange(min=0), default=0.0, help="Passes over which it grows from 0."),
        click.option("--free-bits", type=click.FloatRange(min=0), default=0.0, help="Nats that each latent has free."),
        click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-3, help="Of Adam."),
        click.option("--batch-size", type=counts, default=100, help="Rows a step."),
        click.option("--epochs", type=counts, default=200, help="Epochs, at most."),
        click.option("--validation", type=click.FloatRange(0, 1, max_open=True), default=0.1, help="Share held out."),
        click.option("--patience", type=counts, default=20, help="Passes without improvement before stopping."),
        click.option(
            "--binarise", type=click.Choice(["none", "fixed", "afresh"]), default="none", help="Grey → 0 or 1."
        ),
        click.option("--strict", is_flag=True, default=False, help="Refuse levels at use that the fit never saw."),
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
@schema_option
@click.option("--recipe", help="An assembly named after its paper, for all that is not given: iwae, vamp_prior, …")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Any argument of VAE, as latent_dim=20.")
@click.option("--max-value", type=click.FloatRange(0, min_open=True), help="Largest pixel value.  [default: by data]")
@click.option("--seed", type=seeds, default=0, help="Fixes every random draw.")
@click.option("--threads", type=counts, help="CPU threads.  [default: torch's]")
@click.option("--force", is_flag=True, help="Replace what is already in the folder.")
@click.option("--resume", is_flag=True, help="Go on with the fit of the same options that was cut short there, if any.")
@click.option("--checkpoint-every", type=counts, default=1000, help="Steps between checkpoints.")
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
    kinds: dict[str, Any] | None,
    **options: Any,
) -> int | None:
    """Fit a variational auto-encoder to DATA.

    A table is learnt column by column, each of its own kind, with holes: see lowerbound check. With --likelihood,
    --binarise or --network conv it is taken for a matrix of numbers.

    With --recipe, what is not given is as the paper of that name has it. A fit that was cut short, by a kill or a power
    cut, goes on with the same command and --resume, to the same bytes.
    """
    refuse_to_replace(out, force, resume)
    options |= {"hidden": sizes(hidden)} | ({} if kinds is None else {"schema": kinds})
    vae = estimator(recipe, options, settings(pairs))
    source = read(vae, data)
    x = rows_of(source, "train")
    if vae.max_value is None and hasattr(source, "max_value"):
        vae.set_params(max_value=source.max_value)
    vae.set_params(random_state=seed, progress=sys.stderr.isatty())
    vae.fit(x, run_dir=out, resume="never" if force else "auto", checkpoint_every=checkpoint_every)
    result = fit_result(vae, out)
    words = f"{about(vae, result)}, {result['latent_dim']} latents: {result['epochs']} epochs, stopped by "
    tell(result, as_json, f"{words}{result['stopped']}, kept epoch {result['best_epoch']} → {out}")
    return INTERRUPTED if vae.history_.stopped == "interrupted" else None


def read(vae: VAE, data: str) -> Any:
    """The data as they are to be fitted: a table as it is, or a matrix where the settings are of one."""
    from lowerbound.data import load, source

    matrix = vae.likelihood != "auto" or vae.binarise != "none" or vae.network != "mlp"
    told = csv_told()
    return load(data, csv=told) if matrix and vae.schema is None else source(data, csv=told)


def refuse_to_replace(out: Path, force: bool, resume: bool) -> None:
    """Refuse a folder that holds a model or a fit, unless told to replace it or to go on."""
    from lowerbound.storage import checkpoints
    from lowerbound.storage.model import holds_model

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
    best = next((r for r in history.records if r["epoch"] == history.best_epoch), {})
    return {
        "run": str(out),
        "likelihood": type(vae.model_.likelihood).__name__,
        **({} if vae.schema_ is None else {"likelihoods": by_column(vae)}),
        "latent_dim": vae.latent_dim,
        "epochs": len(history.records),
        "stopped": history.stopped,
        "best_epoch": history.best_epoch,
        "objective": vae.objective_,
        "draws": vae.draws_,
        "objective_is_bound": vae.objective_is_bound,
        "valid_objective": best.get("valid_objective"),
    }


def by_column(vae: VAE) -> dict[str, str]:
    """The likelihood of each column that is modelled."""
    from lowerbound.likelihoods import Product

    likelihood, schema = vae.model_.likelihood, vae.schema_
    assert isinstance(likelihood, Product)
    assert schema is not None
    pairs = zip(likelihood.likelihoods, likelihood.of, strict=True)
    found = {j: type(part).__name__ for part, block in pairs for j in block}
    return {str(column.name): found[j] for j, column in enumerate(schema.modelled)}


def about(vae: VAE, result: dict[str, Any]) -> str:
    """The likelihood in words: of a table, how many columns have which."""
    if vae.schema_ is None:
        return str(result["likelihood"])
    counts = Counter(result["likelihoods"].values())
    return f"{len(result['likelihoods'])} columns ({', '.join(f'{count} {name}' for name, count in counts.items())})"


def sizes(text: str) -> tuple[int, ...]:
    """Layer sizes from text: 256,128 → (256, 128)."""
    try:
        layers = tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        layers = (0,)
    if any(not 1 <= size <= 10**6 for size in layers):
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
        except (ValueError, RecursionError) as error:  # a number of too many digits, lists too deep
            raise click.BadParameter(f"{name}={value[:20]}… cannot be read ({error}).", param_hint="--set") from error
    return found


def estimator(recipe: str | None, options: dict[str, Any], more: dict[str, Any]) -> VAE:
    """The estimator of a recipe, or the plain one. Its mistakes are those of usage, refused before data are read."""
    from lowerbound.estimators import VAE
    from lowerbound.estimators.parameters import check_parameters, one_of
    from lowerbound.priors import ConditionalNormal
    from lowerbound.recipes import RECIPES
    from lowerbound.storage.registry import find

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
        if isinstance(vae.prior, str) and find("priors", vae.prior) is ConditionalNormal:
            raise ValueError("the prior ConditionalNormal is p(z|context), and a context is given in Python alone.")
    except (ValueError, TypeError, RecursionError) as error:
        raise click.UsageError(str(error)) from error
    return vae
