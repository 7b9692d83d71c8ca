"""Rows wherever they are kept: dense, memory-mapped, sparse, in a Dataset; with missing values; one's own source."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import scipy.sparse
import torch
import warm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lowerbound as lb
from lowerbound import likelihoods, posteriors, priors, report
from lowerbound.data import Rows
from lowerbound.data.row_arrays import is_mapped
from lowerbound.draw import Batch
from lowerbound.estimators import building
from lowerbound.estimators.summary import Summary
from lowerbound.nn import MLP, seeded
from lowerbound.report import pictures
from lowerbound.row_source import RowSource

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(0.8, size=(230, 7)).astype(np.float64)
REAL = RNG.normal(size=(230, 2)) @ RNG.normal(size=(2, 7)) + 0.1 * RNG.normal(size=(230, 7))
HOLES = RNG.random(REAL.shape) < 0.2
WITH_HOLES = np.where(HOLES, np.nan, REAL)
BYTES = RNG.integers(0, 256, size=(60, 6, 6)).astype(np.uint8)


class Items(Dataset):
    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.x[index]


def mapped(x: np.ndarray, folder: Path, mode: str = "r") -> np.ndarray:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode=mode)


KEPT: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "mapped": mapped,
    "mapped, copied when written": lambda x, folder: mapped(x, folder, "c"),
    "mapped, some rows of it": lambda x, folder: mapped(np.vstack([x, x]), folder)[: len(x)],
    "mapped, in the other byte order": lambda x, folder: mapped(x.astype(x.dtype.newbyteorder()), folder),
    "mapped, columns first": lambda x, folder: mapped(np.asfortranarray(x), folder),
    "Dataset": lambda x, folder: Items(x),
    "TensorDataset": lambda x, folder: TensorDataset(torch.from_numpy(x)),
    "DataLoader": lambda x, folder: DataLoader(Items(x), batch_size=3, shuffle=True),
}
SPARSE: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "CSR": lambda x, folder: scipy.sparse.csr_matrix(x),
    "CSC": lambda x, folder: scipy.sparse.csc_array(x),
    "COO": lambda x, folder: scipy.sparse.coo_array(x),
}


def fitted(x: Any, **settings: Any) -> lb.VAE:
    return lb.VAE(2, **{"hidden": (8,), "epochs": 2, "random_state": 0} | settings).fit(x)


def digest(vae: lb.VAE) -> str:
    tensors = [*vae.model_.state_dict().values(), *vae.posterior_.state_dict().values()]
    return hashlib.sha256(b"".join(each.numpy().tobytes() for each in tensors)).hexdigest()


def answers(vae: lb.VAE, x: Any) -> list[np.ndarray]:
    return [
        vae.transform(x),
        vae.reconstruct(x),
        vae.score_samples(x),
        vae.log_likelihood(x, 50).estimate,
        vae.anomaly(x, samples=50).score,
    ]


@pytest.mark.parametrize("kept", [*KEPT, *SPARSE])
@pytest.mark.parametrize("x", [COUNTS, WITH_HOLES], ids=["counts", "missing values"])
def test_the_same_rows_give_the_same_bytes(kept: str, x: np.ndarray, tmp_path: Path) -> None:
    dense, given = fitted(x), (KEPT | SPARSE)[kept](x, tmp_path)
    other = fitted(given)
    assert digest(other) == digest(dense)
    assert other.has_missing_ == bool(np.isnan(x).any())
    assert Rows.from_array(given).digest() == Rows.from_array(x).digest()
    for found, due in zip(answers(other, given), answers(dense, x), strict=True):
        np.testing.assert_array_equal(found, due)


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("binarise", ["none", "fixed", "afresh"])
def test_images_give_the_same_bytes(kept: str, binarise: str, tmp_path: Path) -> None:
    settings = {"network": "conv", "binarise": binarise, "epochs": 1}
    given = KEPT[kept](BYTES, tmp_path)
    assert digest(fitted(given, **settings)) == digest(fitted(BYTES, **settings))


@pytest.mark.parametrize("kept", [*KEPT, *SPARSE])
def test_fit_and_evidence_of_the_core_take_them_too(kept: str, tmp_path: Path) -> None:
    def learnt(x: Any) -> tuple[list[dict[str, Any]], float]:
        with seeded(0):
            model = lb.LatentVariableModel(priors.Normal(2), MLP((2,), (7,), (8,)), likelihoods.Poisson())
            posterior = posteriors.DiagonalNormal(2, MLP((7,), (4,), (8,)))
        found = lb.fit(model, x, lb.AEVB(posterior), epochs=2)
        return found.history.records, lb.evidence.log_likelihood(model, posterior, x, samples=20).mean

    assert learnt((KEPT | SPARSE)[kept](COUNTS, tmp_path)) == learnt(COUNTS)


def test_a_map_is_known_as_one(tmp_path: Path) -> None:
    x = mapped(COUNTS, tmp_path)
    for same in (x, x[3:], np.asarray(x), x.T[:2], x.view(np.ndarray)):
        assert is_mapped(same)
    assert not is_mapped(np.array(x))
    assert is_mapped(lb.data.read(tmp_path / "x.npy").x)  # what the command line reads


def test_a_run_may_go_on_from_rows_kept_elsewhere(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if event.record["epoch"] == 2:
            raise Stop

    settings = {"epochs": 4, "batch_size": 50}
    whole = fitted(COUNTS, **settings)
    with pytest.raises(Stop):
        lb.VAE(2, hidden=(8,), random_state=0, callbacks=[stop], **settings).fit(
            COUNTS, run_dir=tmp_path / "run", checkpoint_every=5
        )
    resumed = lb.VAE(2, hidden=(8,), random_state=0, **settings).fit(
        scipy.sparse.csr_matrix(COUNTS), run_dir=tmp_path / "run", checkpoint_every=5
    )
    assert digest(resumed) == digest(whole)


MEMORY = """
import json, sys, threading, time
import numpy as np, scipy.sparse, torch
import lowerbound as lb

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

