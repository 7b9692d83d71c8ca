"""Rows with missing cells under a fitted model, against Gaussian conditioning and enumeration."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from oracles import PPCA, rng
from scipy import stats
from torch import Tensor, nn

from lowerbound import distributions, likelihoods, posteriors, priors
from lowerbound.data import Rows
from lowerbound.evidence import proposals
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, seeded
from lowerbound.posteriors import Posterior
from lowerbound.queries import Sampling, anomaly, complete, condition, conditional, posterior_draws, refining
from lowerbound.queries.posterior_sampling import noise_of


class Exact(Posterior):
    """p(z|x_observed) of PPCA, ``widen``ed and ``shift``ed; or ``blind``: that of rows filled with means."""

    family = distributions.FullNormal

    def __init__(self, ppca: PPCA, widen: float = 1.0, shift: float = 0.0, blind: bool = False) -> None:
        super().__init__(ppca.weight.shape[1], nn.Identity())
        self.ppca, self.widen, self.shift, self.blind = ppca, widen, shift, blind

    @property
    def n_outputs(self) -> int:
        return 0

    def distribution(self, out: Tensor) -> distributions.FullNormal:
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> distributions.FullNormal:
        seen = torch.ones_like(x) if mask is None else mask.to(x)
        filled = torch.where(seen > 0, x, self.ppca.mean)
        loc, covariance = posterior_of(self.ppca, filled, torch.ones_like(x) if self.blind else seen)
        return distributions.FullNormal(loc + self.shift, self.widen * torch.linalg.cholesky(covariance))


def posterior_of(ppca: PPCA, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[B, d]`` and covariance ``[B, d, d]`` of p(z|x_observed)."""
    weight = ppca.weight
    one = torch.eye(weight.shape[1]).double()
    precision = one + torch.einsum("bd,di,dj->bij", seen.double(), weight, weight) / ppca.variance
    away = torch.where(seen > 0, x - ppca.mean, 0)
    loc = torch.linalg.solve(precision, (away @ weight / ppca.variance).unsqueeze(-1)).squeeze(-1)
    return loc, torch.linalg.inv(precision)


