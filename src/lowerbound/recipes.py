"""Assemblies named after their papers: plain functions that return an estimator, set as the paper has it.

Each says what to expect, by which protocol. Numbers marked "published" are the paper's or a replication's, not ours.
The last four return a ``LatentVariableModel`` in double precision for rows x, with NaN for missing values. They are
learnt exactly by ``EM``. ``iwae_two_layers`` and ``ladder`` return a model and its posterior for ``fit``, and so do
``prod_lda``, ``amortised_lda`` and ``whai`` for documents, and ``deep_kalman_filter``, ``vrnn`` and
``sequence_vae`` for sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lowerbound import likelihoods, posteriors, priors
from lowerbound.estimators import VAE
from lowerbound.gradients import doubly_reparameterised
from lowerbound.inference.m_steps import set_table
from lowerbound.likelihoods import Bernoulli, Likelihood
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, BottomUp, ConvBottomUp, ConvDecoder, Identity, OfContext, Table, seeded
from lowerbound.posteriors import DiagonalNormal, Posterior, PrecisionWeighted
from lowerbound.priors import Prior
from lowerbound.sequence_models import deep_kalman_filter as deep_kalman_filter
from lowerbound.sequence_models import sequence_vae as sequence_vae
from lowerbound.sequence_models import vrnn as vrnn
from lowerbound.topics.amortised import amortised_lda as amortised_lda
from lowerbound.topics.amortised import prod_lda as prod_lda
from lowerbound.topics.amortised import whai as whai


def aevb(latent_dim: int = 20, **settings: Any) -> VAE:
    """The VAE of Kingma & Welling 2013: one hidden layer of 500, tanh, the ELBO with its KL in closed form, one draw.

    MNIST binarised afresh, batch 100: published test bound ≈ −100 at 10⁸ rows (read off figure 2, ± 3, with Adagrad).
    Ours at 10⁷ rows: ``benchmarks/results/mnist_vae.md``.
    """
    paper = {"hidden": (500,), "activation": "Tanh", "binarise": "afresh"}
    return VAE(**{"latent_dim": latent_dim, **paper, **settings})


def iwae(latent_dim: int = 50, draws: int = 50, **settings: Any) -> VAE:
    """The importance-weighted auto-encoder of Burda et al. 2016: log mean_K w, two layers of 200, tanh.

    MNIST binarised afresh, batch 20, 59,600 training rows, −log p(x) by 5,000 draws: published 86.76 (the VAE), 85.54
    (K = 5), 84.78 (K = 50). Its schedule is 3,280 epochs.
    """
    paper = {"hidden": (200, 200), "activation": "Tanh", "binarise": "afresh", "objective": "iwae", "batch_size": 20}
    return VAE(**{"latent_dim": latent_dim, "draws": draws, **paper, **settings})


def dreg(latent_dim: int = 50, draws: int = 50, **settings: Any) -> VAE:
    """``iwae`` with the doubly reparameterised gradient of Tucker et al. 2019, whose signal grows with K.

    The protocol of ``iwae``: published 86.08 (K = 1), 84.90 (K = 5), 84.32 (K = 50).
    """
    return iwae(latent_dim, draws, **{"gradient": doubly_reparameterised, **settings})


def beta_vae(latent_dim: int = 10, beta: float = 4.0, **settings: Any) -> VAE:
    """The β-VAE of Higgins et al. 2017: the KL has weight β. The objective is not a bound; what ``score`` reports is.

    With β > 1 fewer latents stay active, and those that do are less entangled; the log-likelihood is worse.
    """
    return VAE(**{"latent_dim": latent_dim, "beta": beta, **settings})


def vamp_prior(latent_dim: int = 40, **settings: Any) -> VAE:
    """The VampPrior of Tomczak & Welling 2018, one layer: p(z) is a mixture of posteriors at 500 pseudo-inputs.

    MNIST binarised afresh, two layers of 300, 40 latents, a KL warm-up of 100 epochs: published −log p(x) 82.38, where
    N(0, I) has 84.50 (with gated layers, which these are not).
    """
    paper = {"hidden": (300, 300), "prior": "VampPrior", "objective": "elbo_sampled", "binarise": "afresh"}
    return VAE(**{"latent_dim": latent_dim, "warm_up": 100.0, **paper, **settings})


def conditional_vae(latent_dim: int = 20, **settings: Any) -> VAE:
    """p(x|c) by p(z|c), p(x|z, c) and q(z|x, c), of Sohn, Lee & Yan 2015: call ``fit(X, context=C)``.

    Where all is linear and normal it reaches the exact log p(x|c): ``tests/test_context.py``.
    """
    return VAE(**{"latent_dim": latent_dim, "prior": "ConditionalNormal", **settings})


def sigmoid_belief_net(latent_dim: int = 200, draws: int = 10, **settings: Any) -> VAE:
    """A sigmoid belief net of one layer of binary latents, by VIMCO (Mnih & Rezende 2016): linear, Bernoulli p(x|z).

    Latents of two values have no reparameterisation: the gradient is the score with the other draws as its baseline.
    """
    paper = {"posterior": "Bernoulli", "objective": "iwae", "hidden": (), "binarise": "fixed"}
    return VAE(**{"latent_dim": latent_dim, "draws": draws, **paper, **settings})


def m1(latent_dim: int = 50, classifier: Any = None, **settings: Any) -> Any:
    """M1 of Kingma, Mohamed, Rezende & Welling 2014: a classifier of the latents of a VAE that sees no labels.

    A pipeline of scikit-learn: call ``fit(X, y)`` with −1 for no label. ``classifier``: of the rows that have a label,
    by default a logistic regression. Two hidden layers of 600, softplus. MNIST, 100 labels: published error
    11.82 ± 0.25 % (with a transductive SVM).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.semi_supervised import SelfTrainingClassifier

    chosen = LogisticRegression(max_iter=1000) if classifier is None else classifier
    labelled_only = SelfTrainingClassifier(chosen, max_iter=0)
    return make_pipeline(VAE(**{"latent_dim": latent_dim, **_M1, **settings}), labelled_only)


