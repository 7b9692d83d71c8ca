"""The table of bad input in Python: what is done with it, and what must be said. ``test_bad_input.py`` runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from narwhals.dependencies import is_into_dataframe
from sklearn.exceptions import NotFittedError
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import lowerbound as lb

X = np.random.default_rng(0).normal(size=(40, 3))
COUNTS = np.random.default_rng(0).poisson(3.0, size=(40, 3))


@dataclass(frozen=True)
class Kind:
    """``use`` must raise ``error``, in one sentence that holds each of ``words``."""

    use: Callable[[], object]
    words: tuple[str, ...]
    error: type[Exception] = ValueError


def vae(**parameters: Any) -> lb.VAE:
    return lb.VAE(**{"latent_dim": 2, "epochs": 1, "hidden": (4,), "random_state": 0, **parameters})


def matrix(**parameters: Any) -> lb.VAE:
    """Of a frame whose columns have one likelihood: a matrix, and no table of columns each of its kind."""
    return vae(**{"likelihood": "Normal"} | parameters)


def frame(x: np.ndarray = X, names: str = "abc") -> pd.DataFrame:
    return pd.DataFrame(x, columns=list(names))


@cache
def fitted(to: str = "array") -> lb.VAE:
    if to == "images":
        return vae().fit(np.zeros((5, 4, 3)))
    if to == "counts":
        return vae(likelihood="poisson").fit(COUNTS)
    return matrix().fit(frame()) if to == "frame" else vae().fit(X)


def put(value: Any, x: np.ndarray = X, row: int = 5, column: int = 1) -> np.ndarray:
    x = x.astype(np.longdouble if isinstance(value, np.longdouble) else np.result_type(x, type(value)))
    x[row, column] = value
    return x


def fit(x: Any, *words: str, error: type[Exception] = ValueError, **parameters: Any) -> Kind:
    make = matrix if is_into_dataframe(x) else vae
    return Kind(lambda: make(**parameters).fit(x() if callable(x) else x), words, error)


def objects(value: Any) -> np.ndarray:
    x = X.astype(object)
    x[2, 1] = value
    return x


class Ragged(Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> np.ndarray:
        return np.zeros(2 + (index == 3))


class Words(Ragged):
    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(["a", "b"])


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(X)


# Numbers that a fit refuses: ``check`` must refuse them too.
NUMBERS: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
    "infinity": (put(np.inf), ("row 5, column 1 is infinite", "finite value")),
    "minus infinity": (put(-np.inf), ("row 5, column 1 is infinite", "finite value")),
    "a column of NaN": (np.where([False, True, False], np.nan, X), ("column 1 is NaN in every row", "leave it out")),
    "1e300": (put(1e300), (r"row 5, column 1 is 1e\+300, too large for float32", "rescale")),
    "minus 1e300": (put(-1e300), (r"row 5, column 1 is -1e\+300, too large", "rescale")),
    "3e38, whose differences overflow": (put(3e38), (r"row 5, column 1 is 3e\+38, too large", "rescale")),
    "1e4000": (put(np.longdouble("1e4000")), (r"row 5, column 1 is 1e\+4000, too large", "rescale")),
    "a spread of 1e-40": (X * [1, 1e-40, 1], ("X: column 1 varies by .*e-41 .*too little for single", "rescale")),
    "a spread of 1e-300": (X * [1, 1e-300, 1], ("X: column 1 varies by", "too little for single", "rescale")),
    "a spread lost in the mean": (
        X + np.array([0, 1e9, 0]),
        ("X: column 1 varies by", "too little for single precision at that size", "subtract its mean"),
    ),
    "integers that overflow float32": (
        COUNTS + 2**60,
        ("X: column 0 .*and 2 more", "too little for single precision at that size", "subtract"),
    ),
    "no rows": (X[:0], ("X holds 0 samples", "give at least one row")),
    "no columns": (X[:, :0], (r"X has 0 feature\(s\)", "give at least one column")),
    "images without pixels": (np.zeros((3, 2, 0)), ("X has rows without values", "give at least one value")),
    "one axis": (X[:, 0], (r"X is a 1D array, of shape \(40,\)", r"reshape\(-1, 1\)")),
    "no axis": (np.array(3.0), ("not rows of numbers|0D array", "give an array|Reshape")),
    "complex numbers": (X.astype(complex), ("X: Complex data not supported", "as columns")),
    "dates": (np.full((3, 2), "2020-01-01", "M8[D]"), (r"X holds datetime64\[D\]", "encode its values as numbers")),
    "durations": (np.ones((3, 2), "m8[s]"), (r"X holds timedelta64\[s\]", "encode its values as numbers")),
    "records": (np.zeros(3, [("a", "f8")]), (r"X holds \[\('a'", "encode its values as numbers")),
    "words": (np.array([["1", "2"], ["3", "four"]]), ("X holds text", "row 1, column 1 is 'four'", "convert it")),
    "digits as text": (np.array([["1", "2"]]), ("X holds text", "row 0, column 0 is '1'", r"X\.astype\(float\)")),
    "bytes": (np.array([[b"1", b"x"]]), ("X holds text", "row 0, column 1", "convert it")),
    "text among objects": (objects("3"), ("row 2, column 1 of X is '3', which is text", "convert it to a number")),
    "an integer beyond every float": (objects(10**400), ("row 2, column 1 of X is 1000", "too large", "rescale")),
}

ARRAYS: dict[str, Kind] = {name: fit(x, *words) for name, (x, words) in NUMBERS.items()} | {
    "a dict among objects": fit(objects({}), r"row 2, column 1 of X is \{\}", "give a number", error=TypeError),
    "rows of different lengths": fit([[1, 2], [3]], "X is ragged", "give rows of the same length"),
    "an infinity in a sparse matrix": fit(
        scipy.sparse.csr_matrix(put(np.inf)), "row 5, column 1 is infinite", "finite"
    ),
    "a sparse row": fit(scipy.sparse.coo_array(X[0]), r"X is a sparse array of shape \(3,\)", r"\[N, D\]"),
    "a masked array": fit(np.ma.masked_greater(X, 1), r"masked array that hides \d+ values", "mark them by NaN"),
    "a Dataset with labels": fit(
        TensorDataset(torch.from_numpy(X), torch.arange(40)),
        "a TensorDataset whose items are tuples of 2",
        r"item\[0\]",
    ),
    "a Dataset of rows that differ": fit(Ragged(), "item 3 of X has shape", "give each row as many numbers"),
    "a Dataset of text": fit(Words(), "X is a Words of <U1, not numbers", "encode its values"),
    "an empty Dataset": fit(TensorDataset(torch.zeros(0, 3)), "a TensorDataset that holds no rows", "at least one"),
    "a stream": fit(Stream(), "X is of type Stream, which gives rows one after another", "a Dataset with a length"),
    "a DataLoader with a function of its own": fit(
        DataLoader(TensorDataset(torch.from_numpy(X)), collate_fn=list),
        "a DataLoader with a collate_fn",
        "give a Dataset",
    ),
    "missing by its own value in an array": fit(
        X, 'missing="self_masking" needs a data frame', r"pandas\.DataFrame\(X\)", missing="self_masking"
    ),
    "nothing": fit(None, "X is of type NoneType", "give an array"),
    "the name of a file": fit("wine.csv", "X is of type str", "give an array"),
    "a dataset, not its rows": fit(lb.data.digits, "X is of type Dataset", "give an array .the train of a Dataset"),
    "a column of text": fit(
        pd.DataFrame({"a": [1, 2], "b": ["3", "x"]}), "column 'b' holds String, .*row 1 is 'x'", "leave .* or encode"
    ),
    "a column of text, polars": fit(
        pl.DataFrame({"a": [1, 2], "b": ["3", "x"]}), "column 'b' .*row 1 is 'x'", "encode"
    ),
    "a column of text, pyarrow": fit(pa.table({"b": ["3", "x"]}), "column 'b' .*row 1 is 'x'", "encode"),
    "a column of dates": fit(
        pd.DataFrame({"day": pd.to_datetime(["2020-01-01"])}), "column 'day' holds Datetime", "encode it as numbers"
    ),
    "a column of categories": fit(
        pd.DataFrame({"c": pd.Categorical(["u", "v"])}), "column 'c' holds Categorical", "encode it as numbers"
    ),
    "a column of lists": fit(pl.DataFrame({"l": [[1.0], [2.0]]}), "column 'l' holds List", "leave the column out"),
    "an empty named column": fit(frame().assign(b=np.nan), r"column 1 \('b'\) is NaN in every row", "leave it out"),
    "two columns of one name": fit(frame(names="aac"), "two columns called 'a'", "a name of its own"),
    "names of two types": fit(frame().rename(columns={"b": 1}), "columns called 'a' and 1", "a string"),
    "a frame without columns": fit(frame()[[]], r"X has 0 feature\(s\)", "give at least one column"),
    "negative counts, Poisson": fit(
        put(-1, COUNTS), "row 5, column 1 is -1, which Poisson", "choose another", likelihood="poisson"
    ),
    "negative counts, negative binomial": fit(
        put(-1, COUNTS), "row 5, column 1 is -1, which NegativeB", "correct the", likelihood="negative_binomial"
    ),
    "fractional counts": fit(
        put(0.5, COUNTS), r"row 5, column 1 is 0\.5, which Poisson", "choose another", likelihood="poisson"
    ),
    "counts of 1e30": fit(put(1e30, COUNTS), r"row 5, column 1 is 1e\+30", "choose another", likelihood="poisson"),
    "fractions, Bernoulli": fit(
        put(0.5, COUNTS % 2), r"row 5, column 1 is 0\.5, which Bernoulli", "choose", likelihood="bernoulli"
    ),
    "negative classes": fit(put(-1, COUNTS), "column 1 is -1, which Categorical", "choose", likelihood="categorical"),
    "fractional classes": fit(
        put(0.5, COUNTS), r"column 1 is 0\.5, which Categorical", "choose another", likelihood="categorical"
    ),
    "a billion classes": fit(
        put(10**9, COUNTS), r"row 5, column 1 is 1e\+09, and Categorical", "number the cl", likelihood="categorical"
    ),
    "brighter than white": fit(
        put(17, COUNTS),
        "row 5, column 1 is 17, which Disc",
        "max_value, the l",
        likelihood="discretized_logistic",
        max_value=16,
    ),
    "max_value between two levels": fit(
        COUNTS,
        r"max_value is 2\.5; DiscretizedLogistic takes",
        "round",
        likelihood="discretized_logistic",
        max_value=2.5,
    ),
    "grey values beyond max_value": fit(
        put(2.0, COUNTS % 2), r"row 5, column 1 is 2, outside \[0, 1\]", "rescale them or pass", binarise="afresh"
    ),
    "convolutions over a table": fit(X, r'network="conv" needs rows of shape', "reshape X, or use", network="conv"),
}


def use(to: str, method: str, *arguments: Any, words: tuple[str, ...], **options: Any) -> Kind:
    return Kind(lambda: getattr(fitted(to), method)(*arguments, **options), words)


FITTED: dict[str, Kind] = {
    "too few columns": use(
        "array", "transform", X[:, :2], words=("X has 2 features, but VAE", r"rows of shape \(3,\)")
    ),
    "too many columns": use("array", "score", np.hstack([X, X]), words=("X has 6 features", r"rows of shape \(3,\)")),
    "an axis too many": use("array", "encode", X[:, :, None], words=(r"rows have shape \(3, 1\)", "reshape X")),
    "images of another size": use("images", "encode", np.zeros((2, 4, 2)), words=(r"shape \(4, 2\)", r"of \(4, 3\)")),
    "a row by itself": use("array", "transform", X[0], words=("X is a 1D array", r"reshape\(1, -1\)")),
    "a column missing": use("frame", "transform", frame()[["a", "c"]], words=("X lack 'b'", "'a', 'b', 'c'")),
    "a column extra": use("frame", "transform", frame().assign(d=1), words=("X hold the extra 'd'", "'a', 'b', 'c'")),
    "a column renamed": use(
        "frame", "score", frame(names="abd"), words=("lack 'c' and hold the extra 'd'", "'a', 'b', 'c'")
    ),
    "a column twice": use("frame", "transform", frame(names="aab"), words=("two columns called 'a'", "of its own")),
    "infinity when scored": use(
        "array", "score_samples", put(np.inf), words=("row 5, column 1 is inf", "drop the row")
    ),
    "1e300 when used": use("array", "reconstruct", put(1e300), words=(r"row 5, column 1 is 1e\+300", "rescale")),
    "negative counts when used": use("counts", "transform", put(-1, COUNTS), words=("which Poisson cannot", "correct")),
    "a search, more to learn": Kind(lambda: vae(search=1).partial_fit(X), ("search needs all rows", "use fit")),
    "negative counts, more to learn": Kind(
        lambda: vae(likelihood="poisson").partial_fit(COUNTS).partial_fit(put(-1, COUNTS)),
        ("row 5, column 1 is -1, which Poisson", "correct the value"),
    ),
    "negative counts when scored": use("counts", "score", put(-1, COUNTS), words=("which Poisson cannot", "correct")),
    "fractional counts when scored": use("counts", "log_likelihood", X, words=("which Poisson cannot", "correct")),
    "latents of another width": use("array", "inverse_transform", X, words=("latents have 3 columns", "latent_dim=2")),
    "latents of NaN": use("array", "inverse_transform", [[0, np.nan]], words=("row 0, column 1 is NaN", "fill")),
    "latents of 1e300": use("array", "inverse_transform", [[0, 1e300]], words=("row 0, column 1 is 1e", "rescale")),
    "no samples": use("array", "sample", 0, words=("n_samples must be at least 1, got 0",)),
    "half a sample": use("array", "sample", 2.5, words=(r"n_samples is 2\.5; give a whole number",)),
    "scores from no draws": use("array", "score_samples", X, 0, words=("samples must be at least 1, got 0",)),
    "an error from one draw": use("array", "log_likelihood", X, 1, words=("samples must be at least 2",)),
    "other columns, more to learn": Kind(
        lambda: matrix().partial_fit(frame()).partial_fit(frame(names="abd")),
        ("lack 'c' and hold the extra 'd'", "in any order"),
    ),
    "unfitted: transform": Kind(lambda: vae().transform(X), ("this VAE is not fitted", "call fit"), NotFittedError),
    "unfitted: sample": Kind(lambda: vae().sample(2), ("this VAE is not fitted", "call fit"), NotFittedError),
    "unfitted: latents": Kind(lambda: vae().inverse_transform(X), ("not fitted", "call fit"), NotFittedError),
    "unfitted: save": Kind(lambda: vae().save(Path("run")), ("this VAE is not fitted", "call fit"), NotFittedError),
}


def given(words: str, **parameters: Any) -> Kind:
    """Refused for a parameter, before the data are looked at, which are bad as well."""
    return fit(put(np.inf), words, **parameters)


def own_inference(model: Any, posterior: Any) -> Any:
    """An inference of one's own."""
    return lb.AEVB(posterior)