def conditioned(ppca: PPCA, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and covariance of the missing cells of one row, and log p of those observed, by Gaussian conditioning."""
    covariance = ppca.weight @ ppca.weight.T + ppca.variance * torch.eye(len(x)).double()
    o, m = seen.nonzero()[:, 0], (~seen).nonzero()[:, 0]
    gain = covariance[m][:, o] @ torch.linalg.inv(covariance[o][:, o])
    mean = ppca.mean[m] + gain @ (x[o] - ppca.mean[o])
    spread = covariance[m][:, m] - gain @ covariance[o][:, m]
    density = torch.distributions.MultivariateNormal(ppca.mean[o], covariance[o][:, o]).log_prob(x[o])
    return mean, spread, float(density)


def ppca(dim: int = 5, latents: int = 2, variance: float = 0.3, seed: int = 0) -> PPCA:
    generator = rng(seed)
    weight = torch.randn(dim, latents, generator=generator).double()
    return PPCA(torch.randn(dim, generator=generator).double(), weight, variance)


def rows_of(of: PPCA, n: int, seed: int = 1) -> Tensor:
    with torch.no_grad():
        return of.model().sample(n, rng(seed))


TRUTH = ppca()
X = rows_of(TRUTH, 6)
MASK = torch.tensor(
    [
        [True, True, False, True, False],
        [False, True, True, True, True],
        [True, False, False, False, True],
        [False, False, True, False, False],
        [True, True, True, True, True],
        [True, True, True, False, True],
    ]
)
ROWS = Rows(X, MASK, dtype=torch.float64)


def test_scores_are_exact_where_the_posterior_is():
    """Weights are then constant: −score is log p(x_observed) to rounding, whatever the draws."""
    found = anomaly(TRUTH.model(), Exact(TRUTH), ROWS, rng(), 100)
    due = [-conditioned(TRUTH, x, seen)[2] for x, seen in zip(X, MASK, strict=True)]
    np.testing.assert_allclose(found.score, due, atol=1e-9)
    np.testing.assert_allclose(found.standard_error, 0, atol=1e-6)
    np.testing.assert_allclose(found.ess, 100)
    off = anomaly(TRUTH.model(), Exact(TRUTH, 1.5), ROWS, rng(), 4000)
    assert (np.abs(off.score - due) < 4 * off.standard_error).all()
    assert (off.standard_error > 1e-3).all()


@pytest.mark.parametrize("widen", [1.0, 1.5])
def test_contributions_are_what_they_say(widen):
    samples = 20_000
    found = anomaly(TRUTH.model(), Exact(TRUTH, widen), ROWS, rng(), samples)
    np.testing.assert_allclose(found.cells.sum(1) + found.latent, found.score, atol=1e-9)
    assert (found.cells[~MASK.numpy()] == 0).all()
    loc, covariance = posterior_of(TRUTH, X, MASK.double())
    spread = torch.einsum("di,bij,dj->bd", TRUTH.weight, covariance, TRUTH.weight)
    square = (X - TRUTH.mean - loc @ TRUTH.weight.T).square() + spread
    due = torch.where(MASK, 0.5 * (square / TRUTH.variance + math.log(2 * math.pi * TRUTH.variance)), 0)
    np.testing.assert_allclose(found.cells, due, atol=0.08)
    q = torch.distributions.MultivariateNormal(loc, covariance)
    p = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    np.testing.assert_allclose(found.latent, torch.distributions.kl_divergence(q, p), atol=0.08)


@pytest.mark.parametrize("widen", [1.0, 1.5])
def test_latents_have_the_posterior_s_moments(widen):
    draws = 4000
    found = posterior_draws(TRUTH.model(), Exact(TRUTH, widen), ROWS, rng(), draws=draws, samples=40_000)
    loc, covariance = posterior_of(TRUTH, X, MASK.double())
    deviation = covariance.diagonal(dim1=1, dim2=2).sqrt()
    score = (found.z.mean(0) - loc.numpy()) / deviation.numpy() * math.sqrt(draws)
    assert np.abs(score).max() < 4.5
    for row, due in enumerate(covariance.numpy()):
        scale = np.sqrt(np.outer(np.diag(due), np.diag(due)) * 2 / draws)
        assert (np.abs(np.cov(found.z[:, row].T) - due) < 4.5 * scale).all()
    assert not found.refined.any()


def test_missing_cells_are_those_of_gaussian_conditioning():
    found = complete(TRUTH.model(), Exact(TRUTH, 1.3), ROWS, rng(), draws=2000, samples=20_000)
    assert found.draws is not None
    for row, (x, seen) in enumerate(zip(X, MASK, strict=True)):
        known = seen.numpy()
        assert (found.best[row, known] == x.numpy()[known]).all()
        assert (found.draws[:, row, known] == x.numpy()[known]).all()
        if known.all():
            assert found.ess[row] == 20_000
            continue
        mean, covariance, _ = conditioned(TRUTH, x, seen)
        deviation = covariance.diagonal().sqrt().numpy()
        assert (np.abs(found.best[row, ~known] - mean.numpy()) < 4 * deviation / math.sqrt(found.ess[row])).all()
        drawn = found.draws[:, row, ~known]
        assert (np.abs(drawn.mean(0) - mean.numpy()) < 4.5 * deviation / math.sqrt(2000)).all()
        scale = np.outer(deviation, deviation) * math.sqrt(2 / 2000)
        assert (np.abs(np.atleast_2d(np.cov(drawn.T)) - covariance.numpy()) < 4.5 * scale).all()


def in_blocks(n: int) -> tuple[PPCA, Tensor, Tensor, np.ndarray]:
    """Four blocks of three columns, each of a latent of its own, ``n`` rows, and one cell of each block missing: 4n
    missing cells that are independent of one another."""
    generator = rng(2)
    weight = torch.block_diag(*torch.randn(4, 3, 1, generator=generator).double())
    of = PPCA(torch.randn(12, generator=generator).double(), weight, 0.3)
    x = rows_of(of, n, seed=2)
    mask = torch.randint(3, (n, 4, 1), generator=generator) != torch.arange(3)
    return of, x, mask.flatten(1), x.numpy()[~mask.flatten(1).numpy()]


def test_intervals_of_many_draws_cover():
    """5,000 independent cells: the share of 90 % intervals that cover has a standard error of 0.4 %."""
    of, x, mask, truth = in_blocks(1250)
    found = complete(of.model(), Exact(of), Rows(x, mask, dtype=x.dtype), rng(), draws=1000)
    drawn = found.draws[:, ~mask.numpy()]
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    assert abs(((low < truth) & (truth < high)).mean() - 0.9) < 0.02
    rank = (drawn < truth).mean(0)
    assert stats.kstest(rank, "uniform").pvalue > 1e-3
    fixed = found.best[~mask.numpy()]  # the mutant: uncertainty of x|z alone, as if z were known
    half = 1.645 * math.sqrt(of.variance)
    assert ((fixed - half < truth) & (truth < fixed + half)).mean() < 0.86


def test_few_draws_need_student_s_t():
    """Of m = 20 draws plain quantiles cover 0.9 (m − 1)/(m + 1) = 81.4 %, and t intervals 90 %; s.e. 0.6 and 0.4 %."""
    m = 20
    of, x, mask, truth = in_blocks(1250)
    found = complete(of.model(), Exact(of), Rows(x, mask, dtype=x.dtype), rng(), draws=m, samples=400)
    drawn = found.draws[:, ~mask.numpy()]
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    assert abs(((low < truth) & (truth < high)).mean() - 0.9 * (m - 1) / (m + 1)) < 4 * 0.0055
    half = stats.t.ppf(0.95, m - 1) * drawn.std(0, ddof=1) * math.sqrt(1 + 1 / m)
    assert abs((np.abs(drawn.mean(0) - truth) < half).mean() - 0.9) < 4 * 0.0042


def test_conditional_rows_are_gaussian_conditioning():
    n = 4000
    with pytest.raises(ValueError, match="n must be at least 1"):
        conditional(TRUTH.model(), Exact(TRUTH), X[0], MASK[0], 0, rng())
    for row in (0, 3):
        x, seen = X[row], MASK[row]
        found = conditional(TRUTH.model(), Exact(TRUTH, 1.3), x, seen, n, rng(5))
        assert found.shape == (n, 5)
        assert (found[:, seen] == x[seen]).all()
        mean, covariance, _ = conditioned(TRUTH, x, seen)
        white = torch.linalg.solve_triangular(
            torch.linalg.cholesky(covariance), (found[:, ~seen] - mean).T, upper=False
        )
        assert (white.mean(1).abs() < 4.5 / math.sqrt(n)).all()
        assert stats.kstest(white.flatten().numpy(), "norm").pvalue > 1e-3
    whole = conditional(TRUTH.model(), Exact(TRUTH), X[4], MASK[4], 3, rng())
    assert torch.equal(whole, X[4].expand(3, 5))


def poor(
    refine: str | None,
    q: Posterior,
    of: PPCA,
    copies: int = 15,
    draws: int = 50,
    samples: int = 200,
    fit: bool = False,
):
    """Draws for a row, ``copies`` times over, standardised by its exact posterior: ``[M·N, d]``, each N(0, I)."""
    x = rows_of(of, 1, seed=4).expand(copies, -1)
    mask = torch.tensor([True, True, True, False, False, False]).expand(copies, -1)
    found = posterior_draws(
        of.model(), q, Rows(x, mask, dtype=x.dtype), rng(), draws=draws, samples=samples, refine=refine, fit=fit
    )
    loc, covariance = posterior_of(of, x[:1], mask[:1].double())
    away = torch.tensor(found.z).flatten(0, 1) - loc
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance[0]), away.T, upper=False).T, found


def is_standard(white: Tensor) -> bool:
    """Mean 0 and covariance I of independent rows, at 4.5 standard errors."""
    n = len(white)
    away = torch.cov(white.T) - torch.eye(white.shape[1]).double()
    return bool((white.mean(0).abs() < 4.5 / math.sqrt(n)).all() and (away.abs() < 4.5 * math.sqrt(2 / n)).all())


LOW = ppca(6, 2, 0.1, seed=7)


@pytest.mark.parametrize(
    ("refine", "q"),
    [
        ("hmc", Exact(LOW, 0.5, 0.7)),
        ("hmc", Exact(LOW, blind=True)),
        ("gibbs", Exact(LOW, blind=True)),
        ("gibbs", Exact(LOW, 1.2, 0.3, blind=True)),
    ],
)
def test_chains_mend_a_poor_posterior(refine, q):
    """Narrow and shifted, or that of complete rows: resampling alone, the mutant, is seen to be wrong."""
    white, found = poor(refine, q, LOW)
    assert found.refined.mean() > 0.8
    assert is_standard(white)
    with pytest.warns(UserWarning, match=r"too few effective draws for 1. of 15 rows, the least .* of 2000") as seen:
        unrefined, left = poor(None, q, LOW)
    assert len(seen) == 1
    assert not left.refined.any()
    assert not is_standard(unrefined)


@pytest.mark.parametrize("q", [Exact(LOW, 0.3), Exact(LOW, 0.5, 0.7), Exact(LOW, blind=True), Exact(LOW, 1.5, 3.0)])
def test_a_proposal_of_their_own_mends_it_without_chains(q):
    white, found = poor(None, q, LOW, samples=1000, fit=True)
    assert not found.refined.any()
    assert is_standard(white)


def test_a_narrow_posterior_s_high_ess_is_unreliable(monkeypatch):
    """Draws so near to each other that their weights are alike: k̂ sees it where the ESS, of 20 and more, does not."""
    white, found = poor("hmc", Exact(LOW, 0.3), LOW, draws=20, samples=3000)
    assert (found.ess > 20).mean() > 0.7
    assert found.refined.mean() > 0.8
    assert is_standard(white)
    monkeypatch.setattr("lowerbound.evidence.pareto.threshold", lambda draws: math.inf)
    white, found = poor("hmc", Exact(LOW, 0.3), LOW, draws=20, samples=3000)
    assert not is_standard(white)


def test_gibbs_needs_its_metropolis_step(monkeypatch):
    """The mutant accepts always, as pseudo-Gibbs does: the chains' end is then as wrong as q is."""
    q = Exact(LOW, 1.2, 0.3, blind=True)
    monkeypatch.setattr(torch, "nan_to_num", lambda value, nan: torch.full_like(value, torch.inf))
    monkeypatch.setattr("lowerbound.queries.posterior_sampling._weighted", weighted_evenly)
    white, found = poor("gibbs", q, LOW)
    assert found.refined.all()
    assert not is_standard(white)


def weighted_evenly(target, batch, samples, generators):
    z = target.posterior.sample(noise_of(target.posterior, samples, target.event, generators, batch.x))
    log_w = torch.full(z.shape[:2], -1e3).double()
    log_w[0] = 0
    return z, log_w


def test_points_of_refined_rows_are_exact_too():
    x = rows_of(LOW, 1, seed=4)
    mask = torch.tensor([[True, True, True, False, False, False]])
    rows = Rows(x, mask, dtype=x.dtype)
    found = complete(LOW.model(), Exact(LOW, blind=True), rows, rng(), draws=400, samples=1000, fit=False)
    mean, covariance, _ = conditioned(LOW, x[0], mask[0])
    deviation = covariance.diagonal().sqrt().numpy()
    assert found.refined.all()
    assert (np.abs(found.best[0, 3:] - mean.numpy()) < 4 * deviation / math.sqrt(400)).all()
    assert (np.abs(found.draws[:, 0, 3:].mean(0) - mean.numpy()) < 4.5 * deviation / math.sqrt(400)).all()


def test_a_row_with_nothing_observed_is_the_prior():
    rows = Rows(torch.full((3, 5), torch.nan).double(), torch.zeros(3, 5, dtype=torch.bool), dtype=torch.float64)
    q = Exact(TRUTH, 0.1, 3.0)  # never asked
    found = anomaly(TRUTH.model(), q, rows, rng(), 50)
    for values in (found.score, found.standard_error, found.cells, found.latent):
        assert (values == 0).all()
    assert (found.ess == 50).all()
    z = posterior_draws(TRUTH.model(), q, rows, rng(), draws=3000)
    assert is_standard(torch.tensor(z.z).flatten(0, 1))
    assert not z.refined.any()
    filled = complete(TRUTH.model(), q, rows, rng(), samples=20_000)
    deviation = (TRUTH.weight.square().sum(1)).sqrt().numpy()
    assert (np.abs(filled.best - TRUTH.mean.numpy()) < 4.5 * deviation / math.sqrt(20_000)).all()


@pytest.mark.parametrize("refine", ["hmc", "gibbs"])
def test_what_a_missing_cell_holds_changes_nothing(refine):
    q, model = Exact(TRUTH, 0.6, 0.4), TRUTH.model()
    found = []
    junk = torch.tensor([torch.nan, 1e30, -torch.inf, torch.nan, 1e300]).double()
    for fill in (torch.zeros(5).double(), junk):
        rows = Rows(torch.where(MASK, X, fill), MASK, dtype=torch.float64)
        done = complete(model, q, rows, rng(), draws=30, samples=60, refine=refine, fit=False)
        assert done.refined.any()
        score = anomaly(model, q, rows, rng(), 20)
        found.append((done.best, done.draws, done.ess, score.score, score.cells, score.latent))
    for clean, dirty in zip(*found, strict=True):
        assert np.isfinite(clean).all()
        np.testing.assert_array_equal(clean, dirty)


SIZES = (3, 2, 4)  # classes of a categorical, a binary and an ordinal column


def discrete(seed: int = 0) -> tuple[LatentVariableModel, Posterior]:
    """A latent of 3 classes, and columns of each kind of class."""
    with seeded(seed):
        parts = [likelihoods.Categorical(3), likelihoods.Bernoulli(), likelihoods.Ordinal(4, (1,))]
        model = LatentVariableModel(priors.Categorical(1, 3), MLP((1, 3), (3, 3), ()), likelihoods.Product(parts))
        q = posteriors.Categorical(1, 3, MLP((3,), (3,), ()))
    model, q = model.double(), q.double()
    with torch.no_grad():
        model.decoder.layers[0].weight.mul_(4)
        q.encoder.layers[0].weight.mul_(0.3)
    return model, q


def enumerated(model: LatentVariableModel) -> np.ndarray:
    """p(x) of each row of classes, ``[3, 2, 4]``."""
    with torch.no_grad():
        z = torch.eye(3).double().view(3, 1, 1, 3)
        x = torch.tensor(list(itertools.product(*map(range, SIZES)))).double()
        joint = model.log_joint(z.expand(3, len(x), 1, 3), x)
    return joint.logsumexp(0).exp().view(SIZES).numpy()


def test_discrete_columns_are_as_enumerated():
    model, q = discrete()
    table = enumerated(model)
    assert table.sum() == pytest.approx(1)
    x, n = torch.tensor([2.0, 1.0, 3.0]).double(), 6000
    for seen in itertools.product((True, False), repeat=3):
        if all(seen):
            continue
        mask = torch.tensor(seen)
        given = table[tuple(int(x[j]) if seen[j] else slice(None) for j in range(3))]
        drawn = conditional(model, q, x, mask, n, rng(6), refine="gibbs")
        hidden = [j for j in range(3) if not seen[j]]
        counts = np.zeros([SIZES[j] for j in hidden])
        np.add.at(counts, tuple(drawn[:, j].long().numpy() for j in hidden), 1)
        assert stats.chisquare(counts.ravel(), n * (given / given.sum()).ravel()).pvalue > 1e-4
        score = anomaly(model, q, Rows(x[None], mask[None], dtype=x.dtype), rng(), 5000)
        assert abs(score.score[0] + math.log(given.sum())) <= 4 * score.standard_error[0] + 1e-12


def test_best_classes_are_as_enumerated():
    """Mode of categorical and binary, median of ordinal; models in which another rule would give another answer."""
    told = 0
    for seed in range(12):
        model, q = discrete(seed)
        table = enumerated(model)
        x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 2]]).double()
        mask = torch.eye(3, dtype=torch.bool)
        done = complete(model, q, Rows(x, mask, dtype=x.dtype), rng(), samples=20_000, refine=None)
        for row in range(3):
            for j in set(range(3)) - {row}:
                given = np.moveaxis(table, row, 0)[int(x[row, row])]
                share = given.sum(tuple(k for k, of in enumerate([i for i in range(3) if i != row]) if of != j))
                share = share / share.sum()
                median = int((share.cumsum() < 0.5).sum())
                due = median if j == 2 else int(share.argmax())
                close = np.abs(share.cumsum() - 0.5).min() < 0.01 or np.diff(np.sort(share))[-1] < 0.01
                assert close or done.best[row, j] == due
                told += j == 2 and median != share.argmax()
    assert told > 0, "of some the mode would be another"


