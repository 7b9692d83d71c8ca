"""A model as a folder: ``config.json`` and ``model.safetensors``. The one table of names is here.

Loading builds only what the table names; a network of your own is saved as numbers alone, and is handed back to
``load``. Nothing is unpickled and nothing in a file is run.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lowerbound
from lowerbound import checkpoint, likelihoods, model, objectives, posteriors, priors
from lowerbound import nn as networks
from lowerbound.errors import FormatError
from lowerbound.training import schedules

FORMAT = 1
CONFIG, TENSORS = "config.json", "model.safetensors"

TABLE: dict[str, Callable[..., Any]] = {
    "activations.GELU": nn.GELU,
    "activations.ReLU": nn.ReLU,
    "activations.SiLU": nn.SiLU,
    "activations.Tanh": nn.Tanh,
    "likelihoods.Bernoulli": likelihoods.Bernoulli,
    "likelihoods.Categorical": likelihoods.Categorical,
    "likelihoods.DiscretizedLogistic": likelihoods.DiscretizedLogistic,
    "likelihoods.NegativeBinomial": likelihoods.NegativeBinomial,
    "likelihoods.Normal": likelihoods.Normal,
    "likelihoods.Poisson": likelihoods.Poisson,
    "model.LatentVariableModel": model.LatentVariableModel,
    "networks.Chain": networks.Chain,
    "networks.ConvDecoder": networks.ConvDecoder,
    "networks.ConvEncoder": networks.ConvEncoder,
    "networks.MLP": networks.MLP,
    "networks.Standardise": networks.Standardise,
    "objectives.elbo": objectives.elbo,
    "objectives.elbo_entropy": objectives.elbo_entropy,
    "objectives.elbo_sampled": objectives.elbo_sampled,
    "objectives.iwae": objectives.iwae,
    "posteriors.DiagonalNormal": posteriors.DiagonalNormal,
    "priors.Normal": priors.Normal,
    "schedules.Constant": schedules.Constant,
    "schedules.Cosine": schedules.Cosine,
    "schedules.WarmUp": schedules.WarmUp,
}
_NAMES = {part: name for name, part in TABLE.items()}


@dataclass(frozen=True)
class Saved:
    """What a folder held: p(x, z), q(z|x), and what else was saved beside them."""

    model: model.LatentVariableModel
    posterior: posteriors.DiagonalNormal
    extra: dict[str, Any]


def find(kind: str, name: str) -> Callable[..., Any]:
    """The part of a kind ("likelihoods", "objectives", …) by its name, in any case, with or without dashes."""
    parts = {key.split(".")[1]: part for key, part in TABLE.items() if key.startswith(f"{kind}.")}
    plain = {_plain(key): part for key, part in parts.items()}
    if _plain(name) in plain:
        return plain[_plain(name)]
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.0)
    guess = next(key for key in parts if _plain(key) == near[0])
    raise ValueError(f"{name!r} is none of the {kind} ({', '.join(parts)}); did you mean {guess!r}?")


def save(
    path: str | Path,
    model: model.LatentVariableModel,
    posterior: posteriors.DiagonalNormal,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model and its posterior into the folder ``path``; ``extra`` is kept as JSON beside them."""
    folder = Path(path)
    config = {
        "format": FORMAT,
        "versions": {"lowerbound": lowerbound.__version__, "torch": torch.__version__},
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model": encode(model),
        "posterior": encode(posterior),
        "extra": dict(extra or {}),
    }
    modules = {"model": model, "posterior": posterior}
    tensors = {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}
    checkpoint.write_tensors(folder / TENSORS, tensors)
    checkpoint.write_json(folder / CONFIG, config)


def load(path: str | Path, **own: Any) -> Saved:
    """Read what ``save`` wrote. ``own``: what is not the library's, as ``decoder=…`` or ``encoder=…``."""
    config = read_config(path)
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    try:
        with networks.seeded(0):  # the weights are replaced at once; their random start must not move global state
            modules = {name: decode(config[name], own) for name in ("model", "posterior")}
        dtype = dtypes[config["dtype"]]
        wrong = not isinstance(modules["model"], model.LatentVariableModel) or not isinstance(config["extra"], dict)
    except KeyError as error:
        raise FormatError(f"{Path(path) / CONFIG} lacks {error}; restore it or fit the model again.") from error
    except (AttributeError, TypeError) as error:
        raise _damaged(path) from error
    if wrong or not isinstance(modules["posterior"], posteriors.DiagonalNormal):
        raise _damaged(path)
    tensors = checkpoint.read_tensors(Path(path) / TENSORS)
    for name, module in modules.items():
        mine = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        try:
            module.to(dtype).load_state_dict(mine)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise FormatError(f"{Path(path) / TENSORS} does not fit {CONFIG}: {reason}") from error
    return Saved(modules["model"], modules["posterior"], config["extra"])


def read_config(path: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a folder, of a format this version knows."""
    file = Path(path) / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no model: there is no {CONFIG} in it.")
    config = checkpoint.read_json(file)
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise FormatError(f"{file} is not the configuration of a lowerbound model.")
    if config["format"] > FORMAT:
        raise FormatError(f"{file} is of format {config['format']}, newer than this version reads: update lowerbound.")
    return config


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
    if callable(value) and value in _NAMES:
        return {"name": _NAMES[value]}
    if type(value) in _NAMES:
        arguments = {key: encode(getattr(value, key)) for key in _arguments(type(value))}
        return {"part": _NAMES[type(value)], "arguments": arguments}
    return {"own": type(value).__qualname__}


def decode(value: Any, own: Mapping[str, Any], key: str = "model") -> Any:
    """The part that ``encode`` described. ``key`` is the argument it is for."""
    if isinstance(value, list):
        return tuple(decode(item, own, key) for item in value)
    if not isinstance(value, dict):
        return value
    if "own" in value:
        if key not in own:
            raise FormatError(f"the {key} is your own {value['own']}: pass it back, as load(path, {key}=…).")
        return own[key]
    if "name" in value:
        return _known(value["name"])
    if "part" in value:
        chained = value["part"] == _NAMES[networks.Chain]  # its links answer to the name of the whole chain
        arguments = {name: decode(item, own, key if chained else name) for name, item in value["arguments"].items()}
        try:
            return _known(value["part"])(**arguments)
        except (TypeError, ValueError) as error:
            raise FormatError(f"{CONFIG} describes a {value['part']} that cannot be built: {error}") from error
    return {name: decode(item, own, name) for name, item in value.items()}


def _damaged(path: str | Path) -> FormatError:
    return FormatError(f"{Path(path) / CONFIG} does not describe a model; restore it or fit the model again.")


def _arguments(part: type) -> list[str]:
    """The names of a constructor's arguments (``nn.Module``'s own, ``*args``, is none)."""
    parameters = inspect.signature(part).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _known(name: Any) -> Callable[..., Any]:
    if not isinstance(name, str) or name not in TABLE:
        raise FormatError(f"{CONFIG} names {name!r}, which is no part of this version; update lowerbound.")
    return TABLE[name]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
