"""A table of mixed columns with holes, from a frame to a model and back, by the parts that are there for it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import batch_of, rng
from scipy import stats

import lowerbound as lb
from lowerbound import queries, schema
from lowerbound.data import Rows
from lowerbound.estimators.table_networks import cells_of, family_of, product_of, table_networks
from lowerbound.model import draw
from lowerbound.nn import Cells, Chain, seeded


def people(n: int = 400, missing: float = 0.2) -> pd.DataFrame:
    """Columns of each kind that hang together, with cells missing at random."""
    random = np.random.default_rng(0)
    z = random.normal(size=n)
    frame = pd.DataFrame(
        {
            "age": np.round(40 + 10 * z + random.normal(size=n), 1),
            "income": np.exp(10 + z + 0.3 * random.normal(size=n)),
            "visits": random.poisson(np.exp(1 + 0.7 * z)),
            "member": np.where(z + 0.5 * random.normal(size=n) > 0, "yes", "no"),
            "city": np.where(z > 0.5, "Bonn", np.where(z < -0.5, "Ulm", "Kiel")),
            "country": "DE",
        }
    )
    frame["visits"] = frame["visits"].astype("Int64")
    for name in ("age", "income", "visits", "member", "city"):
        frame.loc[random.random(n) < missing, name] = None
    return frame


def test_cells_are_as_an_encoder_is_told():
    x = torch.tensor([[1.0, 2, 5], [3, 0, 7], [8, 1, 9]])
    mask = torch.tensor([[True, True, True], [True, True, False], [False, False, True]])
    cells = Cells((0, 3, 0), (False, False, True))
    cells.fit(x, mask)
    found = cells(torch.where(mask, x, 0), mask)
    assert found.shape == (3, cells.out_features) == (3, 1 + 3 + 1 + 3)
    torch.testing.assert_close(found[:, 0], torch.tensor([-1.0, 1.0, 0.0]))  # mean 2, deviation 1; missing: the mean
    assert found[:, 1:4].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    logs = torch.tensor([6.0, 10.0]).log()
    due = (logs - logs.mean()) / logs.std(correction=0)
    torch.testing.assert_close(found[:, 4], torch.tensor([float(due[0]), 0.0, float(due[1])]))
    assert torch.equal(found[:, 5:], mask.float())
    assert cells(x)[:, 5:].min() == 1, "without a mask all is there"


def test_what_is_missing_cannot_be_seen_by_the_posterior():
    with seeded(0):
        encoder = Chain(Cells((0, 3), (False, False)), lb.nn.MLP((6,), (4,), (8,)))
    posterior = lb.posteriors.DiagonalNormal(2, encoder)
    mask = torch.tensor([[True, False]])
    seen = [posterior(torch.tensor([[0.5, value]]), mask).loc for value in (0.0, 2.0, torch.nan)]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], posterior(torch.tensor([[0.5, 0.0]]), torch.tensor([[True, True]])).loc)


def test_each_kind_has_its_likelihood():
    found = schema.infer(people())
    kinds = {column.name: family_of(column)[0].__name__ for column in found.modelled}
    assert kinds["member"] == "Bernoulli"
    assert kinds["city"] == "Categorical"
    assert kinds["visits"] == "NegativeBinomial"
    assert kinds["income"] == "LogNormal"
    assert kinds["age"] in ("Normal", "StudentT", "LogNormal")
    assert "country" not in kinds, "a constant is kept aside"


def test_positive_numbers_have_no_scale_below_their_rounding():
    random = np.random.default_rng(1)
    wide, narrow = np.exp(3 + 0.5 * random.normal(size=(2, 500)))
    found = schema.infer(pd.DataFrame({"wide": np.round(wide, 1), "narrow": narrow}))
    product = product_of(found)
    values = torch.tensor(found.standardise(np.column_stack([np.round(wide, 1), narrow])))
    params = product.double().initialise(values).view(1, 1, -1, 2).clone()
    params[:, :, 1] = -60.0  # as narrow as the decoder can ask for
    logs = np.log(np.round(wide, 1))
    due = [0.1 / np.sqrt(12) / np.exp(logs.mean()), 1e-3 * np.log(narrow).std()]
    np.testing.assert_allclose(product.likelihoods[0].sigma(params).flatten(), due, rtol=1e-6)
    some = np.where(random.random(500) < 0.3, 0, np.round(wide, 1))
    zeros = product_of(schema.infer(pd.DataFrame({"some": some}))).likelihoods[0].double()
    zeros.initialise(torch.tensor(some / np.median(some[some > 0])).unsqueeze(1))
    zeros.above.raw_scale.data.fill_(-60.0)
    due = 0.1 / np.sqrt(12) / np.exp(np.log(some[some > 0]).mean())
    np.testing.assert_allclose(zeros.above.sigma().detach(), due, rtol=1e-6)


def test_counts_that_vary_less_than_poissons_are_drawn_so():
    """A negative binomial's draws would deviate by 2.4."""
    random = np.random.default_rng(2)
    z = random.normal(size=800)
    frame = pd.DataFrame({"grade": np.rint(6 + 0.6 * z + 0.6 * random.normal(size=800)).astype(int), "size": z})
    found = schema.infer(frame)
    assert family_of(found["grade"])[0] is lb.likelihoods.RoundedLogistic
    poisson = schema.infer(pd.DataFrame({"n": random.poisson(3, 1000)}))["n"]
    assert family_of(poisson)[0] is lb.likelihoods.NegativeBinomial, "a Poisson's own counts are no such"
    model = lb.VAE(1, hidden=(32,), epochs=40, learning_rate=5e-3, random_state=0).fit(frame)
    new = model.sample(4000)
    assert new["grade"].mean() == pytest.approx(6, abs=0.15)
    assert new["grade"].std() == pytest.approx(frame["grade"].std(), rel=0.12)
    assert new.corr().iloc[0, 1] == pytest.approx(frame.corr().iloc[0, 1], abs=0.1)
    holes = frame.assign(grade=frame["grade"].astype("Int64").where(random.random(800) < 0.7))
    error = (model.impute(holes)["grade"] - frame["grade"])[holes["grade"].isna()]
    assert float(np.sqrt((error**2).mean())) < 0.9 * frame["grade"].std(), "the best whole numbers have 0.81"