def m2(latent_dim: int = 50, label_weight: float = 0.1, **settings: Any) -> VAE:
    """M2 of Kingma et al. 2014: p(y) p(z) p(x|y, z), q(y|x) q(z|x, y); call ``fit(X, y)`` with −1 for no label.

    ``label_weight``: α of the paper, the weight of log q(y|x) of the labelled rows; with 0 the objective is a bound.
    One hidden layer of 500, softplus. MNIST, 100 labels: published error 11.97 ± 1.71 %; ours:
    ``benchmarks/results/labels.md``.
    """
    paper = {"hidden": (500,), "activation": "Softplus", "classes": "y"}
    return VAE(**{"latent_dim": latent_dim, "label_weight": label_weight, **paper, **settings})


def m1_m2(latent_dim: int = 50, label_weight: float = 0.1, **settings: Any) -> Any:
    """M1+M2 of Kingma et al. 2014: ``m2`` of the latents of a VAE that sees no labels, one fitted after the other.

    A pipeline of scikit-learn: call ``fit(X, y)`` with −1 for no label. ``settings``: of both, but for those that
    concern the data of the first. MNIST, 100 labels: published error 3.33 ± 0.14 %.
    """
    from sklearn.pipeline import make_pipeline

    first = VAE(**{"latent_dim": latent_dim, **_M1, **settings})
    shared = {name: value for name, value in settings.items() if name not in ("likelihood", "binarise", "max_value")}
    return make_pipeline(first, m2(latent_dim, label_weight, **{**shared, "likelihood": "Normal"}))


def gmvae(clusters: int = 10, latent_dim: int = 10, **settings: Any) -> VAE:
    """A mixture of ``clusters`` normals in the latent space: p(y) p(z|y) p(x|z), q(y|x) q(z|x, y), without labels.

    ``predict`` gives the cluster of each row. MNIST, K = 10: published 82 to 88 % of the digits by the best map of
    clusters to digits (Dilokthanakul et al. 2016; Rui Shu's blog, 2016).
    """
    own = {"classes": clusters, "prior": "ConditionalNormal", "hidden": (500, 500)}
    return VAE(**{"latent_dim": latent_dim, **own, **settings})


