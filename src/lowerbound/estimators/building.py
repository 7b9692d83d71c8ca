"""Build a model and its posterior for rows of data, from the arguments of an estimator (``given``, by name)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import nn as networks
from lowerbound import posteriors
from lowerbound.data import Rows
from lowerbound.data.row_arrays import RowArray, rows_at_once
from lowerbound.distributions import generator
from lowerbound.estimators import frames
from lowerbound.estimators.defaults import (
    build_likelihood,
    build_networks,
    check_channels,
    check_precision,
    default_likelihood,
    part_of,
)
from lowerbound.estimators.label_parts import WithClasses, is_conditional, prior_for
from lowerbound.estimators.summary import Summary
from lowerbound.estimators.table_networks import product_of, table_networks
from lowerbound.likelihoods import Likelihood, SelfMasking
from lowerbound.likelihoods.support import check_support
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.schema import Schema

_VALUES = 2**22  # values of rows from which initial ones are computed, at most
_FEW = 100  # observed values of a column, or missing ones that are modelled, for which further rows are looked up


def is_table(given: Mapping[str, Any], X: Any) -> bool:
    """Whether each column of ``X`` gets its own likelihood. Raises ValueError for a ``schema`` if not."""
    own = given["encoder"] is not None or given["decoder"] is not None
    own = own or given["network"] != "mlp" or given["binarise"] != "none"
    table = given["likelihood"] == "auto" and not own and frames.is_frame(X)
    if given["schema"] is not None and not table:
        raise ValueError(
            'schema needs a data frame, likelihood="auto" and the library\'s own networks; give these, or leave '
            "schema out."
        )
    if given["missing"] == "self_masking" and not table:
        raise ValueError(
            'missing="self_masking" needs a data frame, likelihood="auto" and the library\'s own networks; give these, '
            "such as pandas.DataFrame(X), or leave missing out."
        )
    return table


def likelihood_of_table(schema: Schema, missing: str) -> Likelihood:
    """p(x|z) for the columns of ``schema``; with ``missing="self_masking"``, including which cells are missing."""
    product = product_of(schema)
    return SelfMasking(product) if missing == "self_masking" else product


def likelihood_of_array(
    likelihood: str | Likelihood, x: RowArray, max_value: float, binarised: bool, names: Sequence[str] | None
) -> Likelihood:
    """p(x|z) for rows ``x [N, *X]`` with column ``names``. Raises ``DataError`` for rows outside its support."""
    found = Summary.of(x)
    found.check(names)
    if isinstance(likelihood, str):
        name = default_likelihood(found, binarised)[0] if likelihood == "auto" else likelihood
        likelihood = build_likelihood(name, found, max_value)
    else:
        likelihood = copy.deepcopy(likelihood)
    if not binarised:
        check_support(likelihood, x, "X", names)
        check_precision(likelihood, found, "X", names)
    return likelihood


def build(
    given: Mapping[str, Any], rows: Rows, likelihood: Likelihood, schema: Schema | None, seed: int
) -> tuple[LatentVariableModel, Posterior]:
    """Build p(x, z) and q(z|x) for ``rows``, and initialise them from at most 10,000 of these."""
    shape, n_context = rows.shape, None if rows.context is None else rows.context.shape[1]
    some = _some(rows, likelihood.informative, seed)
    batch = rows.batch(some, torch.ones(len(some)))
    hidden, context = given["hidden"], n_context or 0
    make = part_of("posteriors", given["posterior"])
    classes = given["classes"]
    conditional = classes is not None and is_conditional(given["prior"])
    if classes is not None:
        make = WithClasses(make, classes, given["hidden"], part_of("activations", given["activation"]))
    if given["network"] == "conv" and (given["encoder"] is None or given["decoder"] is None):
        check_channels(shape)
    with networks.seeded(seed):
        like = make(given["latent_dim"], encoder=nn.Identity())  # to know the size of the encoder's output
        if not isinstance(like, Posterior):
            raise ValueError(f"posterior is a function that returned a {type(like).__name__}; return a Posterior.")
        activation = part_of("activations", given["activation"])
        prepare: networks.Cells | networks.Standardise
        read = like.parts["z"].event if conditional and isinstance(like, posteriors.Latents) else like.event
        if schema is not None:
            prepare, encoder, decoder = table_networks(
                schema, like.n_outputs, read, hidden, activation, likelihood, context
            )
        else:
            prepare, encoder, decoder = build_networks(
                given["network"], like.n_outputs, read, hidden, activation, shape, likelihood, context
            )
        encoder = encoder if given["encoder"] is None else copy.deepcopy(given["encoder"])
        decoder = decoder if given["decoder"] is None else copy.deepcopy(given["decoder"])
        prior = prior_for(given["prior"], like, shape, n_context, classes is not None)
        posterior = make(given["latent_dim"], encoder=networks.Chain(prepare, encoder)).to(given["device"])
    if isinstance(prepare, networks.Cells):
        prepare.fit(batch.x, torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask)
    else:
        prepare.fit(batch.x, batch.mask)
    model = LatentVariableModel(prior, decoder, likelihood, ["z"] if conditional else None).to(given["device"])
    model.initialise(batch.x, batch.mask)
    return model, posterior


def _some(rows: Rows, informative: bool, seed: int) -> Tensor:
    """Numbers of some rows to start from, at random.

    Where a column has few observed values in them (or, if missingness is ``informative``, few missing ones), the rows
    that have more of these are looked up among the others.
    """
    order = torch.randperm(len(rows), generator=generator(seed, "initialise")).to(rows.device)
    chunks: Sequence[Tensor] = order.split(rows_at_once(rows.shape, _VALUES))
    some, *others = chunks
    if not rows.has_missing or not others:
        return some
    seen = _seen(rows, some)
    found, observed, missing = [some], seen.sum(0), (~seen).sum(0)
    for index in others:
        seen = _seen(rows, index)
        wanted = seen[:, observed < _FEW].any(1)
        if informative:
            wanted |= (~seen)[:, missing < _FEW].any(1)
        found.append(index[wanted])
        observed, missing = observed + seen[wanted].sum(0), missing + (~seen)[wanted].sum(0)
    return torch.cat(found)


def _seen(rows: Rows, index: Tensor) -> Tensor:
    """Which values of some rows are observed, ``[B, X]``."""
    mask = rows.batch(index, torch.ones(len(index))).mask
    assert mask is not None
    return torch.flatten(mask, 1)
