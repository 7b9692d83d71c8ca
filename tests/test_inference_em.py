"""EM with an exact E-step: against scikit-learn, its own formulas in NumPy, and the gradient of log p(x)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture

import lowerbound as lb
from lowerbound import recipes
from lowerbound.inference import exact_posterior
from lowerbound.inference.em import ExactEM, GradientEM
from lowerbound.likelihoods import Bernoulli, Categorical, CholeskyNormal, Normal
from lowerbound.nn import MLP, Table

ROWS, WIDTH, GROUPS = 203, 3, 3
KINDS = {"spherical": "spherical", "diagonal": "diag", "full": "full"}


def grouped() -> np.ndarray:
    """Rows of three groups of correlated values that overlap, far from 0 and in different units."""
    random = np.random.default_rng(0)
    group = random.integers(0, GROUPS, ROWS)
    centres, mix = 3 * random.normal(size=(GROUPS, WIDTH)), random.normal(size=(GROUPS, WIDTH, WIDTH))
    x = centres[group] + np.einsum("nij,nj->ni", mix[group], random.normal(size=(ROWS, WIDTH)))
    return 20 + x * [1.0, 3.0, 0.5]


def factors() -> np.ndarray:
    """Rows of two factors, with noise of a different size for each value."""
    random = np.random.default_rng(1)
    x = random.normal(size=(ROWS, 2)) @ random.normal(size=(2, 6))
    return 5 + x + random.normal(size=(ROWS, 6)) * np.linspace(0.5, 1.0, 6)


def classes() -> np.ndarray:
    random = np.random.default_rng(2)
    p = random.dirichlet(np.ones(4), (2, 5))
    group = (random.random(ROWS) < 0.4).astype(int)
    return np.array([[random.choice(4, p=q) for q in p[g]] for g in group], float)


def with_missing(x: np.ndarray, share: float = 0.2) -> np.ndarray:
    x = x.copy()
    x[np.random.default_rng(3).random(x.shape) < share] = np.nan
    return x


def fitted(model: lb.LatentVariableModel, x: np.ndarray, epochs: int, batch_size: int = 20, **more) -> list[float]:
    """The objective in each epoch."""
    rows = lb.data.Rows.from_array(x, dtype=torch.float64)
    settings = {"validation": 0} | more
    history = lb.fit(model, rows, lb.EM(), epochs=epochs, batch_size=batch_size, **settings).history
    return [record["train_objective"] for record in history.records]


def start_of(model: lb.LatentVariableModel) -> dict[str, np.ndarray]:
    """Weights, means and precisions of a mixture of normals, as scikit-learn takes them."""
    with torch.no_grad():
        params, likelihood = model.decoder.values.unsqueeze(1), model.likelihood
        if isinstance(likelihood, CholeskyNormal):
            factor = likelihood.spread.unsqueeze(1) * likelihood._factor(params)[:, 0]
            precisions = np.linalg.inv((factor @ factor.mT).numpy())
        else:
            precisions = likelihood.sigma(params)[:, 0].pow(-2).numpy()
            precisions = precisions[:, 0] if likelihood.scale == "row" else precisions
        means, weights = likelihood.mean(params)[:, 0].numpy(), model.prior.logits[0].softmax(0).numpy()
    return {"weights_init": weights, "means_init": means, "precisions_init": precisions}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gaussian_mixture_ends_where_scikit_learns_does_from_the_same_start(kind):
    x = grouped()
    model = recipes.gaussian_mixture(x, GROUPS, kind)
    oracle = GaussianMixture(
        GROUPS, covariance_type=KINDS[kind], tol=1e-10, reg_covar=0, max_iter=1000, **start_of(model)
    )
    oracle.fit(x)
    objective = fitted(model, x, epochs=150)
    assert np.diff(objective).min() > -1e-9
    assert objective[-1] > objective[0] + 0.1
    assert objective[-1] == pytest.approx(oracle.score(x), abs=1e-4)
    found = start_of(model)
    np.testing.assert_allclose(found["weights_init"], oracle.weights_, atol=1e-3)
    np.testing.assert_allclose(found["means_init"], oracle.means_, atol=0.01)
    np.testing.assert_allclose(found["precisions_init"], oracle.precisions_, rtol=0.02, atol=1e-3)


def test_factor_analysis_ends_where_scikit_learns_does():
    x = factors()
    objective = fitted(recipes.factor_analysis(x, 2), x, epochs=500, batch_size=50)
    oracle = FactorAnalysis(2, svd_method="lapack", tol=1e-9, max_iter=10_000).fit(x)
    assert np.diff(objective).min() > -1e-9
    assert objective[-1] == pytest.approx(oracle.score(x), abs=1e-4)


def test_probabilistic_pca_ends_where_scikit_learns_does():
    x = factors()
    model = recipes.probabilistic_pca(x, 2)
    objective = fitted(model, x, epochs=300, batch_size=50)
    assert np.diff(objective).min() > -1e-9
    assert objective[-1] == pytest.approx(PCA(2).fit(x).score(x), abs=1e-4)
    left = np.linalg.eigvalsh(np.cov(x.T, ddof=0))[:-2].mean()
    assert float(model.likelihood.sigma().detach()) ** 2 == pytest.approx(left, rel=1e-4)


def test_a_categorical_mixture_takes_the_steps_of_its_formulas():
    x = classes()
    model = recipes.categorical_mixture(x, 2)
    weight = model.prior.logits[0].softmax(0).detach().numpy()
    p = model.decoder.values.softmax(1).detach().numpy()  # [S, C, D]
    objective = fitted(model, x, epochs=10)
    one_hot = (x[:, None] == np.arange(4)[:, None]).astype(float)  # [N, C, D]
    for value in objective:
        log_joint = np.log(weight) + np.einsum("ncd,scd->ns", one_hot, np.log(p))
        log_p = scipy.special.logsumexp(log_joint, 1)
        assert value == pytest.approx(log_p.mean(), abs=1e-9)
        shares = np.exp(log_joint - log_p[:, None])
        weight, p = shares.mean(0), np.einsum("ns,ncd->scd", shares, one_hot) / shares.sum(0)[:, None, None]
        p = p.clip(1e-10)
    np.testing.assert_allclose(model.prior.logits[0].softmax(0).detach(), weight, rtol=1e-9)
    np.testing.assert_allclose(model.decoder.values.softmax(1).detach(), p, rtol=1e-8, atol=1e-12)
    assert np.diff(objective).min() > -1e-9


def by_scipy(model: lb.LatentVariableModel, x: np.ndarray) -> np.ndarray:
    """log p(x) of the observed values of a linear normal model."""
    likelihood, layer = model.likelihood, model.decoder.layers[0]
    with torch.no_grad():
        weight = (likelihood.spread.unsqueeze(1) * layer.weight).numpy()
        mean = (likelihood.shift + likelihood.spread * layer.bias).numpy()
        covariance = weight @ weight.T + np.diag(likelihood.sigma().expand(len(mean)).numpy() ** 2)
    found = []
    for row in x:
        seen = ~np.isnan(row)
        own = mean[seen], covariance[np.ix_(seen, seen)]
        found.append(scipy.stats.multivariate_normal(*own).logpdf(row[seen]) if seen.any() else 0.0)
    return np.array(found)


MISSING = {
    "factor analysis": (factors, partial(recipes.factor_analysis, latent_dim=2)),
    "probabilistic PCA": (factors, partial(recipes.probabilistic_pca, latent_dim=2)),
    "spherical": (grouped, partial(recipes.gaussian_mixture, components=3, covariance="spherical")),
    "diagonal": (grouped, partial(recipes.gaussian_mixture, components=3, covariance="diagonal")),
    "classes": (classes, partial(recipes.categorical_mixture, components=2)),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_values_are_integrated_out(case):
    """log p(x) never falls, and at the end its gradient is 0 in every parameter."""
    data, make = MISSING[case]
    x = with_missing(data())
    x[3] = np.nan  # a row of which nothing is observed
    model = make(x)
    objective = fitted(model, x, epochs=600, batch_size=70)
    assert np.diff(objective).min() > -1e-9
    rows = lb.data.Rows.from_array(x, dtype=torch.float64)
    procedure = lb.EM().start(model, rows)
    batch = rows.batch(torch.arange(len(x)), torch.full((len(x),), 1 / len(x), dtype=torch.float64))
    log_p = procedure.evaluate(procedure.state, batch, torch.empty(0), {})["objective_of_rows"]
    if case in ("factor analysis", "probabilistic PCA"):
        np.testing.assert_allclose(log_p.detach(), by_scipy(model, x), atol=1e-8)
    gradient = torch.autograd.grad(log_p.mean(), list(model.parameters()))
    assert max(float(each.abs().max()) for each in gradient) < 2e-4
    assert float(log_p[3].detach()) == pytest.approx(0, abs=1e-9)


def bits() -> lb.LatentVariableModel:
    """Two binary latents, a linear decoder and one learned σ per value."""
    with lb.nn.seeded(1):
        decoder = MLP((2,), (WIDTH,), ())
    model = lb.LatentVariableModel(lb.priors.Bernoulli(2), decoder, Normal("dimension", (WIDTH,))).double()
    model.initialise(torch.tensor(grouped()))
    return model


def test_binary_latents_with_a_linear_decoder_have_a_closed_form():
    x, model = grouped(), bits()
    objective = fitted(model, x, epochs=300, batch_size=70)
    assert np.diff(objective).min() > -1e-9
    assert objective[-1] > objective[0] + 0.5
    states = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]).double().unsqueeze(1).expand(-1, len(x), -1)
    log_p = model.log_joint(states, torch.tensor(x)).logsumexp(0).mean()
    gradient = torch.autograd.grad(log_p, list(model.parameters()))
    assert max(float(each.abs().max()) for each in gradient) < 1e-3


@pytest.mark.parametrize("case", ["table", "linear"])
def test_the_size_of_a_batch_changes_nothing(case):
    """203 rows in batches of 20: the last is padded with rows of weight 0, which add nothing to the sums."""
    x = grouped()
    make = partial(recipes.gaussian_mixture, x, 3) if case == "table" else partial(recipes.factor_analysis, x, 2)
    some, whole = make(), make()
    fitted(some, x, 5, batch_size=20)
    fitted(whole, x, 5, batch_size=len(x))
    for ours, theirs in zip(some.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


# --- M-steps by gradient ---


def net() -> lb.LatentVariableModel:
    """A binary latent and a class in a decoder with hidden units."""
    with lb.nn.seeded(0):
        decoder = MLP((1, 3), (4,), (5,))
    return lb.LatentVariableModel(lb.priors.Categorical(1, 3), decoder, Bernoulli()).double()


def test_a_decoder_with_hidden_units_takes_the_gradient_of_log_p():
    x = (torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    model, same = net(), net()
    inference = lb.EM(learning_rate=0.1, optimizer=torch.optim.SGD)
    rows = lb.data.Rows(x, dtype=torch.float64)
    assert isinstance(inference.start(model, rows), GradientEM)
    lb.fit(model, rows, inference, epochs=1, batch_size=50, validation=0)
    states = torch.eye(3).double().view(3, 1, 1, 3).expand(-1, 50, -1, -1)
    log_p = same.log_joint(states, x).logsumexp(0).mean()
    for before, after in zip(same.parameters(), model.parameters(), strict=True):
        (slope,) = torch.autograd.grad(log_p, before, retain_graph=True)
        torch.testing.assert_close(after - before, 0.1 * slope, rtol=1e-9, atol=1e-12)


def test_it_learns_by_gradient_with_held_out_rows():
    x = (torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) < 0.1).double()
    rows = lb.data.Rows(x, dtype=torch.float64)
    records = lb.fit(net(), rows, lb.EM(learning_rate=0.05), epochs=15, batch_size=30).history.records
    assert records[-1]["valid_objective"] > records[0]["valid_objective"] + 0.1


def test_parameters_that_are_not_learned_stay():
    x = grouped()
    model = recipes.gaussian_mixture(x, 2, "diagonal")
    model.prior.logits.requires_grad_(False)
    before, values = model.prior.logits.clone(), model.decoder.values.detach().clone()
    fitted(model, x, 2)
    assert torch.equal(model.prior.logits, before)
    assert not torch.equal(model.decoder.values, values)


# --- the procedure ---


def test_the_objective_of_held_out_rows_is_their_log_p():
    x = grouped()
    model = recipes.gaussian_mixture(x, 3)
    objective = fitted(model, x, 3, validation=x)
    record = lb.fit(model, lb.data.Rows.from_array(x, dtype=torch.float64), lb.EM(), epochs=1, validation=0).history
    assert objective[-1] < record.records[0]["train_objective"]
    start = start_of(recipes.gaussian_mixture(x, 3))
    found = [
        scipy.stats.multivariate_normal(mean, np.linalg.inv(precision)).logpdf(x) + math.log(weight)
        for weight, mean, precision in zip(*start.values(), strict=True)
    ]
    assert objective[0] == pytest.approx(scipy.special.logsumexp(found, 0).mean(), abs=1e-9)


def test_a_model_in_single_precision_is_learnt_too():
    x = grouped()
    model = recipes.gaussian_mixture(x, 3).float()
    history = lb.fit(model, x.astype(np.float32), lb.EM(), epochs=100, validation=0).history
    double = fitted(recipes.gaussian_mixture(x, 3), x, 100)
    assert history.records[-1]["train_objective"] == pytest.approx(double[-1], abs=1e-3)


def test_a_component_that_no_row_belongs_to_keeps_its_parameters():
    x = grouped()
    model = recipes.gaussian_mixture(x, 3, "diagonal")
    with torch.no_grad():
        model.prior.logits[0, 1] = -2000.0
        values = model.decoder.values[1].clone()
    fitted(model, x, 1)
    assert torch.equal(model.decoder.values[1], values)
    assert bool(model.prior.logits.isfinite().all())


@pytest.mark.parametrize("case", MISSING)
def test_a_column_of_which_nothing_is_observed_changes_nothing(case):
    data, make = MISSING[case]
    x = data()
    x[:, 1] = np.nan
    objective, rest = (fitted(make(each), each, 10) for each in (x, np.delete(x, 1, 1)))
    assert np.diff(objective).min() > -1e-9
    assert math.isfinite(objective[-1])
    if case in ("diagonal", "spherical"):  # whose starts do not depend on the width
        np.testing.assert_allclose(objective, rest, atol=1e-9)


def test_values_that_do_not_vary_reach_the_floor():
    x = np.repeat(grouped()[:2], 30, 0)
    model = recipes.gaussian_mixture(x, 2, "full")
    objective = fitted(model, x, 30)
    assert np.diff(objective).min() > -1e-9
    assert math.isfinite(objective[-1])


def test_what_it_cannot_do_exactly_it_refuses():
    model = lb.LatentVariableModel(lb.priors.Normal(2), MLP((2,), (3,), (4,)), Normal(1.0))
    with pytest.raises(ValueError, match=r"EM needs an exact p\(z\|x\): .*; use MonteCarloEM or AEVB for this model"):
        lb.fit(model, grouped(), lb.EM())


def test_procedures_by_model():
    x = grouped()
    rows, gaps = (lb.data.Rows.from_array(each, dtype=torch.float64) for each in (x, with_missing(x)))
    full = recipes.gaussian_mixture(x, 2)
    assert isinstance(lb.EM().start(full, rows), ExactEM)
    assert isinstance(lb.EM().start(full, gaps), GradientEM)  # full covariances of rows with missing values
    tied = lb.LatentVariableModel(lb.priors.Categorical(1, 2), Table(2, (WIDTH,)), Normal("scalar", (WIDTH,))).double()
    assert isinstance(lb.EM().start(tied, rows), ExactEM)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: recipes.gaussian_mixture(grouped(), 0), "components must be from 1 to the 203 rows, got 0"),
        (lambda: recipes.gaussian_mixture(grouped(), 2, "tied"), 'give "spherical", "diagonal" or "full"'),
    ],
)
def test_recipes_refuse_in_a_sentence(make, why):
    with pytest.raises(ValueError, match=why):
        make()


# --- p(z|x) after a fit ---


@pytest.mark.parametrize("case", MISSING)
def test_the_exact_posterior_leaves_no_gap(case):
    data, make = MISSING[case]
    x = with_missing(data())[:40]
    model = make(x)
    rows = lb.data.Rows.from_array(x, dtype=torch.float64)
    q = exact_posterior(model)
    assert not list(q.parameters())
    found = lb.log_likelihood(model, q, rows, samples=20)
    procedure = lb.EM().start(model, rows)
    batch = rows.batch(torch.arange(40), torch.full((40,), 1 / 40, dtype=torch.float64))
    log_p = procedure.evaluate(procedure.state, batch, torch.empty(0), {})["objective_of_rows"]
    np.testing.assert_allclose(found.estimate, log_p.detach(), atol=1e-4)
    assert found.standard_error.max() < 1e-4
    states = model.prior_given().states()
    if states is not None:
        mean = q(batch.x, batch.mask).mean().detach()
        shares = model.log_joint(states.unsqueeze(1).expand(-1, 40, -1, -1), batch.x, batch.mask).softmax(0).detach()
        torch.testing.assert_close(mean[:, 0], shares.T)


def test_the_exact_posterior_of_a_bit_is_that_of_its_states():
    x = torch.tensor(grouped())
    with lb.nn.seeded(0):
        decoder = MLP((1,), (WIDTH,), (4,))
    model = lb.LatentVariableModel(lb.priors.Bernoulli(1), decoder, Normal(5.0)).double()
    states = torch.tensor([0.0, 1.0]).double().view(2, 1, 1).expand(-1, len(x), 1)
    log_joint = model.log_joint(states, x)
    torch.testing.assert_close(exact_posterior(model)(x).mean()[:, 0], log_joint.softmax(0)[1])
    with pytest.raises(ValueError, match="has no closed form in this model: exact_posterior takes one categorical"):
        exact_posterior(bits())


# --- parts that came with it ---


FAMILIES = [Bernoulli(), Categorical(4), Normal("entry"), Normal("row", (3,)), CholeskyNormal((3,))]


@pytest.mark.parametrize("likelihood", FAMILIES, ids=repr)
def test_the_parameters_of_maximum_likelihood_are_where_the_gradient_is_0(likelihood):
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, likelihood.n_values or 100, (40, 3), generator=random).double()
    mask = None if isinstance(likelihood, CholeskyNormal) else torch.rand(40, 3, generator=random) < 0.8
    weight = torch.rand(2, 40, generator=random).double()
    likelihood = likelihood.double()
    likelihood.initialise(x, mask)
    statistics = likelihood.statistics(x if mask is None else torch.where(mask, x, torch.nan), mask)
    params = likelihood.maximised(torch.tensordot(weight, statistics, 1)).unsqueeze(1).requires_grad_()
    log_prob = likelihood.log_prob(params.expand(-1, 40, -1, -1), x, mask)
    by_statistics = likelihood.natural(params[:, 0]).flatten(1) @ statistics.flatten(1).T
    torch.testing.assert_close(by_statistics, log_prob, rtol=1e-9, atol=1e-9)
    value = (weight * log_prob).sum()
    (slope,) = torch.autograd.grad(value, params)
    assert float(slope.abs().max()) < 1e-8


def test_a_table_is_linear_and_starts_around_the_bias():
    table = Table(3, (2, 4))
    table.init_bias(torch.ones(2, 4))
    torch.testing.assert_close(table.values.mean(0), torch.ones(2, 4))
    assert torch.equal(table(torch.eye(3).unsqueeze(1)), table.values)
    assert float(table.values.detach().std(0).min()) > 0
