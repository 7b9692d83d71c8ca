"""A row's answer depends on no other row: any partition and any order of a table give the same bytes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import lowerbound as lb
from lowerbound import likelihoods
from lowerbound.data import Rows
from lowerbound.queries import complete, posterior_sampling
from lowerbound.queries.denoising import Gaussian, denoise
from lowerbound.queries.row_streams import RowStreams

N = 150


def table(seed: int, n: int = N) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    z = random.normal(size=n)
    frame = pd.DataFrame(
        {
            "length": z + 0.3 * random.normal(size=n),
            "width": 2 - z + 0.5 * random.normal(size=n),
            "count": random.poisson(np.exp(0.5 * z + 3)).astype(float),
            "group": (z + 0.5 * random.normal(size=n) > 0).astype(float),
        }
    )
    return frame.mask(random.random(frame.shape) < 0.3)


@pytest.fixture(scope="module")
def vae() -> lb.VAE:
    return lb.VAE(2, hidden=(16,), epochs=15, schema={"count": "count"}, random_state=0).fit(table(0))


ASKED = {
    "best": lambda vae, x: vae.impute(x, samples=50),
    "draws": lambda vae, x: vae.impute(x, 2, samples=50, refine=False)[1],
    "scores": lambda vae, x: pd.DataFrame({"score": vae.anomaly(x, samples=100).score}, index=x.index),
    "cells": lambda vae, x: vae.anomaly(x, samples=100).cells,
}


@pytest.mark.filterwarnings("ignore:importance sampling has")
@pytest.mark.parametrize("asked", ASKED)
def test_any_partition_and_any_order_give_the_same_bytes(vae, asked):
    ask, x = ASKED[asked], table(1).drop_duplicates()
    whole = ask(vae, x)
    shuffled = ask(vae, x.sample(frac=1, random_state=0)).loc[x.index]
    halves = pd.concat([ask(vae, x.iloc[:71]), ask(vae, x.iloc[71:])])
    alone = pd.concat([ask(vae, x.iloc[[row]]) for row in (0, 100)])
    pd.testing.assert_frame_equal(shuffled, whole, check_exact=True)
    pd.testing.assert_frame_equal(halves, whole, check_exact=True)
    pd.testing.assert_frame_equal(alone, whole.iloc[[0, 100]], check_exact=True)


def mixed(draws: int | None = None, **options):
    """Answers of ``denoise`` for noisy rows of normals, bits and classes; some of the normals are missing."""
    product = likelihoods.Product(
        [likelihoods.Normal("dimension", shape=(2,)), likelihoods.Bernoulli(), likelihoods.Categorical(3)],
        [[0, 1], [2, 3], [4]],
    )
    with lb.nn.seeded(0):
        decoder, encoder = lb.nn.MLP((2,), (3, 5), (16,)), lb.nn.MLP((5,), (4,), (16,))
        model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, product)
    y = model.sample(N, torch.Generator().manual_seed(1)).detach()
    y[:, :2] += 0.5 * torch.randn(N, 2, generator=torch.Generator().manual_seed(2))
    y[::4, 0], y[1::4, 1] = torch.nan, torch.nan  # no row lacks both: it could equal another
    posterior = lb.posteriors.DiagonalNormal(2, encoder)

    def ask(rows) -> dict[str, np.ndarray]:
        rng = torch.Generator().manual_seed(0)
        found = vars(denoise(model, posterior, y[list(rows)], Gaussian(0.5), rng, draws=draws, **options))
        return {
            name: np.moveaxis(each, 1, 0) if name == "draws" else each
            for name, each in found.items()
            if each is not None
        }

    return ask


@pytest.mark.filterwarnings("ignore:.* rows have too few effective draws")
@pytest.mark.parametrize("draws", [None, 3])
def test_any_partition_and_any_order_of_noisy_rows_give_the_same_bytes(draws):
    ask = mixed(draws, samples=60, refine=False)
    order = np.random.default_rng(0).permutation(N)
    whole, shuffled, parts = ask(range(N)), ask(order), [ask(range(71)), ask(range(71, N))]
    alone = [ask([0]), ask([100])]
    assert ("draws" in whole) == (draws is not None)
    for name, values in whole.items():
        np.testing.assert_array_equal(shuffled[name], values[order])
        np.testing.assert_array_equal(np.concatenate([each[name] for each in parts]), values)
        np.testing.assert_array_equal(np.concatenate([each[name] for each in alone]), values[[0, 100]])


@pytest.mark.filterwarnings("ignore:.* chains that have not converged")
def test_chains_of_a_noisy_row_do_not_depend_on_the_others(monkeypatch):
    monkeypatch.setattr(posterior_sampling.refining, "_WARM_UP", 4)
    monkeypatch.setattr(posterior_sampling.refining, "_SETTLE", 2)
    every = torch.ones_like
    monkeypatch.setattr(
        posterior_sampling, "too_few", lambda part, how, first=False: every(part.totals[2], dtype=torch.bool)
    )
    ask = mixed(3, samples=20)
    whole, backwards, some = ask(range(20)), ask(range(19, -1, -1)), ask(range(5, 12))
    assert whole["refined"].all()
    for name, values in whole.items():
        np.testing.assert_array_equal(backwards[name][::-1], values)
        np.testing.assert_array_equal(some[name], values[5:12])


@pytest.mark.filterwarnings("ignore:importance sampling has")
def test_one_generator_for_all_rows_is_seen(vae, monkeypatch):
    """The mutant numbers rows by their place."""
    monkeypatch.setattr(
        RowStreams,
        "of",
        classmethod(lambda cls, rows, rng, apart=False: cls([b"%d" % i for i in range(len(rows))], rows.device)),
    )
    x = table(1)
    whole, half = vae.impute(x, samples=50), vae.impute(x.iloc[71:], samples=50)
    assert (whole.iloc[71:]["length"] != half["length"]).any()


@pytest.mark.filterwarnings("ignore:importance sampling has")
def test_chains_of_a_row_do_not_depend_on_the_others(vae, monkeypatch):
    monkeypatch.setattr(posterior_sampling.refining, "_WARM_UP", 4)
    monkeypatch.setattr(posterior_sampling.refining, "_SETTLE", 2)
    every = torch.ones_like
    monkeypatch.setattr(
        posterior_sampling, "too_few", lambda part, how, first=False: every(part.totals[2], dtype=torch.bool)
    )
    x = table(1).dropna(how="all").drop_duplicates().iloc[:20]
    values = vae.schema_.standardise(vae.schema_.encode(x).values).astype(np.float32)
    rows = Rows.from_array(np.nan_to_num(values), ~np.isnan(values))
    for refine in ("hmc", "gibbs"):
        found = [
            complete(
                vae.model_,
                vae.posterior_,
                rows.subset(torch.tensor(some)),
                torch.Generator().manual_seed(0),
                draws=3,
                samples=20,
                refine=refine,
            )
            for some in (range(20), range(19, -1, -1), range(5, 12))
        ]
        assert found[0].refined.any()
        np.testing.assert_array_equal(found[1].draws[:, ::-1], found[0].draws)
        np.testing.assert_array_equal(found[2].draws, found[0].draws[:, 5:12])


def test_equal_rows_have_equal_best_values_and_draws_of_their_own(vae):
    x = pd.concat([table(1).iloc[[0, 1, 2]]] * 60, ignore_index=True)
    x["length"] = np.nan
    best, drawn = vae.impute(x, samples=100), vae.impute(x, 1, samples=100, refine=False)[0]
    for row in range(3):
        assert best["length"][row::3].nunique() == 1
        values = drawn["length"][row::3].to_numpy()
        assert len(np.unique(values)) > 55
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4.5 / np.sqrt(60)
    alone = vae.impute(x.iloc[:3], 1, samples=100, refine=False)[0]
    pd.testing.assert_frame_equal(alone, drawn.iloc[:3], check_exact=True)


def test_streams_of_rows_are_independent_and_uniform():
    from scipy import stats

    rows = Rows.from_array(np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32))
    streams = RowStreams.of(rows, torch.Generator().manual_seed(0))
    normal = torch.stack([torch.randn(400, generator=own) for own in streams.generators("z").rows]).numpy()
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-4
    correlation = np.corrcoef(normal)[np.triu_indices(500, 1)] * np.sqrt(400)
    assert stats.kstest(correlation, "norm").pvalue > 1e-4
    assert stats.kstest(streams.uniform(50, 0).ravel(), "uniform").pvalue > 1e-4


@pytest.mark.filterwarnings("ignore")
def test_the_imputer_gives_what_its_model_gives():
    x, new = table(0), table(2)
    imputer = lb.LatentImputer(2, hidden=(16,), epochs=15, random_state=0).fit(x)
    pd.testing.assert_frame_equal(imputer.transform(new), imputer.model_.impute(new), check_exact=True)


def test_the_first_rows_of_partial_fit_do_not_choose_the_objective():
    with_missing, without = table(0), table(3).dropna()
    found = []
    for first, second in ((with_missing, without), (without, with_missing)):
        vae = lb.VAE(2, hidden=(4,), schema=lb.schema.infer(pd.concat([with_missing, without])), random_state=0)
        found.append((vae.partial_fit(first).objective_, vae.partial_fit(second).objective_))
    assert found == [("iwae", "iwae")] * 2


def test_keys_of_equal_rows():
    rows = Rows.from_array(np.zeros((3, 2), np.float32))
    keys = RowStreams.of(rows, torch.Generator().manual_seed(0)).keys
    apart = RowStreams.of(rows, torch.Generator().manual_seed(0), apart=True).keys
    assert len(set(keys)) == 1
    assert len(set(apart)) == 3
    assert apart[0] == keys[0]
