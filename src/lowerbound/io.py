"""A model as a folder: ``config.json``, ``model.safetensors``, ``metrics.jsonl``; the one table of names is here.

Loading builds only what the table names; a network of your own is saved as numbers alone, and is handed back to
``load``. Nothing is unpickled, nothing in a file is run, and no memory is taken that the weights do not fill.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

import lowerbound
from lowerbound import checkpoint, folder, gradients, likelihoods, migrations, model, objectives, posteriors, priors
from lowerbound import nn as networks
from lowerbound.checks import OBJECT, TEXTS, Check, check_fields, fits, is_list, is_text, one_of, or_none, shown, whole
from lowerbound.draw import Draw
from lowerbound.errors import FormatError
from lowerbound.training import History, checkpoints, schedules
from lowerbound.training.procedure import Stopped

FORMAT = 2
CONFIG, TENSORS, METRICS = "config.json", "model.safetensors", "metrics.jsonl"
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: migrations.config_from_1}
"""How a configuration of a format becomes one of the next."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_CONFIG = {
    "dtype": one_of(*_DTYPES),
    "model": OBJECT,
    "posterior": OBJECT,
    "history": OBJECT,
    "extra": OBJECT,
    "versions": Check(
        "an object of text", lambda value: isinstance(value, dict) and is_list([*value, *value.values()], is_text)
    ),
}
"""What each field of a configuration must be, beside its format."""
_HISTORY = {
    "best_epoch": or_none(whole("a whole number of 0 or more")),
    "stopped": one_of(None, *get_args(Stopped)),
    "rescues": TEXTS,
}
"""What each field of a ``History`` must be; its records are a file of their own."""
_CODES = {  # of a safetensors header
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
}
_SMALL = 1_000_000  # numbers that a model may hold beside its weights, whatever these are
_TRIES = 20  # at a folder that changes while it is read
T = TypeVar("T")
_LONGEST = 10_000  # items in a list that describes a part

