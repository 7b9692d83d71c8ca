"""Check the estimator's arguments before the data are read."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from lowerbound.estimators.choices import CHOSEN, is_auto
from lowerbound.estimators.defaults import build_prior, part_of
from lowerbound.estimators.learning import INFERENCES, check_learning, is_aevb
from lowerbound.estimators.learning import name_of as inference_name
from lowerbound.estimators.search import check_search
from lowerbound.inference import AEVB
from lowerbound.likelihoods import Likelihood
from lowerbound.model import check_latents
from lowerbound.nn import Precision
from lowerbound.objectives import elbo, free_bits
from lowerbound.priors import Prior
from lowerbound.process import seeded
from lowerbound.schema import Schema
from lowerbound.storage.registry import find, name_of, plain_name
from lowerbound.storage.registry import names as names_of

_LARGEST = {"latent_dim": 10**6, "random_state": 2**63 - 1}
_LARGEST_COUNT = 10**9  # for other arguments
_LARGEST_LAYER = 10**6
_LARGEST_REAL = 1e30  # so that products with a setting stay within single precision
_THREADS_A_CORE = 10
_DEVICES = ("cpu", "cuda", "mps", "xpu")  # to suggest; torch may know more


def check_parameters(given: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the argument, if ``VAE`` cannot be made with the ``given`` arguments."""
    every, given = given, {name: value for name, value in given.items() if name not in CHOSEN or not is_auto(value)}
    for name in ("latent_dim", "batch_size", "epochs"):
        if name in given:
            whole(name, given[name], 1)
    for name in ("patience", "threads", "draws"):
        if given.get(name) is not None:
            whole(name, given[name], 1)
    check_threads(given["threads"])
    for name in ("beta", "warm_up", "free_bits"):
        real(name, given[name], 0)
    if "learning_rate" in given and not callable(given["learning_rate"]):
        real("learning_rate", given["learning_rate"], 0, above=True)
    if given["max_value"] is not None:
        real("max_value", given["max_value"], 0, above=True)
    if "validation" in given:
        real("validation", given["validation"], 0, below=1)
    _check_names(given)
    _check_parts(given)
    for name in ("compile", "strict"):
        if not isinstance(given[name], bool | np.bool_):
            raise ValueError(f"{name} is {_shown(given[name])}; give True or False.")
    if not isinstance(given["schema"], Schema | Mapping | None):
        raise ValueError(f'schema is {_shown(given["schema"])}; give kinds by column, such as {{"age": "count"}}.')
    check_learning(every)
    if given["search"] is not None:
        real("search", given["search"], 0, above=True)
        check_search(every)
    _check_classes(given)
    _check_latents(given)
    _check_device(given["device"])
    _check_pairs(given["likelihood"], given["binarise"], given["objective"], given["free_bits"])


def _check_pairs(likelihood: Any, binarise: str, objective: Any, free_bits: float) -> None:
    """Raise ValueError for arguments that are valid each by itself, but not together."""
    if binarise != "none" and isinstance(likelihood, str) and plain_name(likelihood) not in ("auto", "bernoulli"):
        raise ValueError(f'likelihood is {likelihood!r}, but binarised values are 0 or 1; give "Bernoulli" or "auto".')
    objective = find("objectives", objective) if isinstance(objective, str) and objective != "auto" else objective
    if free_bits and objective not in (elbo, "auto"):
        raise ValueError('free_bits needs the KL in closed form; use it with objective="elbo".')


def whole(name: str, value: object, least: int) -> None:
    """Raise ValueError unless ``value`` is a whole number from ``least`` to the largest that its argument allows."""
    most = _LARGEST.get(name)
    limits = f"at least {least}" if most is None else f"from {least} to {most}"
    if not _is(value, Integral):
        raise ValueError(f"{name} is {_shown(value)}; give a whole number, {limits}.")
    if int(value) < least or (most is not None and int(value) > most):  # type: ignore[call-overload]
        raise ValueError(f"{name} must be {limits}, got {value}.")
    if most is None and int(value) > _LARGEST_COUNT:  # type: ignore[call-overload]
        raise ValueError(f"{name} must be at most {_LARGEST_COUNT}, got {_shown(value)}.")


