"""The table of bad input at the command line: files, options, exit codes. ``test_bad_input_cli.py`` runs it.

Every case runs in a folder that holds ``good.csv`` (columns a, b, c), ``run`` (a model of it) and the case's own files.
"""

from __future__ import annotations

import gzip
import io
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from bad_arrays import COUNTS, X
from pyarrow import parquet

USAGE, BAD_DATA, MISSING, IO = 2, 65, 66, 74


@dataclass(frozen=True)
class Case:
    """``lowerbound`` with ``arguments`` must leave with ``code`` and one sentence that holds ``words``."""

    arguments: tuple[str, ...]
    code: int
    words: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def table(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def idx(array: Any, kind: int = 8) -> bytes:
    array = np.asarray(array, ">u1")
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


def change(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def data(name: str, content: bytes, *words: str, code: int = BAD_DATA) -> Case:
    """A file that ``fit`` refuses, naming it."""
    return Case(("fit", name, "--out", "new"), code, (name.replace(".", r"\."), *words), {name: content})


def values(content: Any, *words: str) -> Case:
    """A file whose values ``fit`` refuses."""
    name, content = ("t.csv", content) if isinstance(content, bytes) else ("t.npy", npy(content))
    return Case(("fit", name, "--out", "new"), BAD_DATA, words, {name: content})


def matrix(name: str, content: bytes, *words: str) -> Case:
    """A table that is refused where it is to be a matrix of numbers."""
    return Case(("fit", name, "--out", "new", "--likelihood", "normal"), BAD_DATA, words, {name: content})


def case(arguments: str, code: int, *words: str, **files: bytes) -> Case:
    return Case(tuple(arguments.split()), code, words, {name.replace("_", "."): data for name, data in files.items()})


def option(text: str, *words: str) -> Case:
    return case(f"fit good.csv --out new {text}", USAGE, *words)


whole = {"npy": npy(X), "npz": npz(x=X), "parquet": table(a=X[:, 0], b=X[:, 1])}
again = "save it again"
SIX = "-ubyte"

FILES: dict[str, Case] = {
    "npy: empty": data("t.npy", b"", "not a whole npy file", again),
    "npy: truncated": data("t.npy", whole["npy"][:-8], "not a whole npy file", again),
    "npy: cut in its header": data("t.npy", whole["npy"][:40], "not a whole npy file", again),
    "npy: other bytes": data("t.npy", b"hello, world", "not a whole npy file", again),
    "npy: pickled objects": data("t.npy", npy(np.array([{}, None])), "pickled objects", "save an array of numbers"),
    "npy: larger than its bytes": data("t.npy", change(whole["npy"], b"(40, 3)", b"(4e9,3)"), "not a whole npy", again),
    "npy: complex": data("t.npy", npy(X.astype(complex)), "holds complex128", "save an array of numbers"),
    "npy: dates": data("t.npy", npy(np.ones(3, "M8[D]")), r"holds datetime64\[D\]", "save an array of numbers"),
    "npy: text": data("t.npy", npy(["a", "b"]), "holds <U1", "save an array of numbers"),
    "npy: records": data("t.npy", npy(np.zeros(3, [("a", "f8")])), "holds .*'a'", "save an array of numbers"),
    "npy: no rows": data("t.npy", npy(X[:0]), "holds no rows", "give at least one"),
    "npy: a single number": data("t.npy", npy(3.0), "holds no rows", "give at least one"),
    "npz: empty": data("t.npz", b"", "not a whole npz file", again),
    "npz: truncated": data("t.npz", whole["npz"][:-30], "not a whole npz file", again),
    "npz: an npy": data("t.npz", whole["npy"], "not a whole npz file", again),
    "npz: pickled objects": data("t.npz", npz(x=np.array([{}, 1])), "pickled objects", "save an array of numbers"),
    "npz: two arrays": data("t.npz", npz(a=X, b=X), r"holds the arrays \['a', 'b'\]", "call the one to read x"),
    "npz: no array": data("t.npz", npz(), r"holds the arrays \[\]", "call the one to read x"),
    "npz: a label short": data("t.npz", npz(x=X, y=X[1:, 0]), r"labels of shape \(39,\)", "give one label per row"),
    "npz: text": data("t.npz", npz(x=np.array(["a"])), "holds <U1", "save an array of numbers"),
    "csv: empty": data("t.csv", b"", "not a whole csv file", "save it"),
    "csv: blank lines": data("t.csv", b"\n\n\n", "not a whole csv file", "save it"),
    "csv: names alone": data("t.csv", b"a,b\n", "holds no rows", "give at least one"),
    "csv: ragged": data("t.csv", b"a,b\n1,2\n3\n", "Expected 2 columns, got 1", "as many values in each row"),
    "csv: a value too many": data("t.csv", b"a,b\n1,2,3\n", "Expected 2 columns, got 3", "as many values in each row"),
    "csv: a quote left open": data("t.csv", b'a,b\n"1,2\n', "not a whole csv file", "save it"),
    "csv: names in Latin-1": data("t.csv", b"a\xe9,b\n1,2\n", "'utf-8' codec can't decode", "save it in UTF-8"),
    "csv: values in Latin-1": data(
        "t.csv", b"a\n1\n\xe9\n", "not in UTF-8", r"row 1 of column 'a' is b'\\xe9'", "save it in"
    ),
    "csv: UTF-16": data("t.csv", "a,b\n1,2\n".encode("utf-16"), "not a whole csv file", "save it in UTF-8"),
    "csv: a name twice": data("t.csv", b"a,a\n1,2\n", "two columns called 'a'", "give each a name of its own"),
    "csv: names or data": data("t.csv", b"0,1\n5,6\n", "may be names or data", "names that are not numbers"),
    "parquet: empty": data("t.parquet", b"", "not a whole parquet file", again),
    "parquet: truncated": data("t.parquet", whole["parquet"][:-9], "not a whole parquet file", again),
    "parquet: other bytes": data("t.parquet", b"PAR1 and then nothing", "not a whole parquet file", again),
    "parquet: lists": Case(
        ("fit", "t.parquet", "--out", "new"),
        BAD_DATA,
        ("column 'l' holds cells of type list", r"row 0 is \[1.0\]", "leave the column out"),
        {"t.parquet": table(l=[[1.0], [2.0]])},
    ),
    "parquet: no columns": data("t.parquet", table(), "has no columns", "give at least one"),
    "idx: empty": data("t.idx", b"", "starts with nothing", "fetch it again"),
    "idx: wrong magic": data("t.idx", b"hello", "not an idx file: it starts with 68656c6c", "fetch it again"),
    "idx: wrong type": data("t.idx", idx(COUNTS, 7), "not an idx file: it starts with 00000702", "fetch it again"),
    "idx: truncated": data("t-ubyte", idx(COUNTS)[:-1], "cut short: 120 bytes", "fetch it again"),
    "idx: cut in its header": data("t.idx", idx(COUNTS)[:9], "cut short within its header", "fetch it again"),
    "idx: too long": data("t.idx", idx(COUNTS) + b"x", "longer than its header says", "fetch it again"),
    "idx: larger than memory": data("t.idx", b"\0\0\x0e\x03" + b"\xff" * 12, "cut short", "fetch it again"),
    "gz: truncated": data("t.idx.gz", gzip.compress(idx(COUNTS))[:-9], "not a whole gzip file", "fetch it again"),
    "gz: wrong checksum": data(
        "t.idx.gz", gzip.compress(idx(COUNTS))[:-8] + b"abcdefgh", "not a whole gzip file .CRC", "fetch it again"
    ),
    "another suffix": data("t.mat", b"x", "no known suffix", r"what can be read is \.npy, \.npz"),
    "an empty column": values([[1, np.nan], [3, np.nan]], "column 1 is NaN in every row", "leave it out"),
    "an infinity": values(b"a,b\n1,inf\n2,3\n", "row 0 of column 'b' is infinite", "drop the row"),
    "1e400": values(b"a,b\n1,1e400\n2,3\n", "row 0 of column 'b' is infinite", "drop the row"),
    "1e300": values([[1, 1e300], [2, 3]], r"row 0, column 1 is 1e\+300", "rescale the column"),
    "nothing that varies": values(b"a,b\n1,x\n1,x\n", "no column to learn from", "give a column that varies"),
    "no columns": values(X[:, :0], r"X has 0 feature\(s\)", "give at least one column"),
    "one axis": values(X[:, 0], "X is a 1D array", r"reshape\(-1, 1\)"),
    "a file that is not there": case("fit t.npy --out new", MISSING, r"called 't\.npy'", "check the path"),
    "a file within a file": case("fit good.csv/t.npy --out new", MISSING, "called 'good.csv/t.npy'", "check the path"),
    "a dataset misspelt": case("fit digit --out new", MISSING, "called 'digit'", "did you mean 'digits'"),
    "a folder, not a file": case(
        "fit run --out new", MISSING, "the folder run holds no train-im", "give a file, or put"
    ),
    "a folder that does not fit": Case(
        ("fit", "four", "--out", "new"),
        BAD_DATA,
        (r"t10k-labels-idx1-ubyte holds labels \(40,\) for 2 images", "fetch it again"),
        {f"four/{name}{SIX}": idx(np.zeros((2, 3, 3))) for name in ("train-images-idx3", "t10k-images-idx3")}
        | {"four/train-labels-idx1-ubyte": idx([1, 2]), "four/t10k-labels-idx1-ubyte": idx(COUNTS[:, 0])},
    ),
}

COMMANDS: dict[str, Case] = {
    "matrix: csv: text": matrix(
        "t.csv", b"a,b\n1,2\n3,four\n", "column 'b' holds String", "row 1 is 'four'", "encode it"
    ),
    "matrix: csv: decimal commas": matrix(
        "t.csv", b'a,b\n"1,5",2\n', "column 'a' .*row 0 is '1,5'", "encode it as numbers"
    ),
    "matrix: csv: dates": matrix("t.csv", b"a\n2020-01-01\n", "column 'a' holds Date", "encode it as numbers"),
    "matrix: parquet: text": matrix(
        "t.parquet", table(t=["1", "x"]), "column 't' .*row 1 is 'x'", "encode it as numbers"
    ),
    "matrix: an empty column": matrix(
        "t.csv", b"a,b\n1,\n3,\n", r"column 1 \('b'\) is NaN in every row", "leave it out"
    ),
    "matrix: 1e300": matrix(
        "t.csv", b"a,b\n1,1e300\n2,3\n", r"row 0, column 1 \('b'\) is 1e\+300", "rescale the column"
    ),
    "no model": case("score nowhere good.csv", MISSING, "nowhere holds no model"),
    "a column missing": case(
        "encode run t.csv --out z.csv", BAD_DATA, "lack 'c'", "'a', 'b', 'c'", t_csv=b"a,b\n1,2\n"
    ),
    "a column extra": case(
        "score run t.csv", BAD_DATA, "hold the extra 'd'", "'a', 'b', 'c'", t_csv=b"d,c,b,a\n1,2,3,4\n"
    ),
    "a column twice": case(
        "score run t.csv", BAD_DATA, "two columns called 'a'", "of its own", t_csv=b"a,a,b\n1,2,3\n"
    ),
    "too few columns": case(
        "report run t.npy", BAD_DATA, "X has 2 features, but VAE", r"rows of shape \(3,\)", t_npy=npy(X[:, :2])
    ),
    "negative counts": case(
        "fit t.npy --out new --likelihood poisson", BAD_DATA, "column 1 is -1", "choose another", t_npy=npy([[1, -1]])
    ),
    "fractional counts": case(
        "fit good.csv --out new --likelihood poisson", BAD_DATA, r"column 0 \('a'\) is 0\.1", "choose another"
    ),
    "grey values beyond max_value": case(
        "fit good.csv --out new --binarise afresh", BAD_DATA, r"outside \[0, 1\]", "rescale"
    ),
    "convolutions over a table": case(
        "fit good.csv --out new --network conv", BAD_DATA, "needs rows of shape", "reshape"
    ),
    "out: another suffix": case(
        "encode run good.csv --out z.txt", USAGE, r"z\.txt has a suffix that cannot be written", r"use \.npy"
    ),
    "out: a folder": case(
        "encode run good.csv --out run", USAGE, "run has a suffix that cannot be written", r"use \.npy"
    ),
    "out: a folder with a suffix": Case(
        ("sample", "run", "--out", "t.npy"), IO, (r"t\.npy cannot be written .Is a dir", "another"), folders=("t.npy",)
    ),
    "out: within a file": case(
        "sample run --out good.csv/z.csv", IO, "good.csv/z.csv cannot be written", "another path"
    ),
    "out: deep within a file": case("sample run --out good.csv/a/z.csv", IO, "cannot be written", "another path"),
    "out: where nothing can be": case("sample run --out /proc/nowhere/z.csv", IO, "cannot be written", "another path"),
    "fit: out is a file": case("fit good.csv --out good.csv", IO, "good.csv: File exists", "use another path"),
    "fit: out within a file": case("fit good.csv --out good.csv/new", IO, "new: Not a directory", "use another path"),
    "fit: out where nothing can be": case(
        "fit good.csv --out /proc/new", IO, "/proc/new: No such file", "another path"
    ),
    "a model is there": case("fit good.csv --out run", USAGE, "run already holds a model", "give --force"),
    "no samples": case("sample run -n 0 --out z.npy", USAGE, "'-n' / '--rows': 0 is not in the range x>=1"),
    "one draw": case("score run good.csv --samples 1", USAGE, "'--samples': 1 is not in the range x>=2"),
    "a verb misspelt": case("ft good.csv", USAGE, "No such command 'ft'. Did you mean 'fit'?"),
    "an option misspelt": option("--lateral-dim 2", "No such option '--lateral-dim'.*--latent-dim"),
    "an argument missing": case("fit", USAGE, "Missing argument 'DATA'"),
    "no --out": case("fit good.csv", USAGE, "Missing option '--out'"),
    "latent_dim 0": option("--latent-dim 0", "'--latent-dim': 0 is not in the range 1<=x<=1000000"),
    "latent_dim above a million": option("--latent-dim 1000001", "'--latent-dim': 1000001 is not in the range"),
    "latent_dim in words": option("--latent-dim two", "'--latent-dim': 'two' is not a valid"),
    "draws 0": option("--draws 0", "'--draws': 0 is not in the range x>=1"),
    "batch_size 0": option("--batch-size 0", "'--batch-size': 0 is not in the range x>=1"),
    "epochs 0": option("--epochs 0", "'--epochs': 0 is not in the range x>=1"),
    "search 0": option("--search 0", "'--search': 0.* is not in the range x>0"),
    "validation 1": option("--validation 1", "'--validation': 1.* is not in the range 0<=x<1"),
    "seed -1": option("--seed -1", "'--seed': -1 is not in the range x>=0"),
    "hidden in words": option("--hidden wide", "--hidden: 'wide' is not a list of layer sizes such as 256,128"),
    "hidden 0": option("--hidden 8,0", "--hidden: '8,0' is not a list of layer sizes such as 256,128"),
    "network misspelt": option("--network mpl", "'--network': 'mpl' is not one of 'mlp', 'conv'"),
    "binarise misspelt": option("--binarise fresh", "'fresh' is not one of 'none', 'fixed', 'afresh'"),
    "likelihood misspelt": option("--likelihood poison", "likelihood is 'poison'.*did you mean 'Poisson'"),
    "objective misspelt": option("--objective elb", "objective is 'elb'.*did you mean 'elbo'"),
    "device misspelt": option("--device cud", "device is 'cud'.*did you mean 'cuda'"),
    "learning_rate NaN": option("--learning-rate nan", "learning_rate is nan; give a finite number, above 0"),
    "beta infinite": option("--beta inf", "beta is inf; give a finite number, 0 or more"),
    "max_value infinite": option("--max-value inf", "max_value is inf; give a finite number, above 0"),
    "free bits of another bound": option("--free-bits 1 --objective iwae", 'use it with objective="elbo"'),
}

CLI: dict[str, Case] = {f"file: {name}": case for name, case in FILES.items()} | COMMANDS