TABLE: dict[str, Callable[..., Any]] = {
    "activations.GELU": nn.GELU,
    "activations.ReLU": nn.ReLU,
    "activations.SiLU": nn.SiLU,
    "activations.Tanh": nn.Tanh,
    "gradients.ByNode": gradients.ByNode,
    "gradients.LearnedBaseline": gradients.LearnedBaseline,
    "gradients.Relax": gradients.Relax,
    "gradients.bounded": gradients.bounded,
    "gradients.by_family": gradients.by_family,
    "gradients.control_variate": gradients.control_variate,
    "gradients.doubly_reparameterised": gradients.doubly_reparameterised,
    "gradients.enumerated": gradients.enumerated,
    "gradients.leave_one_out": gradients.leave_one_out,
    "gradients.partially_importance_weighted": gradients.partially_importance_weighted,
    "gradients.rao_blackwellised": gradients.rao_blackwellised,
    "gradients.rebar": gradients.rebar,
    "gradients.relaxed": gradients.relaxed,
    "gradients.reparameterised": gradients.reparameterised,
    "gradients.score_function": gradients.score_function,
    "gradients.sticking_the_landing": gradients.sticking_the_landing,
    "gradients.straight_through": gradients.straight_through,
    "likelihoods.Bernoulli": likelihoods.Bernoulli,
    "likelihoods.Beta": likelihoods.Beta,
    "likelihoods.BetaBinomial": likelihoods.BetaBinomial,
    "likelihoods.Categorical": likelihoods.Categorical,
    "likelihoods.DiscretizedLogistic": likelihoods.DiscretizedLogistic,
    "likelihoods.DiscretizedLogisticMixture": likelihoods.DiscretizedLogisticMixture,
    "likelihoods.FullNormal": likelihoods.FullNormal,
    "likelihoods.InflatedLogitNormal": likelihoods.InflatedLogitNormal,
    "likelihoods.LogNormal": likelihoods.LogNormal,
    "likelihoods.LogitNormal": likelihoods.LogitNormal,
    "likelihoods.LowRankNormal": likelihoods.LowRankNormal,
    "likelihoods.NegativeBinomial": likelihoods.NegativeBinomial,
    "likelihoods.Normal": likelihoods.Normal,
    "likelihoods.Ordinal": likelihoods.Ordinal,
    "likelihoods.Poisson": likelihoods.Poisson,
    "likelihoods.Product": likelihoods.Product,
    "likelihoods.RoundedLogistic": likelihoods.RoundedLogistic,
    "likelihoods.SelfMasking": likelihoods.SelfMasking,
    "likelihoods.StudentT": likelihoods.StudentT,
    "likelihoods.ZeroInflatedLogNormal": likelihoods.ZeroInflatedLogNormal,
    "likelihoods.ZeroInflatedNegativeBinomial": likelihoods.ZeroInflatedNegativeBinomial,
    "model.LatentVariableModel": model.LatentVariableModel,
    "networks.Cells": networks.Cells,
    "networks.Chain": networks.Chain,
    "networks.ConvDecoder": networks.ConvDecoder,
    "networks.ConvEncoder": networks.ConvEncoder,
    "networks.Identity": nn.Identity,
    "networks.MLP": networks.MLP,
    "networks.Standardise": networks.Standardise,
    "objectives.Constrained": objectives.Constrained,
    "objectives.capacity": objectives.capacity,
    "objectives.combined_iwae": objectives.combined_iwae,
    "objectives.elbo": objectives.elbo,
    "objectives.elbo_entropy": objectives.elbo_entropy,
    "objectives.elbo_sampled": objectives.elbo_sampled,
    "objectives.iwae": objectives.iwae,
    "objectives.minus_cubo": objectives.minus_cubo,
    "objectives.multi_iwae": objectives.multi_iwae,
    "objectives.renyi": objectives.renyi,
    "posteriors.Bernoulli": posteriors.Bernoulli,
    "posteriors.Beta": posteriors.Beta,
    "posteriors.Categorical": posteriors.Categorical,
    "posteriors.DiagonalNormal": posteriors.DiagonalNormal,
    "posteriors.Dirichlet": posteriors.Dirichlet,
    "posteriors.Flow": posteriors.Flow,
    "posteriors.FullNormal": posteriors.FullNormal,
    "posteriors.Gamma": posteriors.Gamma,
    "posteriors.Joint": posteriors.Joint,
    "posteriors.LogisticNormal": posteriors.LogisticNormal,
    "posteriors.LowRankNormal": posteriors.LowRankNormal,
    "posteriors.NormalMixture": posteriors.NormalMixture,
    "posteriors.VonMisesFisher": posteriors.VonMisesFisher,
    "posteriors.Weibull": posteriors.Weibull,
    "priors.Bernoulli": priors.Bernoulli,
    "priors.Beta": priors.Beta,
    "priors.Categorical": priors.Categorical,
    "priors.ConditionalNormal": priors.ConditionalNormal,
    "priors.Dirichlet": priors.Dirichlet,
    "priors.Flow": priors.Flow,
    "priors.Gamma": priors.Gamma,
    "priors.HypersphericalUniform": priors.HypersphericalUniform,
    "priors.Joint": priors.Joint,
    "priors.LearnedNormal": priors.LearnedNormal,
    "priors.Normal": priors.Normal,
    "priors.NormalMixture": priors.NormalMixture,
    "priors.VampPrior": priors.VampPrior,
    "schedules.Constant": schedules.Constant,
    "schedules.Cosine": schedules.Cosine,
    "schedules.Cyclic": schedules.Cyclic,
    "schedules.WarmUp": schedules.WarmUp,
}
_SUPPLIED = {
    "objectives": ("draw",),
    "gradients": ("draw", "objective"),
    "posteriors": ("latent_dim", "encoder"),
    "priors": ("latent_dim", "n_classes", "event", "in_shape", "network"),
    "likelihoods": ("n_classes", "trials", "shape", "rank"),
}
"""Arguments without a default that a part of each kind is given by whoever builds it from its name."""
_NAMES = {part: name for name, part in TABLE.items()}
_SEVERAL = ("likelihoods", "parts", "estimators")  # arguments that are lists of parts
_ADDED: dict[type[Any], dict[str, Any]] = {
    networks.MLP: {"context": 0},
    likelihoods.LogNormal: {"resolution": 0.0},
    likelihoods.Product: {"blocks": None, "scale": None},
    likelihoods.ZeroInflatedLogNormal: {"resolution": 0.0},
}
"""Arguments that came later, left out where they are as before: so that older checkpoints are of the same fit."""


@dataclass(frozen=True)
class Saved:
    """What a folder held: p(x, z), q(z|x), what happened in their fit, and what else was saved beside them."""

    model: model.LatentVariableModel
    posterior: posteriors.Posterior
    history: History
    extra: dict[str, Any]


