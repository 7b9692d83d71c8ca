"""Make the inference and the optimiser from an estimator's arguments: by name, or a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lowerbound import objectives
from lowerbound.estimators.defaults import part_of
from lowerbound.inference import (
    AEVB,
    FullVB,
    Inference,
    Local,
    MonteCarloEM,
    ReweightedWakeSleep,
    SemiAmortised,
    WakeSleep,
)
from lowerbound.inference.aevb import Optimizer
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.storage import registry
from lowerbound.storage.registry import plain_name
from lowerbound.training import WarmUp


def _full_vb(posterior: Posterior, **settings: Any) -> FullVB:
    """``FullVB`` of an ``AEVB`` with these settings."""
    return FullVB(AEVB(posterior, **settings))


_full_vb.__signature__ = inspect.signature(AEVB)  # type: ignore[attr-defined]
INFERENCES: dict[str, Callable[..., Inference[LatentVariableModel]]] = {
    "AEVB": AEVB,
    "full-vb": _full_vb,
    "local": Local,
    "mcem": MonteCarloEM,
    "reweighted-wake-sleep": ReweightedWakeSleep,
    "semi-amortised": SemiAmortised,
    "wake-sleep": WakeSleep,
}
"""The library's inferences for any model, by name. Each is called with the posterior that the estimator built, and with
those ``SETTINGS`` that it has as named arguments; ``penalties`` stands for ``free_bits``."""
SETTINGS = {
    "objective": "auto",
    "gradient": None,
    "draws": None,
    "beta": 1.0,
    "warm_up": 0.0,
    "free_bits": 0.0,
    "learning_rate": "auto",
    "optimizer": "Adam",
    "precision": "float32",
    "compile": False,
}
"""The arguments of ``VAE`` that are settings of ``AEVB``, with their defaults."""


@dataclass(frozen=True)
class NotGiven:
    """Placeholder for a user's own function, called ``name``, which a saved estimator needs to be fitted again."""

    argument: str
    name: str

    def __call__(self, *_: object, **__: object) -> Any:
        raise ValueError(
            f"{self.argument} is your own {self.name}, which is not saved; give it by load(path, {self.argument}=…)."
        )


def is_own(inference: object) -> bool:
    """Whether an inference is a user's own: neither None (``AEVB``) nor a name."""
    return inference is not None and not isinstance(inference, str)


def is_aevb(inference: object) -> bool:
    """Whether an inference is ``AEVB``: None, or its name."""
    return inference is None or (isinstance(inference, str) and plain_name(inference) == "aevb")


def named(inference: str | None) -> Callable[..., Inference[LatentVariableModel]]:
    """The library's inference of a name, in any case, with or without dashes; None: ``AEVB``."""
    asked = "aevb" if inference is None else plain_name(inference)
    return {plain_name(name): made for name, made in INFERENCES.items()}[asked]


def name_of(made_by: object) -> str:
    """The name of an inference: the library's (None: AEVB), or that of a user's function or class."""
    if isinstance(made_by, partial):
        return name_of(made_by.func)
    if isinstance(made_by, str):
        return next((name for name in INFERENCES if plain_name(name) == plain_name(made_by)), made_by)
    if made_by is None or isinstance(made_by, NotGiven):
        return "AEVB" if made_by is None else made_by.name
    return str(getattr(made_by, "__name__", type(made_by).__name__))