def check_threads(threads: int | None) -> None:
    """Raise ValueError for far more threads than processors; if the system cannot start them, the process is killed."""
    cores = os.cpu_count() or 1
    if threads is not None and threads > _THREADS_A_CORE * cores:
        raise ValueError(
            f"threads is {threads}, but this machine has {cores} processors; give at most {_THREADS_A_CORE * cores}."
        )


def real(name: str, value: object, least: float, above: bool = False, below: float = math.inf) -> None:
    """Raise ValueError unless ``value`` is finite, at least ``least`` (or ``above`` it) and less than ``below``."""
    limits = (
        f"above {least:g}" if above else f"{least:g} or more" if math.isinf(below) else f"in [{least:g}, {below:g})"
    )
    fits = _is(value, Real) and math.isfinite(value) and least <= value < below  # type: ignore[arg-type, operator]
    if not fits or (above and value == least):
        raise ValueError(f"{name} is {_shown(value)}; give a finite number, {limits}.")
    if value > _LARGEST_REAL:  # type: ignore[operator]
        raise ValueError(f"{name} is {_shown(value)}, too large for single precision; give at most {_LARGEST_REAL:g}.")


def _check_names(given: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown name, and suggest the most similar one."""
    one_of("network", given["network"], ("mlp", "conv"))
    one_of("binarise", given["binarise"], ("none", "fixed", "afresh"))
    one_of("missing", given["missing"], ("at_random", "self_masking"))
    one_of("precision", given["precision"], get_args(Precision))
    if isinstance(name := given["inference"], str) and plain_name(name) not in map(plain_name, INFERENCES):
        one_of("inference", name, list(INFERENCES))
    for argument in ("likelihood", "objective", "prior", "posterior", "gradient", "activation", "optimizer"):
        value, kind = given[argument], f"{argument}s"
        names = names_of(kind)
        if argument in ("likelihood", "objective") and value == "auto":
            continue
        if isinstance(value, str) and plain_name(value) not in map(plain_name, names):
            one_of(argument, value, (*(["auto"] if argument in ("likelihood", "objective") else []), *names))
        elif isinstance(value, str):
            find(kind, value)


def one_of(argument: str, value: object, names: Sequence[str]) -> None:
    """Raise ValueError for a name that is not in ``names``, and suggest the most similar one."""
    if value in names:
        return
    near = difflib.get_close_matches(str(value).lower(), [name.lower() for name in names], n=1, cutoff=0.0)
    guess = next((name for name in names if [name.lower()] == near), names[0])
    raise ValueError(f"{argument} is {_shown(value)}, none of {', '.join(names)}; did you mean {guess!r}?")


def _check_parts(given: Mapping[str, Any]) -> None:
    """Raise ValueError for parts and settings of the wrong type."""
    hidden = given["hidden"]
    sizes: list[Any] = list(hidden) if isinstance(hidden, Iterable) and not isinstance(hidden, str) else [None]
    if not all(_is(size, Integral) and 0 < size <= _LARGEST_LAYER for size in sizes):
        raise ValueError(
            f"hidden is {_shown(hidden)}; give the sizes of layers, whole numbers from 1 to {_LARGEST_LAYER}, such as "
            "(256, 128)."
        )
    for name in ("encoder", "decoder"):
        if not isinstance(given[name], nn.Module | None):
            raise ValueError(f"{name} is {_shown(given[name])}; give a torch.nn.Module, or None for the library's own.")
    if not isinstance(given["likelihood"], str | Likelihood):
        raise ValueError(f'likelihood is {_shown(given["likelihood"])}; give a name, a Likelihood, or "auto".')
    if not isinstance(given["objective"], str) and not callable(given["objective"]):
        raise ValueError(f"objective is {_shown(given['objective'])}; give a name, or a function of a Draw.")
    if not isinstance(given["gradient"], str | None) and not callable(given["gradient"]):
        raise ValueError(
            f"gradient is {_shown(given['gradient'])}; give a name, a function of a Draw and an objective, or None."
        )
    if not isinstance(given["posterior"], str) and not callable(given["posterior"]):
        raise ValueError(
            f"posterior is {_shown(given['posterior'])}; give a name, or a function (or class) that makes a Posterior."
        )
    if not isinstance(given["prior"], str | Prior | None):
        raise ValueError(f"prior is {_shown(given['prior'])}; give a name, a Prior, or None.")
    if not isinstance(given["activation"], str):
        raise ValueError(f'activation is {_shown(given["activation"])}; give a name, such as "SiLU".')
    callbacks = given["callbacks"]
    if not isinstance(callbacks, Iterable) or not all(callable(callback) for callback in callbacks):
        raise ValueError(f"callbacks is {_shown(callbacks)}; give a list of functions of an Event.")
    if not isinstance(given["random_state"], np.random.RandomState | None):
        whole("random_state", given["random_state"], 0)


def _check_latents(given: Mapping[str, Any]) -> None:
    """Raise ValueError if no posterior can be made, and for parts of the library that do not fit together."""
    make, latent_dim = part_of("posteriors", given["posterior"]), given["latent_dim"]
    try:
        inspect.signature(make).bind(latent_dim, encoder=nn.Identity())
    except (TypeError, ValueError) as error:
        name = getattr(make, "__name__", type(make).__name__)
        raise ValueError(
            f"posterior is called as {name}(latent_dim, encoder=…), which fails ({error}); bind all other arguments by "
            "functools.partial."
        ) from error
    if name_of(make.func if isinstance(make, functools.partial) else make) is None:
        return  # a user's own posterior is made and checked when the rows are known
    with torch.device("meta"), seeded(0):
        like = make(latent_dim, encoder=nn.Identity())
        check_latents(build_prior(given["prior"], like, (1,), 1), like)
    at_most = 20 if given["objective"] == "auto" else 1  # the default of draws
    AEVB(
        like,
        objective=elbo if given["objective"] == "auto" else part_of("objectives", given["objective"]),
        draws=at_most if given["draws"] is None else given["draws"],
        gradient=None if given["gradient"] is None else part_of("gradients", given["gradient"]),
        penalties=(functools.partial(free_bits, floor=0.0),) if given["free_bits"] else (),
    )


def _check_classes(given: Mapping[str, Any]) -> None:
    """Raise ValueError for ``classes`` and ``label_weight`` that no fit can have, or not with the other arguments."""
    classes, weight = given["classes"], given["label_weight"]
    real("label_weight", weight, 0)
    if weight and classes != "y":
        raise ValueError('label_weight is the weight of labels; use it with classes="y", or leave it out.')
    if classes is None:
        return
    if isinstance(classes, str) and classes != "y":
        raise ValueError(f'classes is {classes!r}; give "y" for the labels in fit(X, y), or a number of clusters.')
    if not isinstance(classes, str):
        whole("classes", classes, 2)
    if not is_aevb(given["inference"]):
        raise ValueError(
            f"classes are learnt by AEVB, and inference is {inference_name(given['inference'])}; leave one out."
        )
    if given["search"] is not None:
        raise ValueError("search compares models without classes; leave search or classes out.")


def _check_device(device: object) -> None:
    """Raise ValueError for a device that is not available."""
    try:
        kind = torch.device(device).type if isinstance(device, str | torch.device) else None
    except RuntimeError:
        kind = None
    if kind is None or kind == "meta":  # which holds no values
        one_of("device", device, _DEVICES)
    try:
        torch.zeros((), device=device)  # type: ignore[call-overload]
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(f'device {device!r} is not available ({reason}); give another one, such as "cpu".') from error


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool | np.bool_)


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