def find(kind: str, name: str) -> Callable[..., Any]:
    """The part of a kind ("likelihoods", "objectives", …) by its name, in any case, with or without dashes."""
    parts = {key.split(".")[1]: part for key, part in TABLE.items() if key.startswith(f"{kind}.")}
    plain = {_plain(key): part for key, part in parts.items()}
    if _plain(name) in plain:
        return _ready(kind, plain[_plain(name)])
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.0)
    guess = next(key for key in parts if _plain(key) == near[0])
    raise ValueError(f"{name!r} is none of the {kind} ({', '.join(parts)}); did you mean {guess!r}?")


def _ready(kind: str, part: Callable[..., Any]) -> Callable[..., Any]:
    """``part``, unless its name alone is not enough: it has arguments without a default that nothing supplies."""
    parameters = inspect.signature(part).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    lacking = [name for name in required if name not in _SUPPLIED.get(kind, required)]
    if lacking:
        settings = ", ".join(f"{each}=…" for each in lacking)
        name = f"lowerbound.{kind}.{part.__name__}"
        whole = isinstance(part, type) and kind != "posteriors"  # a posterior is made once its latents are known
        call = f"{name}({settings})" if whole else f"functools.partial({name}, {settings})"
        raise ValueError(f"{part.__name__} needs more than its name: in Python, give {call}.")
    return part


def save(
    path: str | Path,
    model: model.LatentVariableModel,
    posterior: posteriors.Posterior,
    extra: Mapping[str, Any] | None = None,
    history: History | None = None,
) -> None:
    """Write a model and its posterior into the folder ``path``; ``extra`` is kept as JSON beside them.

    The folder holds the new model or, wherever writing was cut short, the one before. Raises ``LockedError`` while a
    fit writes there, ``OSError`` if it cannot be written.
    """
    with checkpoint.locked(Path(path)):
        folder.write(Path(path), files(model, posterior, extra, history))