_M1: dict[str, Any] = {"hidden": (600, 600), "activation": "Softplus"}


def iwae_two_layers(
    x: Tensor | np.ndarray[Any, Any],
    latents: tuple[int, int] = (100, 50),
    *,
    hidden: tuple[Sequence[int], Sequence[int]] = ((200, 200), (100, 100)),
    likelihood: Likelihood | None = None,
    seed: int = 0,
) -> tuple[LatentVariableModel, Posterior]:
    """Two stochastic layers as in Burda et al. 2016: p(z2) p(z1|z2) p(x|z1), and q(z1|x) q(z2|z1) from the rows up.

    ``latents``: dimensions of z1 and z2. ``hidden``: of the networks between x and z1, and between z1 and z2; tanh.
    ``likelihood``: by default ``Bernoulli``. The model starts from rows ``x [N, *X]``; it and the posterior are for
    ``fit(model, x, AEVB(posterior, objective=iwae, draws=50))``. The protocol of ``iwae``: published −log p(x) 85.33
    (K = 1), 82.90 (K = 50).
    """
    rows, seen = _tensor_and_mask(x, torch.get_default_dtype())
    (below, above), shape = latents, tuple(rows.shape[1:])
    given = Bernoulli() if likelihood is None else likelihood
    with seeded(seed):
        generative = priors.ConditionalNormal(below, MLP((above,), (2 * below,), hidden[1][::-1]))
        prior = priors.Latents({"z1": generative, "z2": priors.Normal(above)}, {"z1": ["z2"]})
        decoder = MLP((below,), _outputs(given, shape), hidden[0][::-1])
        first = DiagonalNormal(below, MLP(shape, (2 * below,), hidden[0]))
        second = DiagonalNormal(above, OfContext(MLP((below,), (2 * above,), hidden[1]), below))
    model = LatentVariableModel(prior, decoder, given, parents=["z1"])
    model.initialise(rows, seen)
    return model, posteriors.Latents({"z1": first, "z2": second}, parents={"z2": ["z1"]})


