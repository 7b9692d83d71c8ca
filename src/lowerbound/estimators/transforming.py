"""Encode rows as latents and decode latents: q(z|x), its moments, and E[x|z]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array
from torch import Tensor

from lowerbound import distributions
from lowerbound.data import Rows
from lowerbound.data.row_arrays import RowArray
from lowerbound.draw import Batch, Node
from lowerbound.estimators import frames, inputs
from lowerbound.estimators.choices import Choice
from lowerbound.estimators.fitted import USE_BATCH, Fitted
from lowerbound.estimators.summary import refuse_missing
from lowerbound.model import distributions_of, nodes_of
from lowerbound.modes import eval_mode
from lowerbound.schema.column import Name
from lowerbound.training import in_order

_MOMENT_DRAWS = 1000


class Encoding(NamedTuple):
    """q(z|x) of each row: ``mean [N, d]`` and ``scale [N, d]`` (standard deviations)."""

    mean: NDArray[Any]
    scale: NDArray[Any]


class Transforming(Fitted, ClassNamePrefixFeaturesOutMixin, TransformerMixin):  # type: ignore[misc]
    """The estimator's methods that encode rows and decode latents."""

    latent_dim: int
    chosen_: dict[str, Choice]

    def transform(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[Any]:
        """The posterior means E_q[z|x], ``[N, d]``."""
        mean: NDArray[Any] = self.encode(X, context).mean
        return mean

    def encode(self, X: ArrayLike, context: ArrayLike | None = None, keep: Sequence[Name] = ()) -> Any:
        """Mean and standard deviation of q(z|x) per row, an ``Encoding``; from 1,000 draws if there is no closed form.

        For a row without observed values they are those of the prior. If the inference learnt no encoder, q(z|x) is
        found by a local search for each row, which does not change the model. ``keep``: columns of the frame ``X``; the
        result is then a frame of these and of mean0, …, sd0, ….
        """
        x = self._checked(X, kept=keep)
        out = [
            [part[:real].flatten(1) for part in self._moments(q, batch)]
            for q, batch, real in self._posteriors(x, context)
        ]
        mean, scale = (torch.cat(parts) for parts in zip(*out, strict=True))
        found = Encoding(self._given(mean, x.dtype), self._given(scale, x.dtype))
        return frames.beside(X, keep, {"mean": found.mean, "sd": found.scale}) if len(keep) else found

    def kl(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[np.float64] | None:
        """KL(q(z|x) ‖ p(z)) of each dimension of z in nats, ``[N, d]``; None if dimensions of a latent are dependent.

        For a latent with parents, or without a closed form, it is a mean over 1,000 draws.
        """
        found = []
        for nodes, real in self._nodes(X, context):
            each = [per_dim for node in nodes if (per_dim := node.mean_kl_per_dim) is not None]
            if len(each) < len(nodes):
                return None
            found.append(torch.cat([per_dim[:real].flatten(1) for per_dim in each], 1))
        return torch.cat(found).double().cpu().numpy()

    def kl_of_latents(self, X: ArrayLike, context: ArrayLike | None = None) -> dict[str, NDArray[np.float64]]:
        """KL(q(z|x) ‖ p(z)) of each latent in nats, ``[N]``, by name ("z" if there is only one); see ``kl``."""
        found: dict[str, list[Tensor]] = {}
        for nodes, real in self._nodes(X, context):
            for node in nodes:
                found.setdefault(node.name, []).append(node.mean_kl[:real])
        return {name: torch.cat(parts).double().cpu().numpy() for name, parts in found.items()}

    def _nodes(self, X: ArrayLike, context: ArrayLike | None) -> Iterator[tuple[list[Node], int]]:
        """The latents of rows in the order of z, at as many draws as their KL needs: one, if that has a closed form."""
        for q, batch, real in self._posteriors(self._checked(X), context):
            p, like = self.model_.prior_given(batch.context, self.posterior_), next(self.model_.parameters())
            for draws in (1, _MOMENT_DRAWS):
                noise = self.posterior_.noise(draws, 1, self._rng("moments"), like.dtype)
                found = {node.name: node for node in nodes_of(q, p, self._event, noise)}
                if all(node.kl is not None and node.kl.dim() == 1 for node in found.values()):
                    break
            yield [found[name] for name in (p.events if isinstance(p, distributions.Latents) else found)], real

    @property
    def latent_dim_(self) -> int:
        """The number of latents: that found by a search, or that given."""
        return int(self.chosen_["latent_dim"].value) if "latent_dim" in self.chosen_ else self.latent_dim

    def inverse_transform(self, X: ArrayLike, context: ArrayLike | None = None) -> Any:
        """Decode latents ``X [N, d]``: E[x|z] (for classes the most probable one), ``[N, *X]``."""
        inputs.check_fitted(self)
        z = check_array(inputs.prepare(X), dtype=(np.float64, np.float32), ensure_all_finite=False)
        refuse_missing(z)
        if z.shape[1] != self._n_features_out:
            own = self._n_features_out
            of = f"latent_dim={self.latent_dim_}" + ("" if self.latent_dim_ == own else f" and a z of {own} numbers")
            raise ValueError(f"latents have {z.shape[1]} columns, but this model has {of}; give one column per latent.")
        rows = Rows.from_array(z, context=inputs.fitted_context(context, len(z), self.n_context_)).to(self.device)
        means = [self._decode(batch.x, batch)[:real] for batch, real in in_order(rows, USE_BATCH)]
        return self._framed(self._given(torch.cat(means), z.dtype))

    def reconstruct(self, X: ArrayLike, context: ArrayLike | None = None) -> Any:
        """Encode rows to their posterior means and decode these, ``[N, *X]``."""
        inputs.check_fitted(self)
        coded = None
        if self.schema_ is None:
            x = self._checked(X)
        else:
            coded = self._encoded(X, kept=None)
            x = frames.standardised(coded.values, self.schema_)
        means = [self._decode(self._moments(q, of)[0], of)[:real] for q, of, real in self._posteriors(x, context)]
        return self._framed(self._given(torch.cat(means), x.dtype), coded)

    def _posteriors(
        self, x: RowArray, context: ArrayLike | None
    ) -> Iterator[tuple[distributions.Distribution, Batch, int]]:
        """q(z|x) of ``x`` in batches of a fixed size, with the number of rows of each that are not padding."""
        with eval_mode(self.model_, self.posterior_), torch.no_grad():
            rows = self._supported(x, "mean", context)
            for batch, real in in_order(rows, USE_BATCH):
                q, _ = distributions_of(self.model_, self.posterior_, batch.x, batch.mask, batch.context)
                yield q, batch, real

    def _moments(self, q: distributions.Distribution, of: Batch) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z, ``[B, *E]``: the prior's where nothing is observed."""
        mean, scale = self._moments_of(q)
        if (
            of.mask is None
            or self.model_.likelihood.informative
            or bool((something := of.mask.flatten(1).any(1)).all())
        ):
            return mean, scale
        pairs = zip(self._moments_of(self.model_.prior_given(of.context, self.posterior_)), (mean, scale), strict=True)
        wide = something.view(-1, *[1] * (mean.dim() - 1))
        prior_mean, prior_scale = (torch.where(wide, ours, theirs.expand_as(ours)) for theirs, ours in pairs)
        return prior_mean, prior_scale

    def _moments_of(self, q: distributions.Distribution) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q; where sampling is needed, all rows share the same noise."""
        if isinstance(q, distributions.Normal):
            return q.loc, q.scale
        like = next(self.model_.parameters())
        z = q.sample(self.posterior_.noise(_MOMENT_DRAWS, 1, self._rng("moments"), like.dtype))
        mean = q.mean()
        return z.mean(0) if mean is None else mean, z.std(0)

    @torch.no_grad()
    def _decode(self, z: Tensor, of: Batch) -> Tensor:
        z = z.view(len(z), *self._event)
        with eval_mode(self.model_):
            return self.model_.likelihood.point(self.model_.decode(z.unsqueeze(0), of.context)).squeeze(0)

    @property
    def _n_features_out(self) -> int:
        return math.prod(self._event)