@pytest.fixture(scope="module")
def fitted():
    frame = people()
    found = schema.infer(frame)
    coded = found.encode(frame)
    values = torch.tensor(np.nan_to_num(found.standardise(coded.values)), dtype=torch.float32)
    mask = torch.tensor(coded.mask)
    with seeded(0):
        likelihood = product_of(found)
        cells, encoder, decoder = table_networks(found, 4, (2,), (32,), torch.nn.SiLU, likelihood, 0)
    cells.fit(values, mask)
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, likelihood)
    model.initialise(values, mask)
    posterior = lb.posteriors.DiagonalNormal(2, Chain(cells, encoder))
    before = bound(model, posterior, values, mask)
    inference = lb.AEVB(posterior, objective=lb.objectives.iwae, draws=10, learning_rate=5e-3)
    lb.fit(model, Rows(values, mask), inference, epochs=60, validation=0)
    return frame, found, model, posterior, values, mask, before


def bound(model, posterior, values, mask, draws=100) -> float:
    with torch.no_grad():
        return float(lb.objectives.iwae(draw(model, posterior, batch_of(values, mask), rng(), draws)).mean())


def test_a_fit_with_holes_learns_what_columns_share(fitted):
    """It starts at independent columns, each its own distribution; the bound of observed cells rises from there."""
    _, _, model, posterior, values, mask, before = fitted
    assert bound(model, posterior, values, mask) > before + 0.5


def test_draws_come_back_as_the_frame_was(fitted):
    frame, found, model, posterior, *_ = fitted
    with torch.no_grad():
        rows = model.sample(500, rng(1), None, posterior).double().numpy()
    new = found.decode(found.unstandardise(rows), generator=np.random.default_rng(0))
    assert list(new.columns) == list(frame.columns)
    assert list(new.dtypes) == list(frame.dtypes)
    assert (new["country"] == "DE").all()
    assert set(new["city"]) <= {"Bonn", "Kiel", "Ulm"}
    assert np.allclose(new["age"], new["age"].round(1)), "in the precision of the data"
    assert (new["income"] > 0).all()
    means = new.groupby("city")["age"].mean()
    assert means["Bonn"] - means["Ulm"] > 5, "what hangs together in the data does in the draws"