PARAMETERS: dict[str, Kind] = {
    "latent_dim 0": given("latent_dim must be from 1 to 1000000, got 0", latent_dim=0),
    "latent_dim -1": given("latent_dim must be from 1 to 1000000, got -1", latent_dim=-1),
    "latent_dim above a million": given("latent_dim must be from 1 to 1000000", latent_dim=10**6 + 1),
    "latent_dim 2.5": given(r"latent_dim is 2\.5; give a whole number, from 1", latent_dim=2.5),
    "latent_dim true": given("latent_dim is True; give a whole number", latent_dim=True),
    "draws 0": given("draws must be at least 1, got 0", draws=0),
    "batch_size 0": given("batch_size must be at least 1, got 0", batch_size=0),
    "epochs 0": given("epochs must be at least 1, got 0", epochs=0),
    "epochs 1.5": given(r"epochs is 1\.5; give a whole number, at least 1", epochs=1.5),
    "patience 0": given("patience must be at least 1, got 0", patience=0),
    "learning_rate 0": given("learning_rate is 0; give a finite number, above 0", learning_rate=0),
    "learning_rate NaN": given("learning_rate is nan; give a finite number, above 0", learning_rate=np.nan),
    "learning_rate in words": given("learning_rate is 'fast'; give a finite number", learning_rate="fast"),
    "beta -1": given("beta is -1; give a finite number, 0 or more", beta=-1),
    "warm_up infinite": given("warm_up is inf; give a finite number, 0 or more", warm_up=np.inf),
    "free_bits -1": given("free_bits is -1; give a finite number, 0 or more", free_bits=-1),
    "free_bits of another bound": given('free_bits .* use it with objective="elbo"', free_bits=1, objective="iwae"),
    "validation 1": given(r"validation is 1; give a finite number, in \[0, 1\)", validation=1),
    "validation NaN": given(r"validation is nan; give a finite number, in \[0, 1\)", validation=np.nan),
    "search 0": given("search is 0; give a finite number, above 0", search=0),
    "search in words": given("search is 'long'; give a finite number, above 0", search="long"),
    "search without held-out rows": given("search needs held-out rows: give validation", search=1, validation=0),
    "search with a weighted KL": given("search compares bounds, which beta, warm_up", search=1, beta=2),
    "search by no bound": given("the objective is none .*; give another", search=1, objective="minus_cubo"),
    "search by an inference of one's own": given("inference is your own; leave one", search=1, inference=own_inference),
    "search among nothing": given(
        "the prior, encoder or decoder given leave nothing to compare",
        search=1,
        prior="Normal",
        encoder=torch.nn.Identity(),
    ),
    "max_value 0": given("max_value is 0; give a finite number, above 0", max_value=0),
    "network misspelt": given("network is 'mpl', none of mlp, conv; did you mean 'mlp'?", network="mpl"),
    "objective misspelt": given("objective is 'elb', none of .*; did you mean 'elbo'?", objective="elb"),
    "likelihood misspelt": given("likelihood is 'poison', none of .*; did you mean 'Poisson'?", likelihood="poison"),
    "likelihood a number": given("likelihood is 3; give a name, a Likelihood", likelihood=3),
    "binarise misspelt": given("binarise is 'fresh', none of .*; did you mean 'afresh'?", binarise="fresh"),
    "binarised, but not Bernoulli": given('likelihood is .poisson.* give "B', likelihood="poisson", binarise="fixed"),
    "device misspelt": given("device is 'cud', none of .*; did you mean 'cuda'?", device="cud"),
    "device absent": given("device 'cuda:99' is not available .*; give another one", device="cuda:99"),
    "hidden 0": given(r"hidden is \(8, 0\); give the sizes of layers", hidden=(8, 0)),
    "hidden a number": given("hidden is 256; give the sizes of layers", hidden=256),
    "random_state -1": given("random_state must be from 0 to", random_state=-1),
    "threads 0": given("threads must be at least 1, got 0", threads=0),
    "encoder a function": given(r"encoder is <function .*; give a torch\.nn\.Module", encoder=put),
    "callbacks a number": given("callbacks is 3; give a list of functions", callbacks=3),
}