torch.set_num_threads(1)
kind, path = sys.argv[1:]
x = np.load(path, mmap_mode="r") if kind == "mapped" else scipy.sparse.load_npz(path)
settings = {"hidden": (8,), "epochs": 1, "batch_size": 1000, "random_state": 0}
lb.VAE(2, **settings).fit(x[:3000])  # what a fit needs whatever the rows
before, peak, done = anonymous(), [0.0], threading.Event()

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
lb.VAE(2, **settings).fit(x)
done.set()
thread.join()
print(json.dumps([before, peak[0]]))
"""


def grown(kind: str, path: Path) -> float:
    """By how many MB the anonymous memory of a process grows in a fit."""
    run = subprocess.run([sys.executable, "-c", MEMORY, kind, str(path)], capture_output=True, text=True, check=True)
    before, peak = json.loads(run.stdout.splitlines()[-1])
    return float(peak - before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the memory of a process")
def test_rows_in_a_mapped_file_are_not_copied(tmp_path: Path) -> None:
    shape = (200_000, 256)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, shape)  # 195 MB
    for start in range(0, len(x), 10_000):
        x[start : start + 10_000] = RNG.normal(size=(10_000, 256))
    x.flush()
    assert grown("mapped", tmp_path / "x.npy") < 195 / 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the memory of a process")
def test_sparse_rows_are_densified_batch_by_batch(tmp_path: Path) -> None:
    rows, columns = 250_000, 400
    x = scipy.sparse.random(rows, columns, 0.01, "csr", np.float32, random_state=np.random.RandomState(0))
    x.data = np.ceil(5 * x.data)
    scipy.sparse.save_npz(tmp_path / "x.npz", x, compressed=False)
    assert grown("sparse", tmp_path / "x.npz") < rows * columns * 4 / 2**20 / 2  # 381 MB dense


# --- missing values in arrays ---


def test_missing_values_are_integrated_out() -> None:
    # log p of a row with missing values is that of a model of the others alone
    vae = fitted(WITH_HOLES, epochs=5)
    mask = torch.from_numpy(~HOLES)
    x = torch.from_numpy(np.where(HOLES, 1e6, REAL)).float()  # what is missing has no part in it, whatever it is
    rows = Rows(x, mask)
    z = torch.zeros(1, len(x), 2)
    params = vae.model_.decode(z)
    each = vae.model_.likelihood.log_prob_per_value(params, torch.where(mask, x, 0))
    due = torch.where(mask, each, 0).sum(-1)
    batch = rows.batch(torch.arange(len(x)), torch.ones(len(x)))
    torch.testing.assert_close(vae.model_.log_lik(z, batch.x, batch.mask), due)
    own = Rows.from_array(WITH_HOLES)
    found = vae.model_.log_lik(z, own.x, own.mask)
    torch.testing.assert_close(found, due)


def test_an_array_and_its_mask_are_the_array_with_nan() -> None:
    nan, masked = Rows.from_array(WITH_HOLES), Rows.from_array(np.where(HOLES, 0, REAL), ~HOLES)
    assert nan.digest() == masked.digest()
    seen = lb.inference.as_rows(torch.from_numpy(WITH_HOLES), torch.empty(0))
    assert seen.digest() == nan.digest()


def test_imputation_of_an_array_beats_the_mean() -> None:
    vae = fitted(WITH_HOLES, epochs=150, hidden=(32,))
    best = vae.impute(WITH_HOLES)
    np.testing.assert_array_equal(best[~HOLES], WITH_HOLES[~HOLES])
    error = np.sqrt(np.mean((best - REAL)[HOLES] ** 2))
    mean = np.sqrt(np.mean((np.nanmean(WITH_HOLES, 0) - REAL)[HOLES] ** 2))
    assert error < 0.6 * mean
    draws = vae.impute(WITH_HOLES, 3)
    assert len(draws) == 3
    assert not np.isnan(draws).any()
    assert not np.array_equal(draws[0], draws[1])


def test_images_with_missing_pixels(tmp_path: Path) -> None:
    x = BYTES / 255.0
    x[:30, 2:4, 1:3] = np.nan
    vae = fitted(x, network="conv")
    assert vae.objective_ == "iwae"
    assert vae.impute(x).shape == x.shape
    assert np.isfinite(vae.score_samples(x)).all()
    vae.save(tmp_path / "model")
    again = lb.load(tmp_path / "model")
    assert again.has_missing_
    assert again.objective_ == "iwae"
    np.testing.assert_array_equal(again.score_samples(x), vae.score_samples(x))


def test_a_row_without_any_value_has_the_prior() -> None:
    vae = fitted(WITH_HOLES)
    nothing = np.full((1, 7), np.nan)
    assert vae.score_samples(nothing)[0] == 0
    np.testing.assert_array_equal(vae.transform(nothing), np.zeros((1, 2)))


@pytest.mark.parametrize("at_once", [2**20, 500])
def test_standardised_values_ignore_what_is_missing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowerbound.nn.inputs._AT_ONCE", at_once)
    whole = lb.nn.Standardise((7,))
    whole.fit(torch.from_numpy(REAL))
    np.testing.assert_allclose(whole.spread, REAL.std(0), rtol=1e-6)
    standardise = lb.nn.Standardise((7,))
    rows = Rows.from_array(WITH_HOLES, dtype=torch.float64)
    standardise.fit(rows.x, rows.mask)
    np.testing.assert_allclose(standardise.shift, np.nanmean(WITH_HOLES, 0), rtol=1e-6)
    np.testing.assert_allclose(standardise.spread, np.nanstd(WITH_HOLES, 0), rtol=1e-6)
    out = standardise(rows.x, rows.mask)
    assert not out[torch.from_numpy(HOLES)].any()


# --- one pass over the rows ---


@pytest.mark.parametrize("x", [COUNTS, WITH_HOLES, BYTES, REAL * 1e-3 + 1e6, (COUNTS > 0)], ids=range(5))
def test_a_summary_is_what_numpy_says(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowerbound.data.row_arrays._ROWS", 37)  # several chunks
    found = Summary.of(x)
    values = x.astype(np.float64)
    np.testing.assert_array_equal(found.low, np.nanmin(values, 0))
    np.testing.assert_array_equal(found.high, np.nanmax(values, 0))
    np.testing.assert_array_equal(found.observed, (~np.isnan(values)).sum(0))
    np.testing.assert_allclose(found.mean, np.nanmean(values, 0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, np.nanstd(values, 0), rtol=1e-7)
    assert found.whole == bool((values == np.floor(values))[~np.isnan(values)].all())
    assert x[found.top] == np.nanmax(values)


# --- where a fit of a masked table starts ---


@pytest.mark.parametrize("informative", [False, True])
def test_rows_to_start_from_hold_values_of_each_column(informative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_VALUES", 4 * 1000)
    mask = np.ones((20_000, 4), bool)
    mask[:, 1] = np.arange(20_000) % 500 == 0  # 40 observed values
    mask[:, 2] = np.arange(20_000) % 1000 != 7  # 20 missing values
    mask[:, 3] = np.arange(20_000) % 2 == 0
    rows = Rows(torch.zeros(mask.shape), torch.from_numpy(mask))
    some = building._some(rows, informative, seed=0)
    assert len(some) < 3000
    assert len(some.unique()) == len(some)
    assert mask[some][:, 1].sum() == 40
    if informative:
        assert (~mask[some])[:, 2].sum() == 20


# --- a source of one's own ---


class Repeated(RowSource):
    """Row i is the number i, ``[1]``, made when it is asked for."""

    shape, dtype, device, context, has_missing = (1,), torch.float32, torch.device("cpu"), None, False

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, index: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Batch:
        chosen = self.index[index]
        return Batch((chosen % 10).float().unsqueeze(1), None, chosen, weight)

    def subset(self, index: Tensor) -> Self:
        return type(self)(self.index[index])

    def digest(self) -> str:
        return str(self.index.tolist())

    def to(self, device: torch.device | str) -> Self:
        return self


class Backwards(Repeated):
    """The same, in an order of its own."""

    def order(self, seed: int, epoch: int) -> Tensor:
        return torch.arange(len(self)).flip(0)


def test_a_source_of_ones_own_is_fitted_as_its_rows_are(tmp_path: Path) -> None:
    def learnt(x: Any, run: str | None = None) -> list[dict[str, Any]]:
        with seeded(0):
            model = lb.LatentVariableModel(priors.Normal(1), MLP((1,), (1,), (4,)), likelihoods.Poisson())
            posterior = posteriors.DiagonalNormal(1, MLP((1,), (2,), (4,)))
        records = lb.fit(
            model, x, lb.AEVB(posterior), epochs=2, batch_size=20, run_dir=None if run is None else tmp_path / run
        ).history.records
        found = lb.evidence.log_likelihood(model, posterior, x, samples=10)
        return [*records, {"log_likelihood": found.mean}]

    source = Repeated(torch.arange(100))
    assert learnt(source, "run") == learnt((torch.arange(100) % 10).float().unsqueeze(1))
    assert learnt(Backwards(torch.arange(100))) != learnt(source)


def test_orders_of_epochs_differ_and_depend_on_seed_and_epoch() -> None:
    rows = Rows.from_array(COUNTS)
    orders = {(seed, epoch): rows.order(seed, epoch).tolist() for seed in (0, 1) for epoch in range(3)}
    assert len(set(map(tuple, orders.values()))) == 6
    for (seed, epoch), order in orders.items():
        assert order == rows.order(seed, epoch).tolist()
        assert sorted(order) == list(range(len(rows)))


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(TypeError, match="the rows come as a dict; give them as an array"):
        lb.inference.as_rows({}, torch.empty(0))
    with pytest.raises(TypeError, match="the rows come as a list"):
        Rows.from_array([1, 2])


def test_a_report_shows_missing_pixels(tmp_path: Path) -> None:
    x = BYTES / 255.0
    x[1:, 2:4, 1:3] = np.nan
    vae = fitted(x, network="conv")
    page = report.write_report(tmp_path, vae, x, None, vae.log_likelihood(x, 10), title="x", held_out=False)
    assert "Missing values are blue." in page.read_text()
    look = pictures.Look.of(vae.model_.likelihood, x)
    assert look is not None
    tiles = look.tiles(x[1:2])
    np.testing.assert_array_equal(tiles[0, 3, 1], pictures._MISSING)
    assert len(set(tiles[0, 0, 0])) == 1


def test_a_report_takes_sparse_rows(tmp_path: Path) -> None:
    vae = fitted(scipy.sparse.csr_matrix(COUNTS))
    given = vae.log_likelihood(COUNTS, 10)
    pages = []
    for x in (COUNTS, scipy.sparse.csr_matrix(COUNTS)):
        page = report.write_report(tmp_path, vae, x, None, given, title="x", held_out=False)
        pages.append(page.read_bytes())
    assert pages[0] == pages[1]


@pytest.mark.parametrize(("out", "draws"), [("z.npy", None), ("z.npy", 2), ("z.csv", None), ("z.parquet", 2)])
def test_arrays_are_imputed_at_the_command_line(out: str, draws: int | None, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", WITH_HOLES)
    run("fit", tmp_path / "x.npy", "--out", tmp_path / "run", "--epochs", 2, "--hidden", 8)
    vae = lb.load(tmp_path / "run")
    due = np.asarray(vae.impute(WITH_HOLES, draws, random_state=0))
    more = [] if draws is None else ["--draws", draws]
    said = run("impute", tmp_path / "run", tmp_path / "x.npy", "--out", tmp_path / out, *more, "--json")
    assert json.loads(said)["filled"] == HOLES.sum()
    found = np.load(tmp_path / out) if out.endswith("npy") else lb.data.read(tmp_path / out)
    if isinstance(found, np.ndarray):
        np.testing.assert_array_equal(found, due)
        return
    assert found.names is not None
    assert found.names == (("draw",) if draws else ()) + tuple(f"x{j}" for j in range(7))
    np.testing.assert_allclose(found.x[:, -7:], due.reshape(-1, 7))
    if draws:
        np.testing.assert_array_equal(found.x[:, 0], np.repeat(np.arange(draws), len(WITH_HOLES)))


def run(*arguments: object) -> str:
    done = warm.lowerbound(*arguments)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