def test_an_all_missing_row_says_nothing(fitted):
    _, _, model, posterior, values, mask, _ = fitted
    none = torch.zeros_like(mask[:1])
    weights = draw(model, posterior, batch_of(values[:1], none), rng(), 4000).log_w.detach()
    estimate = weights.logsumexp(0) - np.log(4000)
    error = weights.exp().std(0) / weights.exp().mean(0) / np.sqrt(4000)
    assert abs(float(estimate)) < 4 * float(error) + 1e-6


def test_cells_of_a_schema_follow_its_kinds():
    found = schema.infer(people())
    cells = cells_of(found)
    by_name = dict(
        zip((column.name for column in found.modelled), zip(cells.classes, cells.log1p, strict=True), strict=True)
    )
    assert by_name["city"] == (3, False)
    assert by_name["member"] == (0, False)
    assert by_name["visits"] == (0, True)
    with pytest.raises(ValueError, match="classes of 2 columns and log1p of 1"):
        Cells((1, 2), (True,))


def observed_log_prob(x: np.ndarray, mask: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """log p of the observed cells of each row under N(mean, covariance)."""
    found = []
    for row, seen in zip(x, mask, strict=True):
        chosen = np.ix_(seen, seen)
        normal = stats.multivariate_normal(mean[seen], covariance[chosen]) if seen.any() else None
        found.append(0.0 if normal is None else float(normal.logpdf(row[seen])))
    return np.array(found)


def test_a_linear_model_trained_on_holes_reaches_the_gaussian_answers():
    """Its log p of observed cells is that of Gaussian conditioning, and so is what it says of the missing ones."""
    random = np.random.default_rng(0)
    weight, noise = random.normal(size=(5, 2)), 0.5
    x = random.normal(size=(3000, 2)) @ weight.T + 1 + noise * random.normal(size=(3000, 5))
    mask = random.random(x.shape) > 0.3
    values, seen = torch.tensor(np.where(mask, x, 0), dtype=torch.float32), torch.tensor(mask)
    with seeded(0):
        cells = Cells((0,) * 5, (False,) * 5)
        encoder, decoder = lb.nn.MLP((10,), (4,), (64,), torch.nn.SiLU), lb.nn.MLP((2,), (5,), ())
    cells.fit(values, seen)
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Normal("scalar", (5,)))
    model.initialise(values, seen)
    posterior = lb.posteriors.DiagonalNormal(2, Chain(cells, encoder))
    inference = lb.AEVB(posterior, objective=lb.objectives.iwae, draws=20, learning_rate=lb.training.Cosine(5e-3, 25))
    lb.fit(model, Rows(values[:2000], seen[:2000]), inference, epochs=25, validation=0)
    layer, own = decoder.layers[0], model.likelihood
    spread = own.spread.double().numpy()
    w = spread[:, None] * layer.weight.detach().double().numpy()
    mean = own.shift.double().numpy() + spread * layer.bias.detach().double().numpy()
    covariance = w @ w.T + float(own.sigma().detach().flatten()[0]) ** 2 * np.eye(5)
    test, there = x[2000:], mask[2000:]
    exact = observed_log_prob(test, there, mean, covariance)
    truth = observed_log_prob(test, there, np.ones(5), weight @ weight.T + noise**2 * np.eye(5))
    assert abs(exact.mean() - truth.mean()) < 0.05, "trained: as good as the model that made the data"
    rows = Rows(values[2000:], seen[2000:])
    found = lb.evidence.importance_sampling(lb.evidence.of_model(model, posterior), rows, rng(1), 500)
    assert abs(found.estimate.mean() - exact.mean()) < 0.01
    assert bound(model, posterior, values[2000:], seen[2000:], 20) == pytest.approx(exact.mean(), abs=0.05)
    best = queries.complete(model, posterior, rows, rng(2), samples=2000).best
    due = np.stack([conditional_mean(*each, mean, covariance) for each in zip(test, there, strict=True)])
    error = (best - due)[~there] / np.sqrt(np.diag(covariance)).mean()
    assert np.sqrt(np.square(error).mean()) < 0.03


def conditional_mean(x: np.ndarray, seen: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """E[x|observed cells], those themselves where observed."""
    if not seen.any():
        return mean
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    return np.where(seen, x, mean + gain @ (x[seen] - mean[seen]))
