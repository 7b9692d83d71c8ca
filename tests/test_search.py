"""A search among candidates: by hand, killed and resumed, with too little time."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from click import UsageError
from sklearn.base import clone

import lowerbound as lb
from lowerbound import inference
from lowerbound.cli.fit import refuse_to_replace
from lowerbound.errors import DataError
from lowerbound.estimators import search
from lowerbound.estimators.choices import SEARCHED, Choice
from lowerbound.storage.contents import contents

pd = pytest.importorskip("pandas")
CANDIDATES = ({}, {"prior": "NormalMixture"}, {"latent_dim": 2}, {"hidden": (5,)})
SETTINGS = {"latent_dim": 1, "hidden": (4,), "epochs": 8, "batch_size": 20, "patience": 3, "random_state": 0}
LONG = 10_000.0


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(search, "CANDIDATES", CANDIDATES)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(60, 1)) + 0.3 * rng.normal(size=(60, 3)), columns=list("abc"))


@pytest.fixture(scope="module")
def whole(frame, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "CANDIDATES", CANDIDATES)
        return lb.VAE(**SETTINGS, search=LONG).fit(frame, run_dir=run), run


def found_by(vae):
    return {name: vae.chosen_[name].value for name in SEARCHED}


def held_out(frame, epochs, changes):
    """The objective of each held-out row of a candidate that was trained without a stop."""
    vae = lb.VAE(**SETTINGS | {"epochs": epochs, "patience": None} | changes).fit(frame)
    share = vae.chosen_["validation"].value
    rows = vae._rows(vae._checked(frame), "none", None)
    found = inference.held_out_objective(vae.model_, rows, vae._inference(), share, 20, vae.seed_)
    assert float(found.mean()) == pytest.approx(vae.history_.held_out["valid_objective"], rel=1e-6)
    return found.double()


def test_the_winner_is_the_one_of_halving_by_hand(frame, whole):
    """Four candidates to epoch 2, the better two to epoch 4, of 8 epochs of the fit."""
    first = [held_out(frame, 2, changes) for changes in CANDIDATES]
    left = sorted(range(4), key=lambda number: -float(first[number].mean()))[:2]
    second = {number: held_out(frame, 4, CANDIDATES[number]) for number in left}
    best, other = sorted(left, key=lambda number: -float(second[number].mean()))
    gap = second[best] - second[other]
    assert gap.mean() > gap.std() / math.sqrt(len(gap)), "else the smaller model wins, see below"
    vae, run = whole
    assert found_by(vae) == {"prior": "Normal", "hidden": (4,), "latent_dim": 1} | CANDIDATES[best]
    words = f"{gap.mean():.2f} ± {gap.std() / math.sqrt(len(gap)):.2f} below"
    assert vae.chosen_["prior"].why.endswith(words)
    assert vae.chosen_["prior"].why.startswith(f"best held-out bound of 4 candidates: −{-second[best].mean():.2f} ± ")
    assert json.loads((run / "search" / "search.json").read_text())["left"] == [best]


def test_the_fit_is_that_with_the_arguments_found(frame, whole):
    vae, run = whole
    plain = lb.VAE(**SETTINGS | found_by(vae)).fit(frame)
    again = lb.VAE(**SETTINGS, search=LONG).fit(frame)
    loaded = lb.load(run)
    for other in (plain, again, loaded):
        np.testing.assert_array_equal(other.transform(frame), vae.transform(frame))
    assert (loaded.chosen_, loaded.latent_dim_) == (vae.chosen_, vae.latent_dim_)
    assert clone(vae).search == vae.search == LONG
    assert (vae.latent_dim, vae.prior, vae.hidden) == (1, None, (4,)), "the arguments are as they were given"
    assert vae.model_.prior.event == (vae.latent_dim_,)


@pytest.mark.parametrize("at", [3, 5])
def test_a_search_that_was_cut_short_resumes(frame, whole, tmp_path, monkeypatch, at):
    trained, calls = search._trained, []

    def cut(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            raise MemoryError
        return trained(*arguments)

    monkeypatch.setattr(search, "_trained", cut)
    with pytest.raises(MemoryError):
        lb.VAE(**SETTINGS, search=LONG).fit(frame, run_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no model yet: a fit there has not ended; resume it"):
        lb.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no model yet: a fit there has not ended; resume it"):
        contents(tmp_path)
    with pytest.raises(UsageError, match="holds an unfinished fit; give --resume"):
        refuse_to_replace(tmp_path, False, False)
    assert lb.load(tmp_path / "search" / "0").history_.records
    with pytest.raises(ValueError, match="holds a search of other rows, seed or candidates"):
        lb.VAE(**SETTINGS | {"random_state": 1}, search=LONG).fit(frame, run_dir=tmp_path)
    vae = lb.VAE(**SETTINGS | {"random_state": None}, search=LONG).fit(frame, run_dir=tmp_path)
    assert vae.chosen_ == whole[0].chosen_
    np.testing.assert_array_equal(vae.transform(frame), whole[0].transform(frame))
    assert len(calls) == 4 + 2 + 1 + (at == 3) * 2, "no rung that had ended is trained again"


def test_with_too_little_time_the_arguments_are_those_given(frame):
    with pytest.warns(RuntimeWarning, match="search=1e-06 seconds did not suffice to compare 4 candidates once"):
        vae = lb.VAE(**SETTINGS, search=1e-6).fit(frame)
    assert not set(SEARCHED) & vae.chosen_.keys()
    np.testing.assert_array_equal(vae.transform(frame), lb.VAE(**SETTINGS).fit(frame).transform(frame))


def test_the_worse_half_is_dropped_and_ties_keep_their_order():
    rows = torch.tensor([[0.0, 1, 2], [1, 2, 3], [-math.inf] * 3, [1, 2, 3], [0, 0, 0]])
    standing = search._halved(search.Standing({}, [7, 4, 5, 9, 2]), list(rows), 5, 3.0)
    assert (standing.left, standing.rungs, standing.seconds, standing.ended) == ([4, 9, 7], 1, 3.0, False)
    assert standing.why == "best held-out bound of 5 candidates: 2.00 ± 0.58 nats per row, next 2.00, 0.00 ± 0.00 below"
    noise = torch.tensor([3.0, -3, 0])
    close = search._halved(search.Standing({}, [3, 1], 1), [rows[1] + 0.5 + noise, rows[1]], 5, 4.0)
    assert close.left == [1], "3 is better by 0.5 ± 1.73"
    assert close.why.startswith("smallest model within the error of the best held-out bound of 5 candidates: 2.00 ± ")
    assert close.why.endswith("best 2.50, 0.50 ± 1.73 above")
    clear = search._halved(search.Standing({}, [3, 1], 1), [rows[1] + 2 + noise, rows[1]], 5, 4.0)
    assert clear.left == [3], "3 is better by 2.00 ± 1.73"
    end = search._halved(search.Standing({}, [3, 1], 1), [rows[0], rows[1]], 5, 4.0)
    assert (end.left, end.rungs, end.ended) == ([1], 2, True)
    assert end.why.endswith("next 1.00, 1.00 ± 0.00 below"), "the difference is that of pairs"


def test_what_is_given_is_not_searched():
    given = lb.VAE().get_params()
    assert search.candidates(given) == list(CANDIDATES)
    assert search.candidates(given | {"hidden": [5], "prior": "Normal"}) == [{}, {"latent_dim": 2}]
    assert search.candidates(given | {"posterior": "Bernoulli", "network": "conv"}) == [{}, {"latent_dim": 2}]
    assert search.candidates(given | {"encoder": torch.nn.Identity()}) == [{}, {"prior": "NormalMixture"}]


def test_a_search_needs_rows_to_hold_out_and_a_folder_of_its_own(frame, tmp_path):
    with pytest.raises(DataError, match="search needs held-out rows, and 2 rows leave none"):
        lb.VAE(**SETTINGS, search=1, validation=0.1).fit(frame[:2])
    lb.VAE(**SETTINGS | {"epochs": 1}).fit(frame, run_dir=tmp_path)
    with pytest.raises(ValueError, match="holds a fit without a search; leave search out"):
        lb.VAE(**SETTINGS, search=LONG).fit(frame, run_dir=tmp_path)
    anew = lb.VAE(**SETTINGS, search=LONG).fit(frame, run_dir=tmp_path, resume="never")
    assert isinstance(anew.chosen_["prior"], Choice)