LOSSES = {  # per column: its likelihood, and the loss of an estimate c that its completion minimises
    "normal": (lambda: likelihoods.Normal(0.7), "squared"),
    "t": (lambda: likelihoods.StudentT(4.0), "squared"),
    "log-normal": (lambda: likelihoods.LogNormal(1.5, largest=3.0), "squared"),
    "zero-inflated": (lambda: likelihoods.ZeroInflatedLogNormal(1.5, largest=3.0), "squared"),
    "interval": (lambda: likelihoods.InflatedLogitNormal(1.5), "squared"),
    "counts": (likelihoods.ZeroInflatedNegativeBinomial, "squared"),
    "binary": (likelihoods.Bernoulli, "wrong"),
    "categorical": (lambda: likelihoods.Categorical(4), "wrong"),
    "ordinal": (lambda: likelihoods.Ordinal(5, (1,)), "levels"),
}
LOSS = {"squared": lambda x, c: (x - c) ** 2, "wrong": lambda x, c: (x != c) * 1.0, "levels": lambda x, c: abs(x - c)}


@pytest.mark.parametrize("seed", range(3))
def test_completions_minimise_the_loss_of_their_kind(seed):
    """The expected loss under p(x_j|x_observed) is within 1 % of the least of any value; z has 3 states."""
    with seeded(seed):
        columns = [make() for make, _ in LOSSES.values()]
        product = likelihoods.Product([likelihoods.Normal(), *columns])
        shape = (product.n_parameters, len(columns) + 1)
        model = LatentVariableModel(priors.Categorical(1, 3), MLP((1, 3), shape, ()), product).double()
        q = posteriors.Categorical(1, 3, MLP((shape[1],), (3,), ())).double()
    x, mask = torch.zeros(1, shape[1]).double(), torch.arange(shape[1]).unsqueeze(0) == 0
    best = complete(model, q, Rows(x, mask, dtype=x.dtype), rng(), samples=20_000, refine=None).best[0]
    with torch.no_grad():
        z = torch.eye(3).double().view(3, 1, 1, 3)
        weight = model.log_joint(z, x, mask).softmax(0).numpy().ravel()
        drawn = model.likelihood.sample(model.decode(z.expand(3, 40_000, 1, 3)), rng(1)).numpy()
    for j, (name, (_, kind)) in enumerate(LOSSES.items(), 1):
        values = np.minimum(drawn[..., j], getattr(columns[j - 1], "largest", None) or math.inf)
        share = np.repeat(weight[:, None] / values.shape[1], values.shape[1], 1)
        expected = lambda c: (share * LOSS[kind](values, c)).sum()  # noqa: E731, B023
        others = np.unique(values) if kind != "squared" else np.linspace(values.min(), values.max(), 3001)
        assert expected(best[j]) <= 1.01 * min(map(expected, others)), name