PYTHON = ARRAYS | FITTED | PARAMETERS


# What is unusual, but right: a fit takes it, and so says ``check``.
FINE: dict[str, np.ndarray] = {
    "real numbers": X,
    "counts": COUNTS,
    "zeros and ones": COUNTS % 2,
    "a constant column": np.column_stack([X, np.full(40, 0.1)]),
    "nothing but one constant": np.full((40, 3), 0.1),
    "nothing but zeros": np.zeros((40, 3)),
    "one row": X[:1],
    "two rows": X[:2],
    "fewer rows than a batch": X[:7],
    "one more row than a batch": np.vstack([X, X, X])[:112],
    "one column": X[:, :1],
    "a value of 1e30": put(1e30),
    "values of 1e37": X * 1e37,
    "values of 1e-33": X * 1e-33,
    "columns of all magnitudes": X * [1e-20, 1, 1e20],
    "floats too large to be counts": np.floor(np.abs(X) * 1e30),
    "a count of 2^64 - 1": put(np.uint64(2**64 - 1), COUNTS.astype(np.uint64)),
    "the smallest integer": put(-(2**63), COUNTS),
    "counts of millions": COUNTS + 3_000_000,
    "half precision": X.astype(np.float16),
    "extended precision": X.astype(np.longdouble),
    "the other byte order": X.astype(">f8"),
    "rows backwards": X[::-1],
    "columns first": np.asfortranarray(X),
    "truth values": X > 0,
    "8-bit values": (COUNTS * 20).astype(np.uint8),
    "8-bit values below 0": (X * 20).astype(np.int8),
    "images": np.stack([X] * 4, 1),
    "rows of four axes": np.zeros((3, 2, 2, 2, 2)),
}


