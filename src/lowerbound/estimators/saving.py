"""Write an estimator's parameters and fitted attributes as JSON, and read and check them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound import nn as networks
from lowerbound.checks import (
    OBJECT,
    TEXTS,
    TRUTH,
    WAY_OUT,
    Check,
    check_fields,
    is_list,
    is_number,
    is_whole,
    or_none,
    shown,
    whole,
    wrong,
)
from lowerbound.errors import FormatError
from lowerbound.estimators.choices import CHOSEN, SEARCHED, Choice, is_auto
from lowerbound.estimators.learning import NotGiven, is_own, name_of
from lowerbound.estimators.parameters import check_parameters
from lowerbound.estimators.trial import check_computes
from lowerbound.likelihoods import Product
from lowerbound.schema import Schema
from lowerbound.schema.column import CLASSES
from lowerbound.storage.model import Saved, rebuild
from lowerbound.storage.parts import CONFIG, encode

_OF_THE_FITTING = ("callbacks", "progress", "threads", "device", "precision", "compile", "search")  # of fitting only
_MADE_BY = ("inference", "optimizer", "posterior")  # a user's own function is stored by name only
_DTYPE = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64|128)|longdouble|[<>][iuf][248]")
_FITTED: dict[str, Check] = {
    "n_features_in": whole("a whole number above 0", 1),
    "feature_names_in": TEXTS,
    "shape": Check("a list of whole numbers above 0", lambda value: is_list(value, lambda size: is_whole(size, 1))),
    "dtype": Check("a type of numbers", lambda value: isinstance(value, str) and bool(_DTYPE.fullmatch(value))),
    "seed": whole("a whole number of 63 bits", 0, 2**63 - 1),
    "max_value": Check("a number above 0", lambda value: is_number(value) and value > 0),
    "n_context": or_none(whole("a whole number above 0", 1)),
    "schema": OBJECT,
    "has_missing": TRUTH,
    "objective_is_bound": TRUTH,
    "classes": Check(
        "a list of two or more different labels, in order",
        lambda found: (
            (
                is_list(found, lambda each: isinstance(each, str) or is_whole(each))
                or is_list(found, lambda each: isinstance(each, bool))
            )
            and len(found) > 1
            and len({type(each) for each in found}) == 1
            and found == sorted(set(found))
        ),
    ),
    "chosen": Check(
        "an object with a value and a reason for each",
        lambda found: (
            isinstance(found, dict)
            and found.keys() <= {*CHOSEN, *SEARCHED}
            and all(isinstance(each, list) and len(each) == 2 and isinstance(each[1], str) for each in found.values())
        ),
    ),
}
"""The check of each value that was taken from the data."""
_LATER = (
    "n_context",
    "schema",
    "has_missing",
    "objective_is_bound",
    "classes",
    "chosen",
)  # absent from some models and formats
_NO_VAE = f"{CONFIG} does not describe a VAE"


@dataclass(frozen=True)
class Fitted:
    """The attributes that an estimator takes from the data in ``fit``; ``names``: those of the columns, if any.

    ``objective_is_bound`` is not stored for ``AEVB``, where it follows from the parameters.
    """

    n_features: int
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    seed: int
    max_value: float
    n_context: int | None
    schema: Schema | None
    has_missing: bool
    objective_is_bound: bool | None = None
    chosen: Mapping[str, Choice] = field(default_factory=dict)
    classes: Sequence[Any] | None = None


def described(parameters: Mapping[str, Any], fitted: Fitted) -> dict[str, Any]:
    """The parameters and fitted attributes of an estimator, as a dictionary for JSON."""
    kept = {name: value for name, value in parameters.items() if name not in (*_OF_THE_FITTING, "schema")}
    if isinstance(kept["random_state"], np.random.RandomState):
        kept["random_state"] = fitted.seed
    values: dict[str, Any] = {
        "n_features_in": fitted.n_features,
        "feature_names_in": list(fitted.names),
        "shape": list(fitted.shape),
        "dtype": str(fitted.dtype),
        "seed": fitted.seed,
        "max_value": fitted.max_value,
    }
    if fitted.n_context is not None:
        values["n_context"] = fitted.n_context
    if fitted.schema is not None:
        values["schema"] = fitted.schema.as_dict()
    if fitted.schema is not None or fitted.has_missing:
        values["has_missing"] = fitted.has_missing
    if fitted.objective_is_bound is not None:
        values["objective_is_bound"] = fitted.objective_is_bound
    if fitted.classes is not None:
        values["classes"] = fitted.classes
    if fitted.chosen:
        values["chosen"] = {name: [choice.value, choice.why] for name, choice in fitted.chosen.items()}
    own = {name: {"own": name_of(kept[name])} for name in _MADE_BY if _is_own(kept[name])}
    return {"estimator": "VAE", "parameters": encode(kept) | own, "fitted": values}


def _is_own(value: object) -> bool:
    """Whether ``value`` is a user's function or class, which is stored by name only."""
    return is_own(value) and "own" in encode(value)