def test_pixels_of_an_image_are_grey():
    with seeded(0):
        model = LatentVariableModel(priors.Normal(1), MLP((1,), (4,), ()), likelihoods.Bernoulli())
        q = posteriors.DiagonalNormal(1, MLP((4,), (2,), ()))
    x, mask = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[True, True, False, False]])
    found = complete(model, q, Rows(x, mask), rng(), draws=5, samples=5000)
    assert ((found.best[0, 2:] > 0.05) & (found.best[0, 2:] < 0.95)).all()
    grid = torch.linspace(-8, 8, 4001)
    with torch.no_grad():
        z = grid.view(-1, 1, 1)
        weight = (model.log_lik(z, x, mask) - 0.5 * grid.square().unsqueeze(1)).double().softmax(0)
        due = (weight.unsqueeze(2) * model.likelihood.mean(model.decode(z))).sum(0)
    np.testing.assert_allclose(found.best[0, 2:], due[0, 2:], atol=4 * 0.25 / math.sqrt(5000))
    assert set(np.unique(found.draws)) <= {0, 1}


def test_columns_taken_in_blocks_stay_where_they_are():
    """One likelihood of columns 0 and 2, one of classes of column 1."""
    with seeded(0):
        product = likelihoods.Product([likelihoods.Normal(0.5, (2,)), likelihoods.Categorical(3)], [[0, 2], [1]])
        model = LatentVariableModel(priors.Normal(2), MLP((2,), (3, 3), ()), product)
        q = posteriors.DiagonalNormal(2, MLP((3,), (4,), ()))
    with torch.no_grad():
        model.decoder.layers[0].weight.zero_()
        model.decoder.layers[0].bias.copy_(torch.tensor([[4.0, 0, -5], [0, 0, 0], [0, 3, 0]]).flatten())
    rows = Rows(torch.zeros(1, 3), torch.tensor([[False, False, True]]))
    np.testing.assert_allclose(complete(model, q, rows, rng()).best, [[4, 2, 0]], atol=1e-6)
    rows = Rows(torch.ones(1, 3), torch.tensor([[True, False, False]]))
    np.testing.assert_allclose(complete(model, q, rows, rng(), refine="gibbs").best, [[1, 2, -5]], atol=1e-6)