def same(x: Any, **parameters: Any) -> None:
    """Fitted to ``x``, the model is that of the plain array of the same numbers."""
    plain = vae().fit(X)
    make = matrix if is_into_dataframe(x) else vae
    np.testing.assert_array_equal(make(**parameters).fit(x).transform(x), plain.transform(X))


def reordered(x: Any) -> None:
    """Whatever their order, columns are known by their names."""
    model = fitted("frame")
    for method in ("transform", "reconstruct", "score_samples"):
        np.testing.assert_array_equal(getattr(model, method)(x), getattr(model, method)(frame()))


def scores(x: Any, low: bool) -> None:
    told = pytest.warns(UserWarning, match="for 1 of 40 rows") if low else contextlib.nullcontext()
    with told:
        values = fitted().score_samples(x)
    assert (np.delete(values, 5) > -100).all()
    assert (values[5] == -np.inf) == low


SAME: dict[str, Callable[[], None]] = {
    "lists": lambda: same(X.tolist()),
    "numbers as objects": lambda: same(X.astype(object)),
    "a tensor": lambda: same(torch.tensor(X)),
    "a tensor with a gradient": lambda: same(torch.tensor(X, requires_grad=True)),
    "a masked array that hides nothing": lambda: same(np.ma.masked_array(X)),
    "a frame": lambda: same(frame()),
    "a frame of nullable numbers": lambda: same(frame().convert_dtypes()),
    "a frame of objects": lambda: same(frame().astype(object)),
    "columns called by numbers": lambda: same(pd.DataFrame(X)),
    "columns in another order": lambda: reordered(frame()[["c", "a", "b"]]),
    "columns in another order, polars": lambda: reordered(pl.from_pandas(frame()[["c", "a", "b"]])),
    "columns in another order, pyarrow": lambda: reordered(pa.table(frame()[["b", "a", "c"]])),
    "1e30 when scored": lambda: scores(put(1e30), low=True),
    "a batch of a billion rows": lambda: same(X, batch_size=10**9),
    "10 when scored": lambda: scores(put(10.0), low=False),
}
