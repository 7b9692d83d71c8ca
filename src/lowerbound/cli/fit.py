"""``lowerbound fit``."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lowerbound.cli import sequences
from lowerbound.cli.base import (
    INTERRUPTED,
    OrAuto,
    Whole,
    commands,
    counts,
    csv_options,
    data_argument,
    json_option,
    rows_of,
    seeds,
    sizes,
    tell,
)
from lowerbound.cli.predict import without_labels
from lowerbound.cli.table_options import schema_option
from lowerbound.cli.topics import OF_TOPICS, check_options, fit_topics, topic_options

if TYPE_CHECKING:
    from lowerbound.estimators import VAE


_FIT_OPTIONS = (
    click.option("--latent-dim", type=click.IntRange(1, 10**6), default=10, help="Number of latents."),
    click.option(
        "--likelihood",
        default="auto",
        help="Likelihood of the data: Bernoulli, Normal, Categorical, …; auto chooses from the data.",
    ),
    click.option("--network", type=click.Choice(["mlp", "conv"]), default="mlp", help="Type of encoder and decoder."),
    click.option("--hidden", default="256,128", help="Sizes of the encoder's hidden layers."),
    click.option("--activation", default="SiLU", help="Activation of hidden layers: SiLU, Tanh, ReLU or GELU."),
    click.option(
        "--prior",
        default=None,
        help="Prior of the latents: Normal, LearnedNormal, VampPrior, …  "
        "[default: matches the posterior; Flow for tables of 500 rows or more]",
    ),
    click.option("--posterior", default="DiagonalNormal", help="Approximate posterior: DiagonalNormal, Bernoulli, …"),
    click.option(
        "--objective",
        default="auto",
        help="Bound to maximise: elbo, elbo_sampled, elbo_entropy or iwae; auto: iwae if cells are missing.",
    ),
    click.option(
        "--gradient",
        default=None,
        help="Gradient estimator, by name.  [default: reparameterised if the posterior allows it, else leave_one_out]",
    ),
    click.option(
        "--draws", type=counts, default=None, help="Latent samples per row and step.  [default: 1; 20 for iwae]"
    ),
    click.option("--beta", type=click.FloatRange(min=0), default=1.0, help="Weight of the KL term."),
    click.option(
        "--warm-up",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Epochs over which the weight of the KL grows from 0.",
    ),
    click.option(
        "--free-bits",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Nats of KL per latent that are not penalised.",
    ),
    click.option(
        "--inference",
        default=None,
        metavar="NAME|PACKAGE.MODULE:NAME",
        help="Inference method: AEVB, semi-amortised, local, mcem, wake-sleep, reweighted-wake-sleep, full-vb, or the "
        "import path of your own class or function.  [default: AEVB]",
    ),
    click.option(
        "--classes",
        type=Whole(2),
        default=None,
        metavar="K",
        help="Number of clusters to learn, without labels.  [default: no clusters]",
    ),
    click.option(
        "--label-weight",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Weight of log q(y|x) of the rows with labels, in nats; above 0 the objective is no bound.",
    ),
    click.option("--optimizer", default="Adam", help="Optimiser of torch.optim: Adam, AdamW, SGD, …"),
    click.option(
        "--learning-rate",
        type=OrAuto(click.FloatRange(0, min_open=True)),
        default="auto",
        help="Learning rate of the optimiser. For this and the next four options, auto depends on the number of rows.",
    ),
    click.option("--batch-size", type=OrAuto(counts), default="auto", help="Rows per step."),
    click.option(
        "--epochs",
        type=OrAuto(counts),
        default="auto",
        help="Maximum number of epochs; auto: for tables, all rows are then learnt from at a falling learning rate.",
    ),
    click.option(
        "--validation",
        type=OrAuto(click.FloatRange(0, 1, max_open=True)),
        default="auto",
        help="Share of the rows held out for validation.",
    ),
    click.option(
        "--patience",
        type=OrAuto(counts),
        default="auto",
        help="Epochs without improvement of the validation objective before stopping.",
    ),
    click.option(
        "--search",
        type=click.FloatRange(0, min_open=True),
        default=None,
        metavar="SECONDS",
        help="Time for comparing priors, hidden sizes and numbers of latents before the fit.  [default: no search]",
    ),
    click.option(
        "--binarise",
        type=click.Choice(["none", "fixed", "afresh"]),
        default="none",
        help="Binarise grey values: once (fixed) or anew in each epoch (afresh).",
    ),
    click.option(
        "--strict",
        is_flag=True,
        default=False,
        help="Make the fitted model refuse categories not seen in the fit and values out of range, instead of treating "
        "them as missing.",
    ),
    click.option("--device", default="cpu", help="Device of the fit: cpu, cuda, …"),
    click.option(
        "--precision",
        type=click.Choice(["float32", "tf32", "bf16"]),
        default="float32",
        help="Precision of matrix products.",
    ),
    click.option(
        "--compile", is_flag=True, default=False, help="Compile the training step (about 20 seconds; then faster)."
    ),
)


def fit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of ``fit``: each is the ``VAE`` argument of the same name, with the same default."""
    for option in reversed(_FIT_OPTIONS):
        command = option(command)
    return command