class Informative(nn.Module):
    """Missing cells lie 10 above those that are there."""

    informative = True
    n_parameters, measure = 1, "Lebesgue"

    def __init__(self, likelihood: likelihoods.Likelihood) -> None:
        super().__init__()
        self.likelihood = self.of_values = likelihood

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.likelihood.log_prob(params, x, mask)

    def sample_missing(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return self.likelihood.sample(params, generator) + 10


def test_informative_missingness_draws_what_is_missing():
    plain, other = TRUTH.model(), TRUTH.model()
    other.likelihood = Informative(other.likelihood)
    before = complete(plain, Exact(TRUTH), ROWS, rng(), samples=20_000)
    after = complete(other, Exact(TRUTH), ROWS, rng(), samples=20_000, draws=50)
    hidden = ~MASK.numpy()
    assert np.abs((after.best - before.best)[hidden] - 10).max() < 0.1
    assert np.abs((after.draws - before.best)[:, hidden].mean(0) - 10).max() < 2
    with pytest.raises(ValueError, match="needs cells that are independent given z"):
        complete(other, Exact(TRUTH), ROWS, rng(), refine="gibbs")
    given, due = (conditional(model, Exact(TRUTH), X[0], MASK[0], 10, rng()) for model in (other, plain))
    assert torch.equal(given, due), "what is not given is not missing"


def test_what_a_row_is_given_counts():
    """p(z|c) = N(c, 1), with nothing else observed."""
    with seeded(0):
        network, decoder = MLP((1,), (2,), ()), MLP((1,), (1,), ())
        q = posteriors.DiagonalNormal(1, MLP((1,), (2,), (), context=1))
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        network.layers[0].bias.zero_()
        decoder.layers[0].weight.fill_(1)
        decoder.layers[0].bias.zero_()
    model = LatentVariableModel(priors.ConditionalNormal(1, network), decoder, likelihoods.Normal(0.1, (1,)))
    x, mask, n = torch.zeros(1), torch.zeros(1, dtype=torch.bool), 2000
    found = conditional(model, q, x, mask, n, rng(), context=torch.tensor([5.0]))
    assert abs(float(found.mean()) - 5) < 0.2


def test_what_cannot_be_answered_is_refused():
    model, q = TRUTH.model(), Exact(TRUTH)
    other = LatentVariableModel(model.prior, model.decoder, likelihoods.FullNormal((5,)).double())
    with pytest.raises(ValueError, match="FullNormal are not; use a likelihood of single values"):
        complete(other, q, ROWS, rng())
    with pytest.raises(ValueError, match="use log_likelihood for the score alone"):
        anomaly(other, q, ROWS, rng())
    with pytest.raises(ValueError, match='refine must be "hmc", "gibbs" or None'):
        complete(model, q, ROWS, rng(), refine="mala")
    with pytest.raises(ValueError, match="draws must be at least 1, or None"):
        complete(model, q, ROWS, rng(), draws=0)
    with pytest.raises(ValueError, match="samples must be at least 2"):
        Sampling(1)
    classes, theirs = discrete()
    rows = Rows(torch.zeros(1, 3).double(), torch.tensor([[True, False, True]]), dtype=torch.float64)
    with pytest.raises(ValueError, match="latent 'z' is a Categorical; use refine=\"gibbs\" or refine=None"):
        complete(classes, theirs, rows, rng())


def test_rows_without_holes_are_left_alone():
    def never(*_):
        raise AssertionError("asked")

    model = TRUTH.model()
    model.decode = never
    for mask in (None, torch.ones_like(MASK)):
        found = complete(model, Exact(TRUTH), Rows(X, mask, dtype=X.dtype), rng(), draws=2)
        np.testing.assert_array_equal(found.best, X.numpy())
        np.testing.assert_array_equal(found.draws, np.stack([X.numpy()] * 2))


# --- conditions ---


def far(x0: float, x1: float) -> tuple[PPCA, Tensor, Tensor]:
    """Two columns of correlation .98 and two others, and values of the first two."""
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 1.0], [-0.5, 1.0]]).double()
    of = PPCA(torch.zeros(4).double(), weight, 0.02)
    return of, torch.tensor([x0, x1, 0.0, 0.0]).double(), torch.tensor([True, True, False, False])


