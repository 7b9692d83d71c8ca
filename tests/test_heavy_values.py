"""Very frequent values of a table's columns: a point mass in the likelihood, a flag for the encoder, draws of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import rng

import lowerbound as lb
from lowerbound.errors import FormatError
from lowerbound.estimators.table_networks import atoms_of, cells_of, family_of, likelihood_name, product_of
from lowerbound.likelihoods import Atoms, LogNormal
from lowerbound.nn import Cells
from lowerbound.schema import Schema, infer
from lowerbound.storage import parts

N = 1500
DRAW = np.random.default_rng(3)
NORMAL, SOME, OTHERS = DRAW.normal(size=N), DRAW.random(N) < 0.3, DRAW.random(N) < 0.2
AMOUNTS, SHARES = np.exp(1 + 0.5 * NORMAL), 1 / (1 + np.exp(-NORMAL))
COUNTS, NARROW = DRAW.poisson(np.exp(2.5 + 0.5 * NORMAL)), (30 + 2 * NORMAL).round().astype(int)
RARE = np.where(DRAW.random(N) < 0.85, 0, 1 + COUNTS)
CASES: dict[str, tuple[Any, str, tuple[float, ...]]] = {
    "real": (np.where(SOME, 0.48, NORMAL), "Atoms(StudentT)", (0.48,)),
    "real, nothing frequent": (NORMAL, "StudentT", ()),
    "positive": (np.where(SOME, 7.25, AMOUNTS), "Atoms(LogNormal)", (7.25,)),
    "zeros": (np.where(SOME, 0, AMOUNTS), "ZeroInflatedLogNormal", ()),
    "zeros and others": (np.where(SOME, 0, np.where(OTHERS, 7.25, AMOUNTS)), "Atoms(LogNormal)", (0, 7.25)),
    "others and zeros": (np.where(SOME, 7.25, np.where(OTHERS, 0, AMOUNTS)), "Atoms(LogNormal)", (0, 7.25)),
    "shares": (np.where(SOME, 0.5, SHARES), "Atoms(LogitNormal)", (0, 1, 0.5)),
    "shares with ends": (np.where(SOME, 1.0, np.where(OTHERS, 0.0, SHARES)), "InflatedLogitNormal", ()),
    "counts": (np.where(SOME, 40, COUNTS), "Atoms(NegativeBinomial)", (40,)),
    "narrow counts": (np.where(SOME, 24, NARROW), "Atoms(RoundedLogistic)", (24,)),
    "zeros of counts": (np.where(SOME, 40, RARE), "Atoms(ZeroInflatedNegativeBinomial)", (40,)),
    "large counts": (np.where(SOME, 2000, 100 + 100 * COUNTS), "Atoms(LogNormal)", (2000,)),
    "two modes": (np.where(SOME, 0.48, NORMAL + 8 * OTHERS), "Atoms(Warped)", (0.48,)),
    "two modes and zeros": (np.where(SOME, 0, np.exp(NORMAL / 3 + 4 * OTHERS)), "Atoms(Warped)", (0,)),
    "shares of two modes": (np.where(SOME, 1.0, 0.1 + 0.1 * SHARES + 0.6 * OTHERS), "Atoms(Warped)", (0, 1)),
    "times": (pd.to_datetime("2020-01-01") + pd.to_timedelta(np.where(SOME, 7, 300 + COUNTS), "D"), "Warped", ()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_likelihood_has_their_point_masses(case: str) -> None:
    cells, name, atoms = CASES[case]
    schema = infer(pd.DataFrame({"x": cells}))
    (column,), (part,) = schema.modelled, product_of(schema).likelihoods
    assert (likelihood_name(column), atoms_of(column)) == (name, atoms)
    if not atoms:
        assert type(part) is family_of(column)[0]
        return
    assert isinstance(part, Atoms)
    assert type(part.base) is family_of(column)[0]
    x = torch.from_numpy(schema.standardise(schema.encode(pd.DataFrame({"x": cells})).values)).float()
    assert part.support.check(x).all()
    hits = part.hits(x).squeeze(-1)
    for k, value in enumerate(atoms):
        np.testing.assert_array_equal(hits[:, k].numpy(), np.asarray(cells) == value)


def test_columns_are_grouped_by_family_and_by_whether_they_have_point_masses() -> None:
    frame = pd.DataFrame({str(k): np.roll(CASES[name][0], k) for k, name in enumerate(CASES) if name != "times"})
    frame["more"] = np.where(SOME, -1.5, np.where(OTHERS, 3.0, NORMAL))
    schema = infer(frame)
    product = product_of(schema)
    x = torch.from_numpy(schema.standardise(schema.encode(frame).values)).float()
    assert product.support.check(x).all()
    at = product.at_atom(x).float().mean(0)
    for name, share in zip(frame, at.tolist(), strict=True):
        column = schema[name]
        zeros = {0} if family_of(column)[0].__name__ == "ZeroInflatedLogNormal" else set()
        zeros |= {0, 1} if family_of(column)[0].__name__ == "InflatedLogitNormal" else set()
        assert share == pytest.approx(frame[name].isin({*atoms_of(column), *zeros}).mean())
    block = next(own for own in product.of if 0 in own)
    assert [schema.modelled[j].name for j in block] == ["0", "more"]
    scales = {part.base.scale for part in product.likelihoods if isinstance(getattr(part, "base", None), LogNormal)}
    assert scales == {"entry", "dimension"}, "log-normals next to zeros have one scale each"
    assert product.log_prob(product.initialise(x).unsqueeze(0).unsqueeze(0).expand(1, N, -1, -1), x).isfinite().all()


@pytest.mark.parametrize("value", [0.48, 1e6 + 0.1, -7e-9, 1 / 3])
def test_a_cell_is_equal_to_its_point_mass_in_single_precision(value: float) -> None:
    cells = np.where(SOME, value, value + 0.37 * NORMAL)
    frame = pd.DataFrame({"x": cells, "y": -3 * cells})
    real = {"x": "real", "y": "real"}
    vae = lb.VAE(epochs=1, hidden=(4,), latent_dim=1, random_state=0, schema=real).fit(frame)
    likelihood, rows = vae.model_.likelihood, vae.schema_.standardise(vae.schema_.encode(frame).values)
    x = torch.tensor(rows, dtype=torch.float32)
    due = torch.from_numpy(SOME).unsqueeze(1).expand(-1, 2)
    assert torch.equal(likelihood.at_atom(x), due)
    assert torch.equal(cells_of(vae.schema_)(x)[:, 2:4] == 1, due)
    drawn = vae.sample(2000)
    for name, due_value in (("x", value), ("y", -3 * value)):
        assert 0.1 < (drawn[name] == due_value).mean() < 0.6


@pytest.mark.parametrize("case", ["real", "zeros and others", "shares"])
def test_log_p_of_a_fitted_table_sums_and_integrates_to_one(case: str, tmp_path: Any) -> None:
    """In the user's units, for p(x|z) averaged over the same draws of z; also after it is saved and loaded."""
    cells, _, atoms = CASES[case]
    vae = lb.VAE(epochs=3, hidden=(8,), latent_dim=2, random_state=0).fit(pd.DataFrame({"x": cells}))
    z = torch.randn(200, 1, 2, generator=rng(1))
    low, high = (0.0, 1.0) if case == "shares" else (-12, 12) if case == "real" else (0.0, 200.0)
    edges = np.linspace(low, high, 20_001)
    middle = (edges[1:] + edges[:-1]) / 2 + 1e-7
    vae.save(tmp_path / "run")
    for model in (vae, lb.load(tmp_path / "run")):

        def p(values: Any, model: Any = model) -> Any:
            coded = model.schema_.standardise(np.asarray(values, float)[:, None])
            x = torch.tensor(coded, dtype=torch.float32)
            with torch.no_grad():
                params = model.model_.decode(z.to(torch.float32), None).expand(-1, len(x), -1, -1)
                return model.model_.likelihood.log_prob_per_value(params, x).exp().mean(0).squeeze(1).numpy()

        masses, density = p(atoms), p(middle)
        for mass, value in zip(masses, atoms, strict=True):
            assert mass == pytest.approx((cells == value).mean(), abs=0.1)
        assert density.sum() * (edges[1] - edges[0]) + masses.sum() == pytest.approx(1, abs=2e-3)