def inference_for(
    given: Mapping[str, Any], model: LatentVariableModel, posterior: Posterior | None
) -> Inference[LatentVariableModel]:
    """Make the inference from an estimator's arguments ``given``, for its model and posterior."""
    make = given["inference"]
    if is_own(make):
        made = make(model, posterior, **_settings(given, taken_by(make)))
        if isinstance(made, type) or not isinstance(made, Inference):
            raise ValueError(
                f"inference is {name_of(make)}, which returned a {type(made).__name__}; return an object with "
                "posterior, is_bound, describe() and start(model, rows)."
            )
        return made
    assert posterior is not None
    kind = named(make)
    settings = _settings(given, taken_by(kind))
    floor = settings.pop("free_bits", 0.0)
    if floor and settings["objective"] is not objectives.elbo:
        raise ValueError('free_bits needs the KL in closed form; use it with objective="elbo".')
    penalties = [partial(objectives.free_bits, floor=floor)] if floor else []
    if given["label_weight"]:
        penalties.append(partial(objectives.cross_entropy, strength=given["label_weight"]))
    if penalties:
        settings["penalties"] = tuple(penalties)
    return kind(posterior.amortised, **settings)


def _settings(given: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings ``names`` as arguments of ``AEVB``; ``warm_up`` becomes part of ``beta``."""
    gradient, beta, warm_up = given["gradient"], given["beta"], given["warm_up"]
    found = {
        "gradient": None if gradient is None else part_of("gradients", gradient),
        "draws": given["draws"],
        "beta": WarmUp(warm_up, end=beta) if warm_up else beta,
        "free_bits": given["free_bits"],
        "learning_rate": given["learning_rate"],
        "optimizer": optimizer_for(given["optimizer"]),
        "precision": given["precision"],
        "compile": given["compile"],
    }
    if "objective" in names:
        found["objective"] = part_of("objectives", given["objective"])
    return {name: setting for name, setting in found.items() if name in names}


def optimizer_for(optimizer: str | Optimizer) -> Optimizer:
    """The optimiser of that name, fused if possible; a function is returned unchanged."""
    made: Callable[..., Any] = registry.find("optimizers", optimizer) if isinstance(optimizer, str) else optimizer
    by_name = isinstance(optimizer, str) and "fused" in inspect.signature(made).parameters
    return partial(made, fused=True) if by_name else made


def taken_by(make: str | Callable[..., Any] | None) -> set[str]:
    """The settings that are named arguments of a function, or of the library's inference of a name."""
    arguments = inspect.signature(make if callable(make) else named(make)).parameters.keys()
    taken = SETTINGS.keys() & arguments
    if not callable(make) and "penalties" in arguments:
        taken |= {"free_bits"}
    return taken | {"warm_up"} if "beta" in taken else taken - {"warm_up"}


def default_draws(inference: str | Callable[..., Any] | None) -> int:
    """The number of draws where none is given: the inference's own default, or 1."""
    if callable(inference):
        return 1
    parameter = inspect.signature(named(inference)).parameters.get("draws")
    return 1 if parameter is None else int(parameter.default)


def check_learning(given: Mapping[str, Any]) -> None:
    """Raise ValueError for an inference that cannot be called, and for settings that it does not take."""
    make = given["inference"]
    if not callable(given["optimizer"]) and not isinstance(given["optimizer"], str):
        raise ValueError(
            f"optimizer is {given['optimizer']!r}; give a name, or a function that makes an optimiser of parameters."
        )
    if isinstance(make, NotGiven):
        return
    if is_own(make):
        _check_own(make)
    taken = taken_by(make)
    for name, default in SETTINGS.items():
        if given[name] is not default and given[name] != default and name not in taken:
            raise ValueError(
                f"{name} is {given[name]!r}, a setting of AEVB, but the inference {name_of(make)} has no argument of "
                "that name; leave it out."
            )


def _check_own(make: Any) -> None:
    """Raise ValueError for a user's own inference that cannot be called as it will be."""
    if not callable(make):
        raise ValueError(
            f"inference is {type(make).__name__}; give a name, or a function (or class) of (model, posterior) that "
            "makes an Inference."
        )
    try:
        inspect.signature(make).bind(None, None, **dict.fromkeys(taken_by(make) - {"warm_up"}))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"inference is called as {name_of(make)}(model, posterior), which fails ({error}); bind all other "
            "arguments by functools.partial."
        ) from error
