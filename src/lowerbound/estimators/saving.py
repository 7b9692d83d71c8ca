"""What an estimator keeps beside its model, and the estimator from what was kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lowerbound import io
from lowerbound.schema import Schema

if TYPE_CHECKING:
    from lowerbound.estimators.vae import VAE

_OF_THE_FITTING = ("callbacks", "progress", "threads", "device", "precision", "compile")  # and not of the model
V = TypeVar("V", bound="VAE")


def described(vae: VAE) -> dict[str, Any]:
    """The arguments of an estimator and what it took from the data, as JSON."""
    parameters = vae.get_params(deep=False)
    for name in (*_OF_THE_FITTING, "schema"):
        del parameters[name]
    if isinstance(vae.random_state, np.random.RandomState):
        parameters["random_state"] = vae.seed_
    fitted = {
        "n_features_in": vae.n_features_in_,
        "feature_names_in": [str(name) for name in getattr(vae, "feature_names_in_", [])],
        "shape": list(vae.shape_),
        "dtype": str(vae.dtype_),
        "seed": vae.seed_,
        "white": vae.white_,
        **({} if vae.n_context_ is None else {"n_context": vae.n_context_}),
        **({} if vae.schema_ is None else {"schema": vae.schema_.as_dict(), "holes": vae.holes_}),
    }
    return {"estimator": "VAE", "parameters": io.encode(parameters), "fitted": fitted}


def restored(kind: type[V], saved: io.Saved, own: dict[str, Any]) -> V:
    """The estimator that ``described`` tells of."""
    parameters, fitted = io.rebuild(saved.extra["parameters"], own, saved), saved.extra["fitted"]
    vae = kind(**parameters)
    vae.model_, vae.posterior_ = saved.model.eval(), saved.posterior.eval()
    vae.n_features_in_ = fitted["n_features_in"]
    if fitted["feature_names_in"]:
        vae.feature_names_in_ = np.array(fitted["feature_names_in"], dtype=object)
    vae.shape_, vae.dtype_ = tuple(fitted["shape"]), np.dtype(fitted["dtype"])
    vae.seed_, vae.white_ = fitted["seed"], fitted["white"]
    vae.n_context_, vae.holes_ = fitted.get("n_context"), fitted.get("holes", False)
    vae.schema = vae.schema_ = Schema.from_dict(fitted["schema"], io.CONFIG) if "schema" in fitted else None
    vae.history_ = saved.history
    return vae