def files(
    model: model.LatentVariableModel,
    posterior: posteriors.Posterior,
    extra: Mapping[str, Any] | None = None,
    history: History | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> dict[str, bytes]:
    """The files of a model's folder. ``tensors``: in place of the modules' own."""
    history = History() if history is None else history
    config = {
        "format": FORMAT,
        "versions": {"lowerbound": lowerbound.__version__, "torch": torch.__version__},
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model": encode(model),
        "posterior": encode(posterior),
        "history": {name: getattr(history, name) for name in _HISTORY},
        "extra": dict(extra or {}),
    }
    if tensors is None:
        tensors = checkpoint.tensors_of({"model": model, "posterior": posterior})
    return {
        CONFIG: checkpoint.json_bytes(config),
        TENSORS: checkpoint.tensor_bytes(tensors),
        METRICS: "".join(checkpoint.json_line(record) for record in history.records).encode(),
    }


def load(path: str | Path, **own: Any) -> Saved:
    """Read what ``save`` wrote. ``own``: what is not the library's, as ``decoder=…`` or ``encoder=…``.

    Every file is checked against the folder's manifest first; ``FormatError`` names one that is not as written.
    """
    return _read(path, lambda found: _load(found, own))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Run the block, and give the folder ``path`` to what it says of a configuration."""
    try:
        yield
    except FormatError as error:
        if not str(error).startswith(CONFIG):
            raise
        raise FormatError(f"{path / str(error)}") from error


def place(path: str | Path, warn: bool = True) -> Path:
    """The folder of the model in ``path``: itself or, of a fit that has not ended, the newest whole checkpoint."""
    path = Path(path)
    if holds_model(path):
        if warn and checkpoints.unfinished(path):
            warnings.warn(f"a fit in {path} has not ended: this is the model from before it", stacklevel=3)
        return path
    whole = [found for found in reversed(checkpoints.listed(path)) if not folder.problems(found)]
    if not whole:
        raise FileNotFoundError(f"{path} holds no model: there is no {CONFIG} in it.")
    if warn:
        step = int(whole[0].name)
        warnings.warn(f"the fit of {path} has not ended: this is its best model up to step {step}", stacklevel=3)
    return whole[0]


def holds_model(path: Path) -> bool:
    """Whether ``path`` itself is a model's folder, whole or not."""
    return any((path / name).exists() for name in (CONFIG, folder.MANIFEST))


def _read(path: str | Path, reader: Callable[[folder.Folder], T], warn: bool = True) -> T:
    """``reader`` of the model in ``path``; again if that was a checkpoint whose place a newer one has taken."""
    for _ in range(_TRIES):
        there = checkpoints.listed(Path(path))
        try:
            return folder.read(place(path, warn), reader)
        except (FormatError, FileNotFoundError):
            if checkpoints.listed(Path(path)) == there:
                raise
    raise FormatError(f"{path} is written again and again while it is read; wait for the fit to end.")


def read_config(path: str | Path, warn: bool = True) -> dict[str, Any]:
    """The ``config.json`` of a folder, as this version's format has it. ``warn``: of a fit that has not ended."""
    return _read(path, _config, warn)


def _load(found: folder.Folder, own: Mapping[str, Any]) -> Saved:
    config = _config(found)
    with found.open(TENSORS) as file:
        header = checkpoint.tensor_shapes(file, found.path / TENSORS)
        with torch.device("meta"):
            _check_fit(_modules(config, own, found.path), header, found.path)
        tensors = checkpoint.parse_tensors(file.read(), found.path / TENSORS)
    with networks.seeded(0):  # the weights are replaced at once; their random start must not move global state
        modules = _modules(config, own, found.path)
    checkpoint.check_finite(tensors, found.path / TENSORS, _buffers(modules, own))
    for name, value in checkpoint.tensors_of(modules).items():
        value.copy_(tensors[name])
    records = checkpoint.parse_records(found.read(METRICS), found.path / METRICS)
    history = History(records, **{name: config["history"][name] for name in _HISTORY})
    return Saved(modules["model"], modules["posterior"], history, config["extra"])


def rebuild(value: Mapping[str, Any], own: Mapping[str, Any], saved: Saved) -> dict[str, Any]:
    """What ``encode`` described beside a model, if its networks are no larger than the model's own."""
    for key, item in value.items():
        networks_due = key in ("encoder", "decoder", "likelihood", "prior", "objective", "gradient")
        if not networks_due and any(not name.startswith("schedules.") for name in _parts(item)):
            raise FormatError(f"{CONFIG} describes the {key} by a part that is none of its kind; restore it.")
    with torch.device("meta"), networks.seeded(0):
        asked = checkpoint.size_of(decode(item, own, key) for key, item in value.items())
    if asked > checkpoint.size_of((saved.model, saved.posterior)):
        raise FormatError(f"{CONFIG} describes networks of {asked} numbers, more than the model has; restore it.")
    with networks.seeded(0):
        return {key: decode(item, own, key) for key, item in value.items()}


def _parts(value: Any) -> Iterator[str]:
    """The names of the parts that are described anywhere in ``value``."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        if "part" in value:
            yield str(value["part"])
        for item in value.values():
            yield from _parts(item)


def encode(value: Any) -> Any:
    """A part as JSON: its name in the table and its constructor's arguments, which it keeps as attributes."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, partial) and not value.args and value.func in _NAMES:
        return {"name": _NAMES[value.func], "given": {key: encode(item) for key, item in value.keywords.items()}}
    if callable(value) and value in _NAMES:
        return {"name": _NAMES[value]}
    if type(value) in _NAMES:
        added, given = _ADDED.get(type(value), {}), {key: getattr(value, key) for key in _arguments(type(value))}
        arguments = {key: encode(item) for key, item in given.items() if key not in added or item != added[key]}
        return {"part": _NAMES[type(value)], "arguments": arguments}
    return {"own": type(value).__qualname__}


def decode(value: Any, own: Mapping[str, Any], key: str = "model") -> Any:
    """The part that ``encode`` described. ``key`` is the argument it is for."""
    if isinstance(value, list):
        if len(value) > _LONGEST:
            raise FormatError(f"{CONFIG} gives {key} as a list of {len(value)}; no part has so many; restore it.")
        if key not in _SEVERAL and any(isinstance(item, dict) for item in value):
            raise FormatError(f"{CONFIG} describes the {key} by a list of parts, which none takes; restore it.")
        return tuple(decode(item, own, key) for item in value)
    if not isinstance(value, dict):
        return value
    if "own" in value:
        if key not in own:
            name = shown(value["own"]).strip("'")
            raise FormatError(f"the {key} is your own {name}: pass it back, as load(path, {key}=…).")
        return own[key]
    if "name" in value:
        named, given = _known(value["name"]), value.get("given") or {}
        settings = {name: decode(item, own, name) for name, item in given.items()}
        _check_arguments(value["name"], settings)
        return partial(named, **settings) if settings else named
    if "part" in value:
        chained = value["part"] == _NAMES[networks.Chain]  # its links answer to the name of the whole chain
        arguments = {name: decode(item, own, key if chained else name) for name, item in value["arguments"].items()}
        part = _known(value["part"])
        _check_arguments(value["part"], arguments)
        try:
            return part(**arguments)
        except FormatError:
            raise
        except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".").replace("; ", ", ")
            raise _not_built(value["part"], reason) from error
    raise FormatError(f"{CONFIG} describes the {key} by what is no part; restore it.")