@commands.command()
@data_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write the model to.")
@fit_options
@topic_options
@sequences.sequence_option
@schema_option
@click.option("--labels", metavar="COLUMN", help="Column with the class of some rows; an empty cell is no label.")
@click.option("--recipe", help="Defaults from a paper: iwae, vamp_prior, …")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Any argument of VAE, such as latent_dim=20.")
@click.option(
    "--max-value", type=click.FloatRange(0, min_open=True), help="Largest pixel value.  [default: from the data]"
)
@click.option("--seed", type=seeds, default=0, help="Seed of all random numbers.")
@click.option("--threads", type=counts, help="Number of CPU threads.  [default: that of torch]")
@click.option("--force", is_flag=True, help="Replace a model or fit already in the folder.")
@click.option(
    "--resume", is_flag=True, help="Resume an interrupted fit with the same options, if the folder holds one."
)
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
    model: str,
    sequence: tuple[str, str] | None,
    labels: str | None,
    **options: Any,
) -> int | None:
    """Fit a variational auto-encoder, a topic model, or a model of sequences to DATA.

    Each column of a table gets a likelihood for its kind of values, and missing cells are allowed: lowerbound check
    shows how a table would be read. With --likelihood, --binarise or --network conv, DATA is read as a matrix of
    numbers instead.

    With --labels COLUMN, the class of each row is a latent, known where that column is not empty; lowerbound predict
    gives the classes of rows.

    --recipe sets the defaults of the options to those of a paper. To resume a fit that was interrupted, repeat the
    command with --resume; the result is the same, byte for byte.

    With --model lda or deep-lda, DATA are documents: text with a document per line (.txt, .txt.gz), a table with
    --text COLUMN or with a column of counts per word, or counts of words (.npz, .npy, .mtx; .ldac for the format of
    LDA-C). Only the options from --model to --max-share, and --inference, --batch-size, --epochs, --validation, --set
    and those after it apply.

    With --sequence ID,TIME, DATA is a table with a row per step: a deep Kalman filter is fitted to its sequences, and
    lowerbound sample RUN --given DATA forecasts their next steps. Rows are sorted by time; a missing step is a row of
    missing cells. --latent-dim (8) is per step, and --batch-size (20) and --validation (0.1) of sequences.
    """
    check_options(model)
    refuse_to_replace(out, force, resume)
    if sequence is not None:
        sequences.refuse_but()
        own = {"seed": seed, "force": force, "checkpoint_every": checkpoint_every, "as_json": as_json, "kinds": kinds}
        return sequences.fit_sequences(data, out, sequence, options | own, settings(pairs))
    if model != "vae":
        own = {"seed": seed, "force": force, "checkpoint_every": checkpoint_every, "as_json": as_json}
        return fit_topics(data, out, model, options | own, settings(pairs))
    options |= {"hidden": sizes(hidden)} | ({} if kinds is None else {"schema": kinds})
    vae = _vae(recipe, options, settings(pairs), labels)
    source = read(vae, data)
    x = rows_of(source, "train")
    x, y = (x, None) if labels is None else without_labels(x, labels)
    if vae.max_value is None and hasattr(source, "max_value"):
        vae.set_params(max_value=source.max_value)
    vae.set_params(random_state=seed, progress=sys.stderr.isatty())
    vae.fit(x, y, run_dir=out, resume="never" if force else "auto", checkpoint_every=checkpoint_every)
    result = fit_result(vae, out)
    latents = f"{vae.latent_dim_} latent{'' if vae.latent_dim_ == 1 else 's'}"
    tell(result, as_json, "\n".join([f"{about(vae, result)}, {latents} → {out}", *course(vae)]))
    return INTERRUPTED if vae.history_.stopped == "interrupted" else None


def _vae(recipe: str | None, options: Mapping[str, Any], more: Mapping[str, Any], labels: str | None) -> VAE:
    """The estimator of the options of ``fit``, less those of topic models, and of the arguments ``more``."""
    own = {name: value for name, value in options.items() if name not in OF_TOPICS}
    if labels is not None and own["classes"] is not None:
        raise click.UsageError("--labels names classes and --classes is a number of clusters: give only one of them.")
    if ":" in (own["inference"] or ""):
        own["inference"] = imported(own["inference"], "--inference")
    return estimator(recipe, own, dict(more) | ({} if labels is None else {"classes": "y"}))


def read(vae: VAE, data: str) -> Any:
    """Load the data to fit: as a table, or as a matrix if the options need one."""
    from lowerbound.data import load, source

    matrix = vae.likelihood != "auto" or vae.binarise != "none" or vae.network != "mlp"
    told = csv_options()
    return load(data, csv=told) if matrix and vae.schema is None else source(data, csv=told)


