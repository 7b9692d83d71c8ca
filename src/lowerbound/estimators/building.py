"""A model and its posterior for rows of data, from the arguments of an estimator."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lowerbound import nn as networks
from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.estimators import frames
from lowerbound.estimators.defaults import (
    build_likelihood,
    build_networks,
    build_prior,
    check_channels,
    check_precision,
    default_likelihood,
    part_of,
)
from lowerbound.estimators.table_networks import product_of, table_networks
from lowerbound.likelihoods import Likelihood, SelfMasking
from lowerbound.likelihoods.support import check_support
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.schema import Schema

if TYPE_CHECKING:
    from lowerbound.estimators.vae import VAE

_INITIALISE_ROWS = 10_000  # enough to start from; the rest of a large table need not be read for it


def schema_for(vae: VAE, X: Any) -> Schema | None:
    """The schema of ``X`` if it is a table to be taken column by column; None of a matrix."""
    own = vae.encoder is not None or vae.decoder is not None or vae.network != "mlp" or vae.binarise != "none"
    table = vae.likelihood == "auto" and not own and frames.is_frame(X)
    if vae.schema is not None and not table:
        raise ValueError(
            "schema is of a frame whose columns have each a likelihood of their own: give one, with "
            'likelihood="auto" and the library\'s own networks, or leave schema out.'
        )
    return frames.schema_of(X, vae.schema) if table else None


def likelihood_for(vae: VAE, x: NDArray[Any], max_value: float, schema: Schema | None) -> Likelihood:
    """p(x|z) for rows ``x [N, *X]``: of a matrix, refused where it cannot have produced them."""
    if schema is not None:
        product = product_of(schema)
        return SelfMasking(product) if vae.missing == "self_masking" else product
    likelihood = copy.deepcopy(vae.likelihood)
    if isinstance(likelihood, str):
        binarised = vae.binarise != "none"
        name = default_likelihood(x, binarised)[0] if likelihood == "auto" else likelihood
        likelihood = build_likelihood(name, x, max_value)
    if vae.binarise == "none":
        names = getattr(vae, "feature_names_in_", None)
        check_support(likelihood, x, "X", names)
        check_precision(likelihood, x, "X", names)
    return likelihood


def build(
    vae: VAE, rows: Rows, likelihood: Likelihood, schema: Schema | None, seed: int
) -> tuple[LatentVariableModel, Posterior]:
    """p(x, z) and q(z|x) for ``rows``, started from some of them."""
    shape, n_context = rows.shape, None if rows.context is None else rows.context.shape[1]
    some = torch.randperm(len(rows), generator=generator(seed, "initialise")).to(rows.device)
    if rows.mask is None:  # of a column with few holes, or with few others, all must be seen
        some = some[:_INITIALISE_ROWS]
    batch = rows.batch(some, torch.ones(len(some)))
    make = part_of("posteriors", vae.posterior)
    if vae.network == "conv" and (vae.encoder is None or vae.decoder is None):
        check_channels(shape)
    with networks.seeded(seed):
        like = make(vae.latent_dim, encoder=nn.Identity())  # to know what an encoder must give
        activation = part_of("activations", vae.activation)
        prepare: networks.Cells | networks.Standardise
        if schema is not None:
            prepare, encoder, decoder = table_networks(
                schema, like.n_outputs, like.event, vae.hidden, activation, likelihood, n_context or 0
            )
        else:
            prepare, encoder, decoder = build_networks(
                vae.network, like.n_outputs, like.event, vae.hidden, activation, shape, likelihood, n_context or 0
            )
        encoder = encoder if vae.encoder is None else copy.deepcopy(vae.encoder)
        decoder = decoder if vae.decoder is None else copy.deepcopy(vae.decoder)
        prior = build_prior(vae.prior, like, shape, n_context)
        posterior = make(vae.latent_dim, encoder=networks.Chain(prepare, encoder)).to(vae.device)
    if isinstance(prepare, networks.Cells):
        prepare.fit(batch.x, torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask)
    else:
        prepare.fit(batch.x)
    model = LatentVariableModel(prior, decoder, likelihood).to(vae.device)
    model.initialise(batch.x, batch.mask)
    return model, posterior


def max_value_of(vae: VAE, x: NDArray[Any]) -> float:
    """The largest grey value."""
    return (255.0 if x.dtype == np.uint8 else 1.0) if vae.max_value is None else float(vae.max_value)