def _check_arguments(name: str, given: Mapping[str, Any]) -> None:
    """Refuse arguments that a part of the table has not, or that are not of the types which it declares."""
    part = TABLE[name]
    made = part.__init__ if isinstance(part, type) else part  # type: ignore[misc]
    hints, due = typing.get_type_hints(made), _arguments(part)
    for key, value in given.items():
        if key not in due or hints.get(key) in (Draw, gradients.Objective):
            raise _not_built(name, f"it takes no {shown(key)}")
        if not fits(value, hints.get(key, Any)):
            raise _not_built(name, f"its {key} is {shown(value)}")


def _not_built(name: str, why: str) -> FormatError:
    return FormatError(f"{CONFIG} describes a {name} that cannot be built: {why}; restore it.")


def _config(found: folder.Folder) -> dict[str, Any]:
    """The configuration of a folder, brought to this version's format."""
    file = found.path / CONFIG
    config: dict[str, Any] = checkpoint.parse_json(found.read(CONFIG, checkpoint.LARGEST_JSON), file)
    version = config.get("format") if isinstance(config, dict) else None
    if type(version) is not int or version < 1:
        raise FormatError(f"{file} is not the configuration of a lowerbound model.")
    if version > FORMAT:
        raise FormatError(f"{file} is of format {version}, newer than this version reads: update lowerbound.")
    for older in range(version, FORMAT):
        config = MIGRATIONS[older](config)
    what = f"{file} does not describe a model"
    check_fields({key: of for key, of in config.items() if key in _CONFIG}, _CONFIG, "the configuration", what)
    check_fields(config["history"], _HISTORY, "the history", what)
    return config


def _modules(config: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The model and the posterior that a configuration describes, with values still to be filled in."""
    try:
        with naming(path):
            modules = {name: decode(config[name], own) for name in ("model", "posterior")}
    except KeyError as error:
        raise FormatError(f"{path / CONFIG} lacks {error}; restore it or fit the model again.") from error
    except (AttributeError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    kinds = {"model": model.LatentVariableModel, "posterior": posteriors.Posterior}
    if not all(isinstance(modules[name], kind) for name, kind in kinds.items()):
        raise _damaged(path)
    return {name: module.to(_DTYPES[config["dtype"]]) for name, module in modules.items()}


def _check_fit(modules: Mapping[str, nn.Module], header: checkpoint.Shapes, path: Path) -> None:
    """Refuse modules whose tensors are not those of the header, before they take memory."""
    due = {
        name: (_CODES.get(value.dtype), tuple(value.shape)) for name, value in checkpoint.tensors_of(modules).items()
    }
    for name in sorted(due.keys() | header.keys()):
        if due.get(name) != header.get(name):
            want, have = (" ".join(map(str, at[name])) if name in at else "nothing" for at in (due, header))
            raise FormatError(f"{path / TENSORS} does not fit {CONFIG}: {name} is {have}, where {want} is due.")
    numbers = sum(math.prod(shape) for _, shape in header.values())
    if checkpoint.size_of(modules.values()) > 2 * numbers + _SMALL:
        raise FormatError(f"{path / CONFIG} asks for far more memory than the model's {numbers} numbers; restore it.")


def _buffers(modules: Mapping[str, nn.Module], own: Mapping[str, Any]) -> list[str]:
    """The names of buffers of modules of one's own, which may be infinite, as what hides values is."""
    theirs = {id(value) for part in own.values() if isinstance(part, nn.Module) for value in part.buffers()}
    named = ((f"{name}.{key}", value) for name, part in modules.items() for key, value in part.named_buffers())
    return [name for name, value in named if id(value) in theirs]


def _damaged(path: str | Path) -> FormatError:
    return FormatError(f"{Path(path) / CONFIG} does not describe a model; restore it or fit the model again.")


def _arguments(part: Callable[..., Any]) -> list[str]:
    """The names of a constructor's arguments (``nn.Module``'s own, ``*args``, is none)."""
    parameters = inspect.signature(part).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _known(name: Any) -> Callable[..., Any]:
    if not isinstance(name, str) or name not in TABLE:
        raise FormatError(f"{CONFIG} names {shown(name)}, which is no part of this version; update lowerbound.")
    return TABLE[name]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