@pytest.mark.parametrize(
    ("x0", "x1", "unlikely", "extreme"),
    [
        (0.5, 0.4, False, False),
        (2.0, 1.9, False, False),
        (20.0, 20.0, True, True),
        (2.0, -2.0, True, False),  # each is within what the model has, but not both
    ],
)
def test_conditions_that_the_model_would_not_produce_are_told(x0, x1, unlikely, extreme):
    of, x, mask = far(x0, x1)
    found = condition(of.model(), Exact(of), x, mask, 50, rng())
    assert (found.unlikely, found.extreme.tolist()) == (unlikely, [extreme, extreme, False, False])


def test_rows_of_the_model_are_seldom_unlikely():
    """Of 60 conditions that the model itself drew, 0.006 are expected."""
    of, _, mask = far(0, 0)
    told = [condition(of.model(), Exact(of), x, mask, 5, rng(5), samples=100).unlikely for x in rows_of(of, 60)]
    assert sum(told) == 0


def test_chains_are_not_run_for_an_extrapolation(monkeypatch):
    """The same poor posterior: chains for a row of the model, and a bound on the work for another."""
    calls = []
    chain = refining.hmc
    monkeypatch.setattr(refining, "hmc", lambda *given: calls.append(1) or chain(*given))
    for value, due in ((1.0, 1), (1000.0, 0)):
        of, x, mask = far(value, value)
        found = condition(of.model(), Exact(of, 0.2, 2.0), x, mask, 50, rng(), samples=200, fit=False)
        assert (len(calls), found.unlikely) == (due, value == 1000)
        calls.clear()


