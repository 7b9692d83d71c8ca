"""Assemblies named after their papers: plain functions that return an estimator, set as the paper has it.

Each says what to expect, by which protocol. Numbers marked "published" are the paper's or a replication's, not ours.
"""

from __future__ import annotations

from typing import Any

from lowerbound.estimators import VAE
from lowerbound.gradients import doubly_reparameterised


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


RECIPES = {
    each.__name__: each for each in (aevb, iwae, dreg, beta_vae, vamp_prior, conditional_vae, sigmoid_belief_net)
}