def ladder(
    x: Tensor | np.ndarray[Any, Any],
    latents: Sequence[int] = (64, 32, 16),
    *,
    hidden: Sequence[int] | None = None,
    channels: Sequence[int] = (),
    skip: bool = True,
    activation: type[torch.nn.Module] = torch.nn.SiLU,
    likelihood: Likelihood | None = None,
    seed: int = 0,
) -> tuple[LatentVariableModel, Posterior]:
    """The ladder VAE of Sønderby et al. 2016: q(z_l|x, z_{>l}) ∝ N(z_l; μ̂_l(x), σ̂²_l(x)) p(z_l|z_{>l}), z_L first.

    ``latents``: the dimensions of z1, …, zL from the rows up. One path of networks (``nn.BottomUp``) gives μ̂ and σ̂ of
    all layers; q and p share p(z_l|z_{>l}). With one layer this is the plain VAE. ``skip``: p(z_l|·) reads all layers
    above and the decoder reads all latents; else each reads the next layer only, and p is a Markov chain. ``hidden``:
    the width of the networks of each layer, each with two hidden layers; by default 512, 256, … and at least 64; ()
    makes all networks linear. ``channels``: of each layer of a convolutional path (``nn.ConvBottomUp``), and of the
    decoder; () for dense ones. ``likelihood``: by default ``Bernoulli``. There is no batch normalisation, so that the
    bound of a row does not depend on the others of its batch.

    The model starts from rows ``x [N, *X]``; it and the posterior are for ``fit(model, x, AEVB(posterior))``. Published
    for MNIST binarised afresh, 5 layers: −log p(x) 81.74.
    """
    if not latents:
        raise ValueError("latents is empty; give the dimension of each layer, from the rows up.")
    widths = [max(64, 512 // 2**level) for level in range(len(latents))] if hidden is None else list(hidden)
    if widths and len(widths) != len(latents):
        raise ValueError(
            f"hidden has {len(widths)} numbers for {len(latents)} layers of latents; give one each, or ()."
        )
    rows, seen = _tensor_and_mask(x, torch.get_default_dtype())
    given, shape = Bernoulli() if likelihood is None else likelihood, tuple(rows.shape[1:])
    with seeded(seed):
        prior = _top_down(latents, widths, skip, activation)
        n_in, numbers = sum(latents) if skip else latents[0], [2 * size for size in latents]
        decoder: torch.nn.Module
        encoder: torch.nn.Module
        if channels:
            encoder = ConvBottomUp(shape, numbers, channels)
            decoder = ConvDecoder(n_in, _outputs(given, shape), channels[: max(1, encoder.halved)][::-1])
        else:
            encoder = BottomUp(shape, numbers, widths, activation)
            decoder = MLP((n_in,), _outputs(given, shape), widths[:1] * 2, activation)
    model = LatentVariableModel(prior, decoder, given, parents=None if skip else prior.names[:1])
    model.initialise(rows, seen)
    kinds = [PrecisionWeighted] * (len(latents) - 1) + [DiagonalNormal]
    parts = zip(prior.names, kinds, latents, strict=True)
    return model, posteriors.Latents({name: kind(size, Identity()) for name, kind, size in parts}, encoder)


def _top_down(
    latents: Sequence[int], widths: list[int], skip: bool, activation: type[torch.nn.Module]
) -> priors.Latents:
    """p(z_l|z_{>l}) of layers of normals, the top N(0, I)."""
    names = [f"z{level + 1}" for level in range(len(latents))]
    parts: dict[str, Prior] = {}
    for level, (name, size) in enumerate(zip(names[:-1], latents, strict=False)):
        n_in = sum(latents[level + 1 :]) if skip else latents[level + 1]
        network = MLP((n_in,), (2 * size,), widths[level : level + 1] * 2, activation)
        parts[name] = priors.ConditionalNormal(size, network)
    above = {name: names[level + 1 :] if skip else [names[level + 1]] for level, name in enumerate(names[:-1])}
    return priors.Latents({**parts, names[-1]: priors.Normal(latents[-1])}, above)


def _outputs(likelihood: Likelihood, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What a decoder gives each row of ``shape``."""
    return shape if likelihood.n_parameters == 1 else (likelihood.n_parameters, *shape)


Covariance = Literal["spherical", "diagonal", "full"]
_NEAREST = 0.9  # of each row, what the component that starts nearest to it is given


def gaussian_mixture(
    x: Tensor | np.ndarray[Any, Any], components: int, covariance: Covariance = "full", seed: int = 0
) -> LatentVariableModel:
    """A mixture of normals with "spherical", "diagonal" or "full" covariances, one per component.

    Components start from k-means++ (Arthur & Vassilvitskii 2007). Full covariances need rows without missing values
    for a closed-form M-step. With the same start EM ends where scikit-learn's ``GaussianMixture`` does:
    ``tests/test_inference_em.py``. Standard deviations are at least 1e-3 of the data's.
    """
    values, seen = _tensor_and_mask(x)
    shape = tuple(values.shape[1:])
    if covariance not in ("spherical", "diagonal", "full"):
        raise ValueError(f'covariance is {covariance!r}; give "spherical", "diagonal" or "full".')
    likelihood: Likelihood = (
        likelihoods.CholeskyNormal(shape)
        if covariance == "full"
        else likelihoods.Normal("row" if covariance == "spherical" else "entry", shape)
    )
    return _mixture(values, seen, components, likelihood, seed)


def categorical_mixture(
    x: Tensor | np.ndarray[Any, Any], components: int, n_classes: int | None = None, seed: int = 0
) -> LatentVariableModel:
    """A mixture whose components have independent values of ``n_classes`` classes, 0, 1, … (latent class analysis).

    ``n_classes``: by default one more than the largest value. Goodman 1974.
    """
    values, seen = _tensor_and_mask(x)
    classes = int(values.max()) + 1 if n_classes is None else n_classes
    return _mixture(values, seen, components, likelihoods.Categorical(max(2, classes)), seed)


def probabilistic_pca(x: Tensor | np.ndarray[Any, Any], latent_dim: int, seed: int = 0) -> LatentVariableModel:
    """Probabilistic PCA: x = Wz + μ + noise of one variance, z ~ N(0, I). Tipping & Bishop 1999.

    ``EM`` ends at log p(x) of scikit-learn's ``PCA.score``; W is found up to a rotation.
    """
    return _linear(x, latent_dim, "scalar", seed)


def factor_analysis(x: Tensor | np.ndarray[Any, Any], latent_dim: int, seed: int = 0) -> LatentVariableModel:
    """Factor analysis: x = Wz + μ + noise of a variance per value, z ~ N(0, I). Rubin & Thayer 1982.

    ``EM`` ends at log p(x) of scikit-learn's ``FactorAnalysis(svd_method="lapack")``.
    """
    return _linear(x, latent_dim, "dimension", seed)


def _linear(
    x: Tensor | np.ndarray[Any, Any], latent_dim: int, scale: Literal["scalar", "dimension"], seed: int
) -> LatentVariableModel:
    values, seen = _tensor_and_mask(x)
    shape = tuple(values.shape[1:])
    with seeded(seed):
        decoder = MLP((latent_dim,), shape, hidden=())
    model = LatentVariableModel(priors.Normal(latent_dim), decoder, likelihoods.Normal(scale, shape)).double()
    model.initialise(values, seen)
    return model


def _mixture(x: Tensor, seen: Tensor | None, components: int, likelihood: Likelihood, seed: int) -> LatentVariableModel:
    """A mixture that starts from an M-step in which each row belongs mostly to the nearest of ``components`` rows."""
    if not 1 <= components <= len(x):
        raise ValueError(f"components must be from 1 to the {len(x)} rows, got {components}.")
    shape = tuple(x.shape[1:])
    with seeded(seed):
        decoder = Table(components, (likelihood.n_parameters, *shape) if likelihood.n_parameters > 1 else shape)
    model = LatentVariableModel(priors.Categorical(1, components), decoder, likelihood).double()
    model.initialise(x, seen)
    statistics = likelihood.statistics(x, seen)
    known = x if seen is None else torch.where(seen, x, x.sum(0) / seen.sum(0).clamp(min=1))
    if statistics is None:
        statistics = likelihood.statistics(known)
    assert statistics is not None
    features = statistics[:, 1:] if likelihood.n_values else (known - known.mean(0)) / known.std(0).clamp(min=1e-12)
    shares = _nearest(features.flatten(1), components, seed)
    set_table(decoder, likelihood, torch.tensordot(shares, statistics, 1))
    return model


def _nearest(features: Tensor, components: int, seed: int) -> Tensor:
    """Shares ``[S, N]`` of rows: most of each is the component's whose centre, of k-means++, is nearest."""
    from sklearn.cluster import kmeans_plusplus

    centres, _ = kmeans_plusplus(features.numpy(), components, random_state=seed)
    nearest = torch.cdist(features, torch.from_numpy(centres)).argmin(1)
    shares = torch.full((components, len(features)), (1 - _NEAREST) / components, dtype=torch.float64)
    shares[nearest, torch.arange(len(features))] += _NEAREST
    return shares


def _tensor_and_mask(
    x: Tensor | np.ndarray[Any, Any], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor | None]:
    """Rows in this type, 0 for NaN, and which values are observed; None if all are."""
    values = torch.as_tensor(x).to(dtype)
    seen = ~values.isnan()
    return (values, None) if bool(seen.all()) else (values.nan_to_num(), seen)


RECIPES = {
    each.__name__: each
    for each in (aevb, iwae, dreg, beta_vae, vamp_prior, conditional_vae, sigmoid_belief_net, m2, gmvae)
}
