"""Values that a column's kind does not hold, columns that were not fitted, and keys, when a fitted model is used."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from messages import assert_one_sentence

import lowerbound as lb
from lowerbound import cli
from lowerbound.errors import DataError
from lowerbound.schema import Column, Schema

N = 80


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    z = rng.normal(size=N)
    return pd.DataFrame(
        {
            "id": np.arange(100, 100 + N),
            "length": np.exp(z).round(3),
            "n": rng.poisson(np.exp(1 + 0.3 * z)),
            "share": rng.random(N).round(3),
            "sex": np.where(z > 0, "f", "m"),
            "grade": rng.integers(1, 4, N),
            "y": (2 * z + 0.1 * rng.normal(size=N)).round(4),
        },
        index=pd.Index(rng.permutation(N), name="row"),
    )


SCHEMA = {"share": Column("interval", low=0.0, high=1.0), "grade": "ordinal"}
QUICK = {"latent_dim": 2, "hidden": (8,), "epochs": 5, "random_state": 0, "schema": SCHEMA}
NEW = {
    "an exact 0 in a positive column": ("length", 0.0),
    "a negative length": ("length", -2.5),
    "a negative count": ("n", -1),
    "a fraction in a count": ("n", 2.5),
    "above an interval": ("share", 1.5),
    "below an interval": ("share", -0.5),
    "a new level": ("sex", "other"),
    "a new grade": ("grade", 9),
}


@pytest.fixture(scope="module")
def vae() -> lb.VAE:
    return lb.VAE(**QUICK).fit(frame())


@pytest.fixture(scope="module")
def imputer() -> lb.LatentImputer:
    return lb.LatentImputer(**QUICK, samples=50).fit(frame())


def with_new(column: str, value: object, row: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """20 rows with the value in one, and with nothing in its place; another cell of that row is missing in both."""
    new = frame().head(20)
    new["y"] = new["y"].where(np.arange(20) != row)
    gone = new.copy()
    new[column] = new[column].astype(object)
    new.iloc[row, new.columns.get_loc(column)] = value
    gone[column] = gone[column].where(np.arange(20) != row)
    return new.infer_objects(), gone


QUESTIONS = {
    "transform": lambda vae, x: vae.transform(x),
    "score_samples": lambda vae, x: vae.score_samples(x, samples=20),
    "log_likelihood": lambda vae, x: vae.log_likelihood(x, samples=20).estimate,
    "anomaly": lambda vae, x: vae.anomaly(x, samples=20).score,
    "reconstruct": lambda vae, x: vae.reconstruct(x).drop(columns=["id", "sex"]).to_numpy(float),
}


@pytest.mark.parametrize("name", NEW)
def test_one_new_value_is_left_unused_and_counted(name, vae):
    column, value = NEW[name]
    new, gone = with_new(column, value)
    for ask in QUESTIONS.values():
        with pytest.warns(UserWarning, match=f"1 of '{column}'") as told:
            found = ask(vae, new)
        assert len(told) == 1
        np.testing.assert_array_equal(found, ask(vae, gone))


@pytest.mark.parametrize("name", NEW)
def test_it_comes_back_as_it_is_and_tells_nothing_of_the_rest(name, vae, imputer):
    column, value = NEW[name]
    new, gone = with_new(column, value)
    for fill in (lambda x: vae.impute(x, refine=False), imputer.transform):
        with pytest.warns(UserWarning, match=f"1 of '{column}'"):
            full = fill(new)
        due = fill(gone)
        assert full[column].iloc[3] == value
        assert full.index.equals(new.index)
        assert full.drop(columns=column).equals(due.drop(columns=column))
        others = np.arange(20) != 3
        assert full[column][others].tolist() == new[column][others].tolist()


@pytest.mark.parametrize("name", NEW)
def test_strict_refuses_it(name):
    column, value = NEW[name]
    new, _ = with_new(column, value)
    quick = {**QUICK, "epochs": 1, "strict": True}
    for ask in (lb.VAE(**quick).fit(frame()).impute, lb.LatentImputer(**quick).fit(frame()).transform):
        with pytest.raises(DataError) as refused:
            ask(new)
        assert_one_sentence(str(refused.value), ("row 3", f"'{column}'", f"{value:g}" if column != "sex" else value))


@pytest.mark.parametrize("name", [name for name, (column, _) in NEW.items() if column in ("length", "n", "share")])
def test_a_fit_and_a_condition_still_refuse_it(name, vae):
    column, value = NEW[name]
    with pytest.raises(DataError, match=f"'{column}'"):
        lb.VAE(**{**QUICK, "schema": vae.schema_}).fit(with_new(column, value)[0])
    with pytest.raises(DataError, match=f"given: .*'{column}'"):
        vae.sample(2, given={column: value})


def test_a_reconstruction_is_not_the_row_itself(vae):
    """Where one level was never seen, the other cells of its column are still those that the model expects."""
    new, _ = with_new("sex", "other")
    with pytest.warns(UserWarning, match="1 of 'sex'"):
        seen = vae.reconstruct(new)
    assert set(seen["sex"]) <= {"f", "m"}
    assert seen["id"].tolist() == new["id"].tolist()


# --- columns that were not fitted, order, index, keys ---


def test_other_columns_are_ignored_or_passed_through_and_the_order_is_restored(vae, imputer):
    plain = frame().head(10)
    plain["y"] = plain["y"].where(np.arange(10) != 2)
    more = plain[plain.columns[::-1]]
    more.insert(2, "name", [f"name {i}" for i in range(10)])
    more.insert(0, "when", pd.date_range("2024-01-01", periods=10))
    for ask in (vae.transform, vae.score_samples, lambda x: vae.anomaly(x).score, lambda x: vae.kl(x)):
        with pytest.warns(UserWarning, match="ignored: 'when', 'name'"):
            found = ask(more)
        np.testing.assert_array_equal(found, ask(plain))
    full, due = vae.impute(more), vae.impute(plain)
    assert list(full.columns) == list(more.columns)
    assert full[["when", "name"]].equals(more[["when", "name"]])
    assert full[plain.columns].equals(due)
    assert list(vae.impute(more, keep=["name"]).columns) == [name for name in more.columns if name != "when"]
    assert list(vae.reconstruct(more).columns) == list(more.columns)
    with pytest.warns(UserWarning, match="left out: 'when', 'name'"):
        assert imputer.transform(more).equals(imputer.transform(plain))
    with pytest.raises(DataError, match="lacks 'y'"):
        vae.transform(more.drop(columns="y"))


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_kept_columns_stand_before_the_results(library, vae):
    rows = frame().head(6).assign(name=list("abcdef"))
    x = {"pandas": lambda: rows, "polars": lambda: pl.from_pandas(rows), "pyarrow": lambda: arrow(rows)}[library]()
    bare = rows.drop(columns="name")
    coded = vae.encode(x, keep=["name", "id"])
    assert type(coded) is type(x)
    table = pandas_of(coded)
    assert list(table.columns) == ["name", "id", "mean0", "mean1", "sd0", "sd1"]
    assert table["name"].tolist() == list("abcdef")
    np.testing.assert_array_equal(table[["mean0", "mean1"]], vae.encode(bare).mean)
    np.testing.assert_array_equal(table[["sd0", "sd1"]], vae.encode(bare).scale)
    cells = pandas_of(vae.anomaly(x, keep=["name"]).cells)
    assert list(cells.columns) == ["name", *(column.name for column in vae.schema_.modelled)]
    if library == "pandas":
        assert coded.index.equals(rows.index)
        latents = lb.VAE(**QUICK).set_output(transform="pandas").fit(bare).transform(bare)
        assert latents.index.equals(rows.index)
    for bad, said in ((["nom"], "'nom'"), ("name", r"give a list of column names, such as \['name'\]")):
        with pytest.raises(ValueError, match=said):
            vae.encode(x, keep=bad)


def arrow(rows: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(rows, preserve_index=False)


def pandas_of(table) -> pd.DataFrame:
    return table if isinstance(table, pd.DataFrame) else table.to_pandas()


@pytest.mark.parametrize("library", ["pandas", "nullable", "polars", "pyarrow"])
def test_new_rows_have_keys_of_their_own(library):
    rows = frame()[["id", "y", "n"]]
    x = {
        "pandas": lambda: rows,
        "nullable": lambda: rows.astype({"id": "UInt16"}),
        "polars": lambda: pl.from_pandas(rows),
        "pyarrow": lambda: arrow(rows),
    }[library]()
    fitted = lb.VAE(**{**QUICK, "schema": None, "epochs": 1}).fit(x)
    assert fitted.schema_["id"].kind == "identifier"
    new = fitted.sample(3)
    types = (new.dtypes, x.dtypes) if isinstance(x, pd.DataFrame) else (new.schema, x.schema)
    assert list(types[0]) == list(types[1])
    assert list(map(int, pandas_of(new)["id"])) == [180, 181, 182]
    assert list(map(int, pandas_of(fitted.sample(2, given={"n": 3}))["id"])) == [180, 181]
    again = Schema.from_json(fitted.schema_.to_json())
    assert again == fitted.schema_


def test_keys_that_are_not_whole_numbers_or_do_not_fit_stay_missing():
    rows = frame()[["y", "n"]].assign(id=[f"k{i}" for i in range(N)], byte=np.arange(N, dtype=np.int8) + 40)
    fitted = lb.VAE(**{**QUICK, "schema": {"byte": "identifier"}, "epochs": 1}).fit(rows)
    assert fitted.sample(8)["id"].isna().all()
    assert fitted.sample(8)["byte"].tolist() == list(range(120, 128))
    assert fitted.sample(9)["byte"].isna().all()


# --- cells that stay missing ---


def test_cells_left_missing_are_counted(vae, imputer):
    rows = frame().assign(id=[f"k{i}" for i in range(N)], nothing=None)
    rows.loc[rows.index[:4], ["id", "y"]] = None
    fitted = lb.VAE(**{**QUICK, "epochs": 1}).fit(rows)
    with pytest.warns(UserWarning, match=r"stay missing: 4 of 'id' \(identifier\), 80 of 'nothing' \(constant\)"):
        full = fitted.impute(rows)
    assert full.drop(columns=["id", "nothing"]).notna().all(axis=None)
    rows = rows.drop(columns="nothing")
    with pytest.warns(UserWarning, match=r"stay missing: 4 of 'id' \(identifier\)"):
        lb.LatentImputer(**{**QUICK, "epochs": 1}).fit(rows).transform(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae.impute(frame())
        imputer.transform(frame())


# --- the command line ---


@pytest.fixture(scope="module")
def folder(vae, tmp_path_factory):
    found = tmp_path_factory.mktemp("new")
    vae.save(found / "run")
    lb.VAE(1, hidden=(4,), epochs=1, random_state=0).fit(np.ones((9, 2)) * np.arange(9)[:, None]).save(found / "array")
    rows = frame().head(10).assign(name=[f"name {i}" for i in range(10)])
    rows["y"] = rows["y"].where(np.arange(10) != 2)
    rows.to_csv(found / "t.csv", index=False)
    rows.assign(n=[-1, *rows["n"][1:]]).to_csv(found / "u.csv", index=False)
    return found


def run(*arguments: object, code: int = 0) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
    assert left.value.code == code


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        ("encode run t.csv", ["mean0", "mean1", "sd0", "sd1"]),
        ("score run t.csv --samples 9", ["log_likelihood", "standard_error", "ess", "pareto_k", "samples"]),
        ("score run t.csv --samples 9 --anomaly", ["score", "standard_error", "ess", "latent", None]),
    ],
)
def test_keys_are_written_before_the_results(command, columns, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    run(*command.split(), "--keep", "id,name", "--out", tmp_path / "o.csv")
    found = pd.read_csv(tmp_path / "o.csv")
    assert found["id"].tolist() == pd.read_csv("t.csv")["id"].tolist()
    assert list(found.columns[: 2 + len(columns)])[: 2 + sum(c is not None for c in columns)] == [
        "id",
        "name",
        *(c for c in columns if c is not None),
    ]
    run(*command.split(), "--out", tmp_path / "p.csv")
    assert found.drop(columns=["id", "name"]).equals(pd.read_csv(tmp_path / "p.csv"))


def test_impute_passes_other_columns_through_and_counts_what_is_left(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    run("impute", "run", "t.csv", "--out", tmp_path / "o.csv", "--json")
    out, words = capsys.readouterr()
    assert (json.loads(out)["filled"], json.loads(out)["left"]) == (1, 0)
    assert "left missing" not in words
    full, rows = pd.read_csv(tmp_path / "o.csv"), pd.read_csv("t.csv")
    assert full.drop(columns="y").equals(rows.drop(columns="y"))
    rows.assign(id=rows["id"].where(rows.index > 1)).to_csv(tmp_path / "h.csv", index=False)
    run("impute", "run", tmp_path / "h.csv", "--out", tmp_path / "o.csv", "--json")
    out, words = capsys.readouterr()
    assert (json.loads(out)["filled"], json.loads(out)["left"]) == (1, 2)
    assert "2 cells left missing" in words
    assert "warning: cells of columns that are not modelled stay missing: 2 of 'id' (identifier)" in words


@pytest.mark.parametrize(
    "command", ["encode run u.csv --out o.csv", "score run u.csv --samples 9", "impute run u.csv --out o.csv"]
)
def test_the_command_line_counts_new_values_or_refuses_them(command, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = command.replace("o.csv", str(tmp_path / "o.csv")).split()
    run(*words)
    assert "1 of 'n' (count)" in capsys.readouterr().err
    run(*words, "--strict", code=65)
    assert "row 0 of column 'n' is -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("encode run t.csv --keep nom --out o.csv", 65, "keep names 'nom'"),
        ("encode run t.csv --keep id --out o.npy", 2, ".csv or .parquet"),
        ("score run t.csv --keep id", 2, "give one with --out"),
        ("encode array t.csv --keep id --out o.csv", 65, "array was fitted to an array"),
        ("encode array t.csv --strict --out o.csv", 65, "--strict needs a model of a table"),
    ],
)
def test_what_cannot_be_kept(command, code, said, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    run(*command.split(), code=code)
    assert said in capsys.readouterr().err