@pytest.mark.parametrize(
    ("q", "fit"), [(Exact(LOW, 0.3), True), (Exact(LOW, 0.5, 0.7), True), (Exact(LOW, 0.5, 0.7), False)]
)
def test_conditional_rows_are_exact_where_q_is_poor(q, fit, monkeypatch):
    """Mean and deviation of 1,000 rows by Gaussian conditioning; by q's weights alone, the mutant, they are not."""
    x, mask, n = rows_of(LOW, 1, seed=4)[0], torch.tensor([True, True, True, False, False, False]), 1000

    def is_exact() -> bool:
        drawn = condition(LOW.model(), q, x, mask, n, rng(), samples=300, fit=fit).rows[:, ~mask]
        mean, covariance, _ = conditioned(LOW, x, mask)
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (drawn - mean).T, upper=False).T
        return is_standard(white)

    assert is_exact()
    monkeypatch.setattr(Sampling, "tries", property(lambda how: (how.samples,)))
    monkeypatch.setattr(
        "lowerbound.queries.completion.too_few", lambda part, how, first=False: torch.zeros(1, dtype=torch.bool)
    )
    assert not is_exact()


@pytest.mark.parametrize("q", [Exact(LOW, 0.5), Exact(LOW, 0.5, 0.7), Exact(LOW, blind=True)])
def test_scores_are_exact_where_q_is_poor(q, monkeypatch):
    x = rows_of(LOW, 40, seed=4)
    mask = torch.tensor([True, True, True, True, False, False]).expand(40, -1)
    due = np.array([-conditioned(LOW, row, seen)[2] for row, seen in zip(x, mask, strict=True)])
    found = anomaly(LOW.model(), q, Rows(x, mask, dtype=x.dtype), rng(), 4000)
    np.testing.assert_allclose(found.score, due, atol=0.3)
    assert np.sqrt(np.mean((found.score - due) ** 2)) < 0.1
    np.testing.assert_allclose(found.cells.sum(1) + found.latent, found.score, atol=1e-9)
    monkeypatch.setattr(Sampling, "tries", property(lambda how: (how.samples,)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = anomaly(LOW.model(), q, Rows(x, mask, dtype=x.dtype), rng(), 1000)
    assert np.sqrt(np.mean((alone.score - due) ** 2)) > 0.1


def test_scores_that_stay_rough_are_counted(monkeypatch):
    monkeypatch.setattr(proposals, "fits", lambda target: False)
    rows = Rows(rows_of(LOW, 5, seed=4), dtype=torch.float64)
    with pytest.warns(UserWarning, match="fewer than 50 effective draws for 5 of 5 rows"):
        anomaly(LOW.model(), Exact(LOW, 0.1, 9.0), rows, rng(), 30)
