"""A folder is the old one or the new one wherever its writer is cut short, and every byte of it is vouched for."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from folders import reseal, tree

import lowerbound as lb
from lowerbound.draw import Batch
from lowerbound.errors import FormatError
from lowerbound.model import draw
from lowerbound.storage import folder
from lowerbound.storage.contents import contents

OLD = {"a": b"old a", "b": b"old b" * 1000, "gone": b"old"}
NEW = {"a": b"new a", "b": b"new b" * 2000, "come": b"new"}
GOLDEN = Path(__file__).parent / "golden" / "format1"


def read_all(path: Path) -> dict[str, bytes]:
    return folder.read(path, lambda found: {name: found.read(name) for name in found.hashes})


class Dead(BaseException):
    """What a killed process can do no more: anything."""


class Fate:
    """Lets ``after`` operations on files through; then each fails, or (``dead``) nothing at all happens any more."""

    failed = False

    def __init__(self, monkeypatch, after: int, error: BaseException) -> None:
        self.left, self.error, self.met = after, error, 0
        for module, name in ((os, "fsync"), (os, "open"), (os, "replace"), (os, "unlink")):
            monkeypatch.setattr(module, name, self.wrap(getattr(module, name)))
        for name in ("replace", "unlink"):
            monkeypatch.setattr(Path, name, self.wrap(getattr(Path, name)))

    def wrap(self, function):
        def call(*args, **kwargs):
            self.met += 1
            if self.left == 0 and (isinstance(self.error, Dead) or not self.failed):
                self.failed = True
                raise self.error
            self.left = max(self.left - 1, 0)
            return function(*args, **kwargs)

        return call


@pytest.mark.parametrize("error", [Dead(), OSError(28, "No space left on device")], ids=["killed", "no space"])
def test_a_writer_cut_short_anywhere_leaves_the_old_or_the_new(error, tmp_path):
    """After every prefix of the operations of a write: a reader sees all of one; a next writer, and its death, too."""
    folder.write(tmp_path / "start", OLD)
    seen = set()
    for after in range(200):
        path = Path(shutil.copytree(tmp_path / "start", tmp_path / str(after)))
        with pytest.MonkeyPatch.context() as patch:
            fate = Fate(patch, after, error)
            with contextlib.suppress(type(error)):
                folder.write(path, NEW)
        ended = not fate.failed
        found = read_all(path)
        assert found in (OLD, NEW), after
        seen.add(found == NEW)
        with pytest.MonkeyPatch.context() as patch:
            Fate(patch, after % 13, Dead())
            with pytest.raises(Dead):
                folder.write(path, OLD)
        assert read_all(path) in (found, OLD), after
        folder.write(path, OLD)
        assert tree(path) == tree(tmp_path / "start")
        if ended:
            break
    assert ended
    assert after > 15
    assert seen == {True, False}


def test_a_reader_beside_a_writer_sees_one_of_the_two(tmp_path):
    folder.write(tmp_path, OLD)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            folder.write(tmp_path, NEW)
            folder.write(tmp_path, OLD)

    writer = threading.Thread(target=write)
    writer.start()
    old = new = reads = 0
    deadline = time.monotonic() + 600
    try:
        while (min(old, new) == 0 or reads < 300) and time.monotonic() < deadline:
            found = read_all(tmp_path)
            assert found in (OLD, NEW)
            old, new, reads = old + (found == OLD), new + (found == NEW), reads + 1
    finally:
        stop.set()
        writer.join()
    assert min(old, new) > 0


def test_every_bit_of_every_file_is_vouched_for(tmp_path):
    folder.write(tmp_path, {"a": b"some bytes", "b": b""})
    whole = tree(tmp_path)
    for name, data in whole.items():
        spoilt = [
            data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in range(8)
        ]
        spoilt += [data[:at] for at in range(len(data))] + [data + b"\0", data + b"\n", b" " + data, data * 2 + b"x"]
        for other in spoilt:
            (tmp_path / name).write_bytes(other)
            with pytest.raises(FormatError) as error:
                read_all(tmp_path)
            assert str(tmp_path / name) in str(error.value) or name == folder.MANIFEST
            assert folder.problems(tmp_path)
        (tmp_path / name).write_bytes(data)
    assert read_all(tmp_path) == {"a": b"some bytes", "b": b""}


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", ".hidden", "sub/file", folder.MANIFEST, ""])
def test_a_manifest_names_files_of_its_folder_only(name, tmp_path):
    folder.write(tmp_path, OLD)
    (tmp_path / folder.MANIFEST).write_bytes(folder.manifest({name: "0" * 64}))
    with pytest.raises(FormatError, match="no file of a model"):
        read_all(tmp_path)


def test_links_and_pipes_are_not_read(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(OLD["a"])
    path = tmp_path / "run"
    folder.write(path, OLD)
    (path / "a").unlink()
    (path / "a").symlink_to(outside)
    with pytest.raises(FormatError, match="a is a link, which is not followed"):
        read_all(path)
    (path / "a").unlink()
    os.mkfifo(path / "a")
    with pytest.raises(FormatError, match="a is not a file"):
        read_all(path)
    (path / "a").unlink()
    (path / "a").mkdir()
    with pytest.raises(FormatError, match="a is not a file"):
        read_all(path)


def test_writing_replaces_a_link_and_not_what_it_points_to(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    path = tmp_path / "run"
    path.mkdir()
    for name in (".lock", "config.json", "model.safetensors", folder.MANIFEST, ".new-config.json"):
        (path / name).symlink_to(outside)
    with pytest.raises(OSError, match=r"\.lock"):
        lb.VAE(1, epochs=1, random_state=0).fit([[0.1, 1.0], [1.5, 0.2]]).save(path)
    (path / ".lock").unlink()
    lb.VAE(1, epochs=1, random_state=0).fit([[0.1, 1.0], [1.5, 0.2]]).save(path)
    assert outside.read_bytes() == b"mine"
    assert lb.load(path).latent_dim == 1


def test_the_golden_folder_of_format_1_still_loads(tmp_path):
    """Written by 0.1.0 on x86-64; figures to the last digits of single precision, not bits."""
    path = Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    vae, told = lb.load(path), lb.load(path).history_
    x = lb.data.read(GOLDEN / "rows.csv").x
    due = lb.data.read(GOLDEN / "latents.csv").x
    assert abs(vae.transform(x) - due).max() < 1e-5
    assert (told.best_epoch, told.stopped, len(told.records)) == (3, "epochs", 3)
    assert contents(path).problems == ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is another machine
        again = lb.VAE(**vae.get_params() | {"threads": 1, "epochs": 4}).fit(x, run_dir=path, checkpoint_every=2)
    assert [record["epoch"] for record in again.history_.records] == [1, 2, 3, 4]


def test_contents_say_what_is_not_whole(tmp_path):
    path = Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    assert contents(path).lines()[-1] == "whole: every file is as it was written"
    (path / "metrics.jsonl").write_text("")
    (path / "checkpoints" / "00000004" / "state.json").unlink()
    found = contents(path)
    assert [sentence.split(";")[0].removeprefix(f"{path}/") for sentence in found.problems] == [
        "metrics.jsonl does not match its SHA-256 in manifest.json",
        "checkpoints/00000004/state.json is missing but listed in manifest.json",
    ]
    assert found.checkpoints == {4: "damaged", 6: "whole"}
    reseal(path)
    assert len(contents(path).problems) == 1


def test_latents_of_format_1_are_read_as_latents_by_name():
    """Written by the version before: a class and a normal of one network, and log w of a draw of fixed noise."""
    saved = lb.load(GOLDEN / "latents")
    assert list(saved.posterior.parts) == list(saved.model.prior.parts) == ["k", "z"]
    x = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0]])
    batch = Batch(x, None, torch.arange(2), torch.full((2,), 0.5))
    found = draw(saved.model, saved.posterior, batch, torch.full((1, 2, 8), 0.3)).log_w
    torch.testing.assert_close(found, torch.tensor([[-3.523458242416382, -3.813971757888794]]))
