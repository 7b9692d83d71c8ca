"""Bad input at the command line: the exit code, one sentence on stderr, nothing on stdout, nothing written."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import warm
from bad_arrays import FINE, NUMBERS, X, fitted
from bad_files import BAD_DATA, CLI, IO, SIX, USAGE, Case, idx, whole
from hypothesis import strategies as some
from messages import assert_one_sentence, assert_words, tree

import lowerbound as lb
from lowerbound import cli, data
from lowerbound.data import named
from lowerbound.errors import DataError
from lowerbound.estimators.preview import preview

PROCESSES = [
    "file: npy: truncated",
    "file: an empty column",
    "a column missing",
    "learning_rate NaN",
    "out: within a file",
]
QUICK = hypothesis.settings(derandomize=True, deadline=None, database=None, max_examples=400)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a model of it."""
    folder = tmp_path_factory.mktemp("start")
    data.write(folder / "good.csv", X, "abc")
    fitted("frame").save(folder / "run")
    return folder


@pytest.fixture
def here(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of it, in which the test runs; what ``main`` sets is put back."""
    shutil.copytree(start, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return tmp_path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def place(case: Case, folder: Path) -> dict[str, bytes | None]:
    """Put the files of ``case`` into ``folder``; all that is then there."""
    for name, content in case.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for name in case.folders:
        (folder / name).mkdir()
    return tree(folder)


def assert_refused(case: Case, code: int, out: str, err: str) -> None:
    lines = err.strip().splitlines()
    assert code == case.code, err
    assert out == ""
    if code == USAGE:  # click says how the command is used, and then what is wrong
        assert lines[0].startswith("Usage: lowerbound"), err
        assert lines[-1].startswith("Error: ")
        assert_words(lines[-1], case.words)
    else:
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        assert_one_sentence(lines[0], case.words)


@pytest.mark.parametrize("name", CLI)
def test_bad_input_at_the_command_line(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = place(CLI[name], here)
    code = run(*CLI[name].arguments)
    assert_refused(CLI[name], code, *capsys.readouterr())
    assert tree(here) == before


@pytest.mark.parametrize("name", PROCESSES)
def test_bad_input_in_a_process_of_its_own(name: str, here: Path) -> None:
    before = place(CLI[name], here)
    done = warm.lowerbound(*CLI[name].arguments, cwd=here)
    assert_refused(CLI[name], done.returncode, done.stdout, done.stderr)
    assert tree(here) == before


# --- check, which says what a fit would do ---


@pytest.mark.parametrize("name", [name for name in CLI if name.startswith("file: ")])
def test_check_refuses_the_files_that_fit_refuses(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = place(CLI[name], here)
    assert run("check", CLI[name].arguments[1], "--json") == CLI[name].code
    out, err = capsys.readouterr()
    if out:
        assert json.loads(out)["problems"]
        assert "a fit would raise an error for these data" in err
    else:
        assert_one_sentence(err.strip(), CLI[name].words)
    assert tree(here) == before


@pytest.mark.parametrize("name", ["a constant column", "one row", "fewer rows than a batch", "counts", "images"])
def test_check_and_fit_agree_on_what_is_fine(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("t.npy", FINE[name])
    before = tree(here)
    assert run("check", "t.npy", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert tree(here) == before
    assert run("fit", "t.npy", "--out", "new", "--epochs", 1, "--hidden", 4, "--json") == 0
    assert json.loads(capsys.readouterr().out)["likelihood"] == said["likelihood"]
    assert (said["rows"], tuple(said["shape"])) == (len(FINE[name]), FINE[name].shape[1:])
    assert said["bytes"] == FINE[name].nbytes
    assert list(said)[:3] == ["rows", "shape", "dtype"]


def test_columns_are_known_by_their_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.write(here / "other.csv", X[:, [2, 0, 1]], "cab")
    for name in ("good", "other"):
        assert run("encode", "run", f"{name}.csv", "--out", f"{name}.npy") == 0
        assert run("score", "run", f"{name}.csv", "--samples", 5, "--json") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == second
    assert (here / "good.npy").read_bytes() == (here / "other.npy").read_bytes()


# --- what cannot be read or fetched ---


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder of files that this process may not read, though it may look at the folder."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for suffix in ("npy", "npz", "csv", "parquet"):
            (folder / f"t.{suffix}").write_bytes(b"a\n1\n" if suffix == "csv" else whole[suffix])
        (folder / "t.idx").write_bytes(idx(X))
        (folder / "t.idx.gz").write_bytes(gzip.compress(idx(X)))
        for path in folder.iterdir():
            path.chmod(0)
        (folder / "closed").mkdir(mode=0)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)  # root may read everything
        try:
            yield folder
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o700)


@pytest.mark.parametrize(
    "name", ["t.npy", "t.npz", "t.csv", "t.parquet", "t.idx", "t.idx.gz", "closed/t.npy", "closed"]
)
def test_a_file_that_may_not_be_read(
    name: str, locked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    path = locked / name
    assert run("check", path) == IO
    words = (f"{path} cannot be read .*ermission denied|{path} cannot be read .*Failed to open", "fix its permissions")
    assert_one_sentence(capsys.readouterr().err.strip(), words)
    with pytest.raises(PermissionError):
        data.load(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc stands for a disk that fails")
@pytest.mark.parametrize("suffix", ["npy", "csv", "idx", "idx.gz"])
def test_a_disk_that_fails(suffix: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / f"t.{suffix}"
    path.symlink_to("/proc/self/mem")  # reading its start is an error of the device
    assert run("check", path) == IO
    assert_one_sentence(capsys.readouterr().err.strip(), (f"{path} cannot be read .*nput/output error", "its disk"))


def test_a_device_is_no_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "t.csv").symlink_to("/dev/zero")
    assert run("check", "t.csv") == BAD_DATA
    assert_one_sentence(capsys.readouterr().err.strip(), (r"t\.csv is no ordinary file", "copy what it gives"))


class Wrong(http.server.BaseHTTPRequestHandler):
    """Serves other bytes than are due."""

    def do_GET(self) -> None:
        body = gzip.compress(b"other bytes")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wrong) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_download_of_other_bytes(
    mirror: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    monkeypatch.setitem(named.NAMES, "mnist", functools.partial(named.mnist, mirrors=[mirror]))
    before = tree(here)
    assert run("fit", "mnist", "--out", "new") == BAD_DATA
    words = (f"{mirror}/train-images-idx3-ubyte.gz has the SHA-256 .* was not kept", "by hand")
    assert_one_sentence(capsys.readouterr().err.strip(), words)
    monkeypatch.setitem(named.NAMES, "mnist", functools.partial(named.mnist, mirrors=["http://127.0.0.1:9"]))
    assert run("fit", "mnist", "--out", "new") == IO
    assert_one_sentence(capsys.readouterr().err.strip(), ("could not fetch http://127.0.0.1:9/train", "by hand"))
    assert tree(here) == before


# --- any bytes at all ---

SUFFIXES = [".npy", ".npz", ".csv", ".parquet", ".idx", ".idx.gz", SIX]
WHOLE = {
    **{f".{key}": value for key, value in whole.items()},
    ".csv": b"a,b\n1,2.5\n3,\n",
    ".idx": idx(np.arange(24.0)),
}
WHOLE |= {SIX: WHOLE[".idx"], ".idx.gz": gzip.compress(WHOLE[".idx"])}


@some.composite
def spoilt(draw: some.DrawFn) -> tuple[str, bytes]:
    """A suffix, and bytes: any, or those of a whole file with some of them put in the place of others."""
    suffix = draw(some.sampled_from(SUFFIXES))
    if draw(some.booleans()):
        return suffix, draw(some.binary(max_size=200))
    good, new = WHOLE[suffix], draw(some.binary(max_size=8))
    start = draw(some.integers(0, len(good)))
    return suffix, good[:start] + new + good[start + draw(some.integers(0, 12)) :]


@pytest.mark.filterwarnings("ignore:.*is read with")
@hypothesis.given(spoilt())
@QUICK
def test_any_bytes_are_a_table_or_refused_by_name(file: tuple[str, bytes]) -> None:
    suffix, content = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"some{suffix}"
        path.write_bytes(content)
        try:
            table = data.read(path)
        except DataError as error:
            assert_one_sentence(str(error), (f"some{suffix}",))
        else:
            assert isinstance(table, data.Table)
            preview(table.x, table.names)
        if data.table_files.is_table(path):
            try:
                frame = data.read_frame(path)
            except DataError as error:
                assert_one_sentence(str(error), (f"some{suffix}",))
            else:
                assert lb.check(frame).rows == len(frame) > 0
        assert tree(Path(folder)) == {path.name: content}


def test_the_table_is_as_long_as_it_is_said_to_be() -> None:
    assert len(CLI) == 109
    assert set(NUMBERS) & set(FINE) == set()