def restored(saved: Saved, own: dict[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], Fitted]:
    """Read the parameters and fitted attributes that ``described`` wrote; ``defaults``: all parameters' defaults.

    Raises ``FormatError`` if they are invalid, or if the parts do not fit together.
    """
    extra = saved.extra
    if extra["estimator"] != "VAE" or not isinstance(extra.get("parameters"), dict):
        raise wrong(_NO_VAE, "the estimator", extra["estimator"], "'VAE', with its parameters,")
    values = check_fields(extra.get("fitted"), _FITTED, "what was fitted", _NO_VAE, _LATER)
    schema = Schema.from_dict(values["schema"], CONFIG) if "schema" in values else None
    parameters = _parameters(saved, own, defaults) | {"schema": schema}
    found = values.get("chosen", {})
    chosen = {name: Choice(tuple(of) if isinstance(of, list) else of, why) for name, (of, why) in found.items()}
    _check_chosen(parameters, chosen)
    fitted = Fitted(
        n_features=values["n_features_in"],
        names=tuple(values["feature_names_in"]),
        shape=tuple(values["shape"]),
        dtype=np.dtype(values["dtype"]),
        seed=values["seed"],
        max_value=values["max_value"],
        n_context=values.get("n_context"),
        schema=schema,
        has_missing=values.get("has_missing", False),
        objective_is_bound=values.get("objective_is_bound"),
        chosen=chosen,
        classes=values.get("classes"),
    )
    _check_classes(parameters["classes"], fitted.classes, saved)
    if schema is None:
        _check_array(values)
    else:
        _check_table(values, schema, saved)
    if not own:
        check_computes(saved.model.eval(), saved.posterior, fitted.n_context, fitted.shape)
    return parameters, fitted


def _parameters(saved: Saved, own: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a file, with ``defaults`` for those that concern the running of a fit (device, threads, …)."""
    given = saved.extra["parameters"]
    due = set(defaults) - {*_OF_THE_FITTING, "schema"}
    if unknown := sorted(given.keys() - due):
        raise FormatError(f"{_NO_VAE}: the parameters have {shown(unknown[0])}; {WAY_OUT}.")
    try:
        parameters = dict(defaults) | rebuild(given, _not_given(given) | own, saved)
        check_parameters(parameters)
    except FormatError:
        raise
    except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as error:
        reason = str(error).split("; ")[0].rstrip(".")
        raise FormatError(f"{_NO_VAE} of this version ({reason}); {WAY_OUT}.") from error
    return parameters


def _check_chosen(parameters: Mapping[str, Any], chosen: Mapping[str, Choice]) -> None:
    """Raise ``FormatError`` unless each argument that is "auto" has a value that it can have."""
    try:
        values = {name: choice.value for name, choice in chosen.items()}
        check_parameters({**parameters, **values, "inference": None})  # which need not take all that is chosen
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = str(error).split("; ")[0].rstrip(".")
        raise FormatError(f"{CONFIG} holds a choice that is none ({reason}); {WAY_OUT}.") from error
    due = {name for name in CHOSEN if is_auto(parameters[name])}
    if due != chosen.keys() - set(SEARCHED):
        raise FormatError(
            f"{CONFIG} holds choices for {sorted(chosen)}, where the arguments {sorted(due)} are 'auto'; {WAY_OUT}."
        )


def _check_classes(given: str | int | None, classes: Sequence[Any] | None, saved: Saved) -> None:
    """Raise ``FormatError`` unless the classes are as many as the latent of the model has."""
    latent = getattr(saved.model.prior, "parts", {}).get("y")
    due = getattr(latent, "n_classes", None) if given is not None else None
    have = len(classes) if classes is not None else given
    if have != due or (classes is not None) != (given == "y"):
        raise FormatError(f"{CONFIG} holds {shown(have)} classes, where the model has {shown(due)}; {WAY_OUT}.")


def _not_given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Placeholders for a user's own functions, which are only needed for another fit."""
    described = {name: parameters.get(name) for name in _MADE_BY}
    return {
        name: NotGiven(name, shown(value["own"]).strip("'"))
        for name, value in described.items()
        if isinstance(value, dict) and "own" in value
    }


def _check_array(fitted: Mapping[str, Any]) -> None:
    """Raise ``FormatError`` if the fitted attributes of an array model are inconsistent."""
    names, features = fitted["feature_names_in"], fitted["n_features_in"]
    if fitted["shape"][:1] != [features] or len(names) not in (0, features):
        raise FormatError(
            f"{CONFIG}: a shape of {shown(fitted['shape'])} numbers does not fit {features} features of "
            f"{len(names)} names; {WAY_OUT}."
        )


def _check_table(fitted: Mapping[str, Any], schema: Schema, saved: Saved) -> None:
    """Raise ``FormatError`` if the schema's columns are not those of the networks and the likelihood."""
    columns, names = schema.modelled, [str(name) for name in schema.names]
    alike = fitted["shape"] == [len(columns)] and fitted["n_features_in"] == len(names)
    product = saved.model.likelihood.of_values
    if not alike or fitted["feature_names_in"] not in ([], names) or not isinstance(product, Product):
        raise FormatError(f"{CONFIG}: the schema is not that of the table that the model was fitted to; {WAY_OUT}.")
    values = {j: part.n_values or 0 for part, block in zip(product.likelihoods, product.of, strict=True) for j in block}
    if len(values) != len(columns):
        raise FormatError(
            f"{CONFIG}: the schema has {len(columns)} columns to model, and the likelihood is of {len(values)}; "
            f"{WAY_OUT}."
        )
    modules = [] if saved.posterior is None else saved.posterior.modules()
    cells = [module.classes for module in modules if isinstance(module, networks.Cells)]
    for j, column in enumerate(columns):
        classes = {values[j], *(each[j] or column.n_classes for each in cells if j < len(each))}
        if classes != {column.n_classes if column.kind in CLASSES else 0}:
            raise FormatError(
                f"{CONFIG}: column {shown(column.name)} is {column.kind} of {column.n_classes} classes, but the "
                f"model has {' and '.join(map(str, sorted(classes)))} for it; {WAY_OUT}."
            )