def test_the_encoder_has_a_flag_for_each() -> None:
    cells = Cells((0, 3, 0), (False, False, True), [(0.5, -1.0), (), (2.0,)])
    assert cells.out_features == 1 + 3 + 1 + 3 + 3
    x = torch.tensor([[0.5, 1.0, 2.0], [-1.0, 2.0, 0.5], [0.5, 0.0, 2.0]])
    mask = torch.tensor([[True, True, True], [True, True, True], [False, True, False]])
    assert cells(x, mask)[:, 5:8].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert torch.equal(cells(x, mask)[:, 8:], mask.float())
    assert parts.decode(parts.encode(cells), {}).atoms == cells.atoms
    assert torch.equal(Cells((0, 3, 0), (False, False, True))(x, mask), cells(x, mask)[:, [0, 1, 2, 3, 4, 8, 9, 10]])
    with pytest.raises(ValueError, match="give one of each per column"):
        Cells((0, 0), (False, False), [(1.0,)])


@pytest.mark.parametrize("missing", ["at_random", "self_masking"])
def test_a_table_with_them_is_learned_and_drawn(missing: str) -> None:
    frame = pd.DataFrame({name: CASES[name][0] for name in ("real", "counts", "zeros and others", "shares")})
    frame = frame.mask(np.random.default_rng(1).random(frame.shape) < 0.1).head(600)
    vae = lb.VAE(epochs=3, random_state=0, missing=missing).fit(frame)
    drawn = vae.sample(3000)
    for name in frame:
        for value in atoms_of(vae.schema_[name]):
            due = (frame[name].dropna() == value).mean()
            assert (drawn[name] == value).mean() == pytest.approx(due, abs=0.08)
    few = frame.head(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rows with few effective draws
        filled = vae.impute(few)
    assert filled.notna().all(axis=None)
    pd.testing.assert_frame_equal(filled.where(few.notna()), few)
    assert np.isfinite(vae.score_samples(few)).all()


def test_a_schema_keeps_them_and_older_ones_have_none() -> None:
    schema = infer(pd.DataFrame({"x": CASES["real"][0]}))
    found = schema.as_dict()
    assert Schema.from_json(schema.to_json()) == schema
    del found["columns"][0]["heavy"]
    assert Schema.from_dict(found)["x"].heavy == ()
    found["columns"][0]["heavy"] = [0.48, 1e9]
    with pytest.raises(FormatError, match=r"its heavy values are .* not all in its range"):
        Schema.from_dict(found)


def test_the_working_hours_of_adult_are_drawn_as_often_as_they_occur() -> None:
    draw = np.random.default_rng(0)
    hours = np.where(draw.random(2000) < 0.467, 40, draw.normal(40, 14, 2000).round().clip(1, 99)).astype(int)
    frame = pd.DataFrame({"hours": hours, "age": draw.integers(17, 90, 2000)})
    drawn = lb.VAE(random_state=0, epochs=5).fit(frame).sample(5000)
    assert (drawn["hours"] == 40).mean() == pytest.approx((hours == 40).mean(), abs=0.06)
