"""Fetching, from a real server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lowerbound.data import Dataset, load, mnist, named, read
from lowerbound.data.download import fetch, fetch_first
from lowerbound.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
LABELS = np.arange(5, dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


FILES = {name: idx_bytes(IMAGES if "images" in name else LABELS) for name in named._MNIST}
NAME = "train-images-idx3-ubyte"
WHOLE = FILES[NAME]
SHA256 = hashlib.sha256(WHOLE).hexdigest()


class Answers(http.server.BaseHTTPRequestHandler):
    """/good serves ``FILES`` gzipped; the other folders serve them spoilt; counts what it is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        _, folder, name = self.path.split("/")
        body = gzip.compress(FILES[name.removesuffix(".gz")])
        if folder == "none":
            self.send_error(404)
            return
        body = {"wrong": gzip.compress(b"other bytes"), "plain": b"<html>", "cut": body[:-12]}.get(folder, body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (folder == "dropped")))
        self.end_headers()
        self.wfile.write(body[:-20] if folder == "dropped" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Answers.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_fetch_keeps_the_unpacked_bytes(server: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / NAME
    fetch(f"{server}/good/{NAME}.gz", path, SHA256)
    assert path.read_bytes() == WHOLE
    np.testing.assert_array_equal(read(path).x, IMAGES)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("folder", "error", "said"),
    [
        ("wrong", DataError, f"{hashlib.sha256(b'other bytes').hexdigest()}, not {SHA256}"),
        ("none", ConnectionError, "404"),
        ("cut", ConnectionError, "could not fetch"),
        ("dropped", ConnectionError, "could not fetch"),
        ("plain", ConnectionError, "Not a gzipped file"),
    ],
)
def test_a_failed_fetch_leaves_nothing(
    server: str, tmp_path: Path, folder: str, error: type[Exception], said: str
) -> None:
    url = f"{server}/{folder}/{NAME}.gz"
    with pytest.raises(error, match=said) as caught:
        fetch(url, tmp_path / NAME, SHA256)
    assert url in str(caught.value)
    assert f"into {tmp_path} by hand" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_more_bytes_than_are_due_is_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than 75 bytes"):
        fetch(f"{server}/good/{NAME}.gz", tmp_path / NAME, SHA256, limit=len(WHOLE) - 1)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_fetch_leaves_the_file_that_was_there(server: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"before")
    with pytest.raises(DataError):
        fetch(f"{server}/wrong/{NAME}.gz", tmp_path / NAME, SHA256)
    assert (tmp_path / NAME).read_bytes() == b"before"


def test_no_server_and_no_web_address(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an http"):
        fetch("file:///etc/hostname", tmp_path / "a", SHA256)
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as closed:
        port = closed.server_address[1]
    with pytest.raises(ConnectionError, match="by hand"):
        fetch(f"http://127.0.0.1:{port}/good/{NAME}.gz", tmp_path / "a", SHA256, timeout=600)


def test_mirrors_are_tried_in_order(server: str, tmp_path: Path) -> None:
    bases = [f"{server}/{folder}/" for folder in ("none", "wrong", "good", "cut")]
    fetch_first(bases, tmp_path / NAME, SHA256, limit=len(WHOLE))
    assert (tmp_path / NAME).read_bytes() == WHOLE
    assert Answers.asked == [f"/{folder}/{NAME}.gz" for folder in ("none", "wrong", "good")]
    with pytest.raises(ConnectionError):
        fetch_first(bases[1::-1], tmp_path / "other" / NAME, SHA256, limit=len(WHOLE))


def test_mnist_fetches_what_the_cache_lacks(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = {name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in FILES.items()}
    monkeypatch.setattr(named, "_MNIST", sums)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "lowerbound" / "mnist"
    cache.mkdir(parents=True)
    (cache / f"{NAME}.gz").write_bytes(gzip.compress(WHOLE))
    data = mnist(mirrors=[f"{server}/good"])
    np.testing.assert_array_equal(data.train, IMAGES)
    np.testing.assert_array_equal(data.test_labels, LABELS)
    assert Answers.asked == [f"/good/{name}.gz" for name in FILES if name != NAME]
    np.testing.assert_array_equal(mnist(mirrors=[]).test, data.test)
    assert isinstance(load("mnist"), Dataset)
    assert len(Answers.asked) == 3
