"""The Gibbs sweep of deep LDA leaves its joint law as it is: an exact-start Geweke test, and mutants that it rejects.

Chains start from the prior; each is swept and gets new data from its new parameters, three times. Its law must then
still be that of fresh draws from the prior. The chains are blocks of one set of documents: chain i has documents 2i and
2i + 1, and words of its own.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from lowerbound.data import Counts
from lowerbound.topics import Csr, DeepLDAModel, UpwardDownwardGibbs
from lowerbound.topics.gibbs import _Sample
from lowerbound.topics.kernels import gamma_poisson, gamma_poisson_numba
from lowerbound.topics.links import Amount, Occurrence, latent_counts
from lowerbound.topics.sweep import Documents, Hyper, draw_phi, draw_r, nonzeros

DOCS, WORDS, ETA, GAMMA0, C0 = 2, 4, 0.7, 3.0, 1.0
HYPER = Hyper(a0=3.0, b0=6.0, e0=3.0, f0=3.0)
LAYERS = {1: (3,), 2: (3, 2), 3: (4, 3, 2)}


def in_blocks(kernels, chains: int) -> SimpleNamespace:
    """Kernels for chains that have a Φ each: ``phi [chains · V, K]``."""

    def split(csr, phi, theta, streams, n=None):
        chain = np.repeat(np.arange(len(theta)), np.diff(csr.indptr)) // DOCS
        own = (csr.indices + chain * (len(phi) // chains)).astype(np.int32)
        return kernels.split(Csr(csr.indptr, own, csr.counts), phi, theta, streams, n)

    def product(phi, theta):
        by_chain = phi.reshape(chains, -1, theta.shape[1])
        return np.einsum("cvk,cdk->cdv", by_chain, theta.reshape(chains, DOCS, -1)).reshape(len(theta), -1)

    def rates(csr, phi, theta):
        chain = np.repeat(np.arange(len(theta)), np.diff(csr.indptr)) // DOCS
        own = (csr.indices + chain * (len(phi) // chains)).astype(np.int32)
        return kernels.rates(Csr(csr.indptr, own, csr.counts), phi, theta)

    return SimpleNamespace(**vars(kernels) | {"split": split, "product": product, "rates": rates})


class Chains:
    """Independent chains, drawn from the prior."""

    def __init__(self, layers: tuple[int, ...], chains: int, seed: int, kernels=gamma_poisson) -> None:
        self.layers, self.chains, self.rng = layers, chains, np.random.default_rng(seed)
        below = (WORDS, *layers)
        self.phi = [draw_phi(np.zeros((chains, v, k)), ETA, self.rng) for v, k in zip(below, layers, strict=False)]
        self.r = self.rng.gamma(GAMMA0 / layers[-1], 1 / C0, (chains, layers[-1]))
        rows = chains * DOCS
        streams = kernels.streams(np.array([seed, 1, 2, 3]), rows)
        docs = Documents.begin(rows, layers, in_blocks(kernels, chains), streams, HYPER)
        p = self.rng.beta(HYPER.a0, HYPER.b0, rows)
        docs.c[:, 0] = (1 - p) / p
        docs.c[:, 1:] = self.rng.gamma(HYPER.e0, 1 / HYPER.f0, (rows, len(layers) - 1))
        self.docs = docs
        shape = self.of_docs(self.r)
        for layer in reversed(range(len(layers))):
            docs.theta[layer] = self.rng.gamma(shape) / docs.c[:, [layer]] + 1e-300
            shape = docs.kernels.product(self.flat(layer), docs.theta[layer])
        self.x = self.rng.poisson(shape)

    def of_docs(self, r):
        return np.repeat(r, DOCS, 0)

    def flat(self, layer: int):
        return self.phi[layer].reshape(-1, self.layers[layer])

    def draw_data(self) -> None:
        self.x = self.rng.poisson(self.docs.kernels.product(self.flat(0), self.docs.theta[0]))

    def counts(self) -> Csr:
        """The latent counts, from which a sweep starts."""
        return nonzeros(self.x.astype(float))

    def up(self) -> None:
        phi = [self.flat(layer) for layer in range(len(self.layers))]
        n = [np.zeros_like(one) for one in phi]
        self.docs.up(self.counts(), phi, self.of_docs(self.r), n)
        self.phi = [draw_phi(added.reshape(one.shape), ETA, self.rng) for added, one in zip(n, self.phi, strict=True)]

    def scale(self) -> None:
        self.docs.scale(self.of_docs(self.r))

    def top(self) -> None:
        q, top = self.docs.q()[:, -1], self.docs.top
        totals = top.reshape(self.chains, DOCS, -1).sum(1), q.reshape(self.chains, DOCS, 1).sum(1)
        self.r = draw_r(*totals, GAMMA0, C0, self.rng)

    def down(self) -> None:
        self.docs.down([self.flat(layer) for layer in range(len(self.layers))], self.of_docs(self.r))

    def sweep(self) -> None:
        for step in (self.up, self.scale, self.top, self.down):
            step()

    def statistics(self) -> dict[str, np.ndarray]:
        docs, layers = self.docs, len(self.layers)
        first = slice(None, None, DOCS)
        total = self.r.sum(-1)
        theta = [np.maximum(one[first], 1e-200) for one in docs.theta]
        found = {
            "sum r": total,
            "r_0": self.r[:, 0],
            "sum r · c_top": total * docs.c[first, -1],
            "log sum theta_top / sum r": np.log(theta[-1].sum(-1) / total),
            "c_top": docs.c[first, -1],
            "c_2": docs.c[first, 0],
            "sum theta_1": theta[0].sum(-1),
            "share of theta_1": theta[0][:, 0] / theta[0].sum(-1),
            "log theta_1": np.log(theta[0][:, 0]),
            "sum x": self.x[first].sum(-1),
            "x": self.x[first, 0],
            "x of both": (self.x[::2, 0] * self.x[1::2, 0]),
            "phi_1": self.phi[0][:, 0, 0],
            "phi_1, entropy": -(self.phi[0] * np.log(self.phi[0])).sum((1, 2)),
            "rate": docs.kernels.product(self.flat(0), docs.theta[0])[first, 0],
            "x by rate": (self.x / docs.kernels.product(self.flat(0), docs.theta[0]))[first].sum(-1),
        }
        for layer in range(layers):
            above = theta[layer + 1].sum(-1) if layer + 1 < layers else total
            found[f"c · theta_{layer + 1}, by the shape"] = np.log(theta[layer].sum(-1) * docs.c[first, layer] / above)
        for layer in range(1, layers):
            found[f"sum theta_{layer + 1}"] = theta[layer].sum(-1)
            found[f"phi_{layer + 1}"] = self.phi[layer][:, 0, 0]
            found[f"theta_{layer} by theta_{layer + 1}"] = np.log(theta[layer - 1].sum(-1) / theta[layer].sum(-1))
        return found


def smallest(cls: type[Chains], layers: tuple[int, ...], chains: int, sweeps: int = 3, kernels=gamma_poisson) -> float:
    """The smallest p-value of all statistics, times their number."""
    swept, fresh = cls(layers, chains, 1, kernels), Chains(layers, chains, 2)
    for _ in range(sweeps):
        swept.sweep()
        swept.draw_data()
    both = swept.statistics(), fresh.statistics()
    found = {name: ks_2samp(both[0][name], both[1][name]).pvalue for name in both[0]}
    return min(found.values()) * len(found)


class RateOne(Chains):
    """The rate 1 in the place of q."""

    def down(self) -> None:
        self.docs.q = lambda: np.ones((len(self.docs.c), len(self.layers) + 1))
        super().down()
        del self.docs.q


class NoRate(Chains):
    """θ is drawn with the rate c, without q."""

    def down(self) -> None:
        self.docs.q = lambda: np.zeros((len(self.docs.c), len(self.layers) + 1))
        super().down()
        del self.docs.q


class TopBeforeScale(Chains):
    """r is drawn given the old c."""

    def sweep(self) -> None:
        for step in (self.up, self.top, self.scale, self.down):
            step()


class NoDown(Chains):
    """θ is not drawn again."""

    def down(self) -> None:
        pass


@pytest.mark.parametrize("kernels", [gamma_poisson, gamma_poisson_numba], ids=["numpy", "numba"])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=["1", "2", "3"])
def test_a_sweep_keeps_the_joint_law(layers: tuple[int, ...], kernels) -> None:
    assert smallest(Chains, layers, 20_000, kernels=kernels) > 0.01


MUTANTS = [(NoRate, 1, 4000), (NoDown, 1, 4000)]
MUTANTS += [(mutant, depth, 4000) for mutant in (RateOne, NoDown) for depth in (2, 3)]
MUTANTS += [(TopBeforeScale, 2, 20_000), (TopBeforeScale, 3, 20_000)]


@pytest.mark.parametrize(("mutant", "depth", "chains"), MUTANTS)
def test_a_wrong_sweep_is_rejected(mutant: type[Chains], depth: int, chains: int) -> None:
    assert smallest(mutant, LAYERS[depth], chains) < 1e-6


class Binary(Chains):
    """Only whether a word occurs is observed."""

    link = Occurrence()

    def observed(self) -> np.ndarray:
        return np.minimum(self.x, 1).astype(float)

    def counts(self) -> Csr:
        values = nonzeros(self.observed())
        docs = self.docs
        return latent_counts(self.link, values, self.flat(0), docs.theta[0], docs.kernels, docs.streams)


class Positive(Binary):
    """Gamma numbers are observed, whose shape is the count."""

    link = Amount()

    def observed(self) -> np.ndarray:
        return self.rng.gamma(self.x)


class Untruncated(Binary):
    """The latent count of a word that occurs is 1."""

    def counts(self) -> Csr:
        return nonzeros(self.observed())


class Rounded(Positive):
    """The latent count of an amount is the amount, rounded up."""

    def counts(self) -> Csr:
        return nonzeros(np.ceil(self.observed()))


@pytest.mark.parametrize("kernels", [gamma_poisson, gamma_poisson_numba], ids=["numpy", "numba"])
@pytest.mark.parametrize("link", [Binary, Positive])
def test_links_keep_the_joint_law(link: type[Chains], kernels) -> None:
    assert smallest(link, LAYERS[2], 20_000, kernels=kernels) > 0.01


@pytest.mark.parametrize("mutant", [Untruncated, Rounded])
def test_wrong_latent_counts_are_rejected(mutant: type[Chains]) -> None:
    assert smallest(mutant, LAYERS[2], 4000) < 1e-6


class Learner(Chains):
    """``UpwardDownwardGibbs``, as ``fit`` runs it, one document per batch."""

    def sweep(self) -> None:
        model = DeepLDAModel(WORDS, self.layers, ETA, GAMMA0, C0, HYPER.a0, HYPER.b0, HYPER.e0, HYPER.f0)
        rows = Counts.from_sparse(self.x).as_sparse()
        procedure = UpwardDownwardGibbs().start(model, rows.subset(torch.arange(DOCS)))
        sample, rng = _Sample(model, DOCS), torch.Generator().manual_seed(int(self.rng.integers(2**62)))
        procedure.sample = sample
        for chain in range(self.chains):
            own = slice(chain * DOCS, (chain + 1) * DOCS)
            sample.sweeps.fill_(100)
            for layer, theta in enumerate(self.docs.theta):
                model.phi[layer].copy_(torch.from_numpy(self.phi[layer][chain]))
                sample.get_buffer(f"theta_{layer + 1}").copy_(torch.from_numpy(theta[own]))
            model.r.copy_(torch.from_numpy(self.r[chain]))
            sample.c.copy_(torch.from_numpy(self.docs.c[own]))
            for document in range(DOCS):
                batch = rows.batch(torch.tensor([own.start + document]), torch.ones(1))
                batch = replace(batch, index=torch.tensor([document]))
                procedure.step(procedure.state, batch, procedure.noise(1, rng), {})
            procedure.epoch_end(procedure.state)
            for layer, theta in enumerate(self.docs.theta):
                self.phi[layer][chain] = model.phi[layer].numpy()
                theta[own] = sample.get_buffer(f"theta_{layer + 1}").numpy()
            self.r[chain], self.docs.c[own] = model.r.numpy(), sample.c.numpy()


class WithoutDown(Learner):
    """Keeps θ as it was."""

    def sweep(self) -> None:
        before = [theta.copy() for theta in self.docs.theta]
        super().sweep()
        self.docs.theta = before


def test_the_learner_keeps_the_joint_law() -> None:
    assert smallest(Learner, LAYERS[2], 600, sweeps=1) > 0.01
    assert smallest(WithoutDown, LAYERS[1], 600, sweeps=1) < 1e-3