def refuse_to_replace(out: Path, force: bool, resume: bool) -> None:
    """Refuse a folder that holds a model or a fit, unless ``force`` or ``resume`` is given."""
    from lowerbound.storage import checkpoints
    from lowerbound.storage.model import holds_model

    if force and resume:
        raise click.UsageError("--force starts anew and --resume continues: give only one of them.")
    if force or resume:
        return
    if checkpoints.unfinished(out) or (checkpoints.listed(out) and not holds_model(out)):
        raise click.UsageError(
            f"{out} holds an unfinished fit; give --resume to continue it, or --force to start anew."
        )
    if holds_model(out):
        raise click.UsageError(f"{out} already holds a model; give --force to replace it, or another --out.")


def fit_result(vae: VAE, out: Path) -> dict[str, Any]:
    """Summarise a fit."""
    history = vae.history_
    held_out = history.held_out
    return {
        "run": str(out),
        "likelihood": type(vae.model_.likelihood).__name__,
        **({} if vae.schema_ is None else {"likelihoods": by_column(vae)}),
        "latent_dim": vae.latent_dim_,
        "inference": vae.inference_,
        "epochs": len(history.records),
        "stopped": history.stopped,
        "best_epoch": history.best_epoch,
        "objective": vae.objective_,
        "draws": vae.draws_,
        "objective_is_bound": vae.objective_is_bound,
        **{name: held_out.get(name) for name in ("valid_objective", "valid_standard_error")},
        "valid_epoch": held_out.get("epoch"),
        "last_phase": sum("last_phase" in record for record in history.records),
        "chosen": {name: choice.value for name, choice in vae.chosen_.items()},
    }


def course(vae: VAE) -> list[str]:
    """How long a fit was, why it ended, how good it was on held-out rows, and what it chose, in sentences."""
    from lowerbound.storage.choice import in_words

    history = vae.history_
    last, best = sum("last_phase" in record for record in history.records), history.held_out
    lines = [f"{len(history.records) - last} epochs, ended by {history.stopped}"]
    if best:
        error = f" ± {best['valid_standard_error']:.2f}" if "valid_standard_error" in best else ""
        lines[0] += f"; best held-out objective {best['valid_objective']:.2f}{error} nats per row"
    if last:
        lines.append(f"then {last} epochs on all rows from the best state, at a falling learning rate")
    lines[-1] += f"; kept epoch {history.best_epoch}"
    if chosen := in_words(vae.chosen_):
        lines.append(f"chosen for these rows: {', '.join(f'{name} {value}' for name, value in chosen.items())}")
    return lines


def by_column(vae: VAE) -> dict[str, str]:
    """Return the name of the likelihood of each modelled column."""
    from lowerbound.likelihoods import Product

    likelihood, schema = vae.model_.likelihood, vae.schema_
    assert isinstance(likelihood, Product)
    assert schema is not None
    pairs = zip(likelihood.likelihoods, likelihood.of, strict=True)
    found = {j: type(part).__name__ for part, block in pairs for j in block}
    return {str(column.name): found[j] for j, column in enumerate(schema.modelled)}


def about(vae: VAE, result: dict[str, Any]) -> str:
    """Describe the likelihood; for a table, count the columns of each likelihood."""
    if vae.schema_ is None:
        return str(result["likelihood"])
    counts = Counter(result["likelihoods"].values())
    return f"{len(result['likelihoods'])} columns ({', '.join(f'{count} {name}' for name, count in counts.items())})"


def imported(text: str, option: str) -> Any:
    """Import PACKAGE.MODULE:NAME, from Python's path or the working directory."""
    module, _, name = text.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module of somebody else raises
        raise click.BadParameter(
            f"{text!r} cannot be imported ({type(error).__name__}: {error}).", param_hint=option
        ) from error


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse NAME=VALUE pairs: a value that is not JSON is text."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE, such as latent_dim=20.", param_hint="--set")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
        except (ValueError, RecursionError) as error:  # a number with too many digits, or lists nested too deeply
            raise click.BadParameter(f"{name}={value[:20]}… cannot be read ({error}).", param_hint="--set") from error
    return found


def estimator(recipe: str | None, options: dict[str, Any], more: dict[str, Any]) -> VAE:
    """Make the estimator, with a recipe's defaults if given; raise usage errors before data are read."""
    from lowerbound.estimators import VAE
    from lowerbound.estimators.parameters import check_parameters, one_of
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
        named = vae.prior if vae.classes is None else None  # with classes, the class is the context
        if isinstance(named, str) and getattr(prior := find("priors", named), "needs_context", False):
            raise ValueError(f"the prior {prior.__name__} needs a context, which can only be given in Python.")
    except (ValueError, TypeError, RecursionError) as error:
        raise click.UsageError(str(error)) from error
    return vae
