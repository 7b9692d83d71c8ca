"""Each file of a model and of a checkpoint cut, lengthened, flipped in a bit, removed or swapped: it is named."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import lowerbound as lb
from injection import trees
from injection.tally import Tally
from injection.victims import fit_vae
from lowerbound.errors import FormatError
from lowerbound.storage import checkpoints, folder
from lowerbound.storage.contents import contents

FLIPS = {"test": 16, "quick": 64, "full": 200}  # places in a file, beside its header, in which a bit is flipped
HEADER = {"test": 32, "quick": 256, "full": 1 << 20}  # bytes of the header likewise
GONE_ON = {"test": 2, "quick": 6, "full": 40}  # damages of each file of a checkpoint that a fit goes on from
CUTS = 20
OPTIONS = {"binarise": "afresh", "max_value": 16, "warm_up": 2, "epochs": 3}
Damage = tuple[str, bytes | None]


def run(size: str, seed: int, base: Path) -> list[Tally]:
    rng = random.Random(seed)
    fit_vae(OPTIONS, base / "whole")
    fit_vae(OPTIONS | {"random_state": 1}, base / "other")
    loads = [_loads(base, name, size, rng) for name in ("", f"{checkpoints.FOLDER}/{_newest(base / 'whole')}")]
    return [*loads, _gone_on(base, size, rng), _all_damaged(base), _finished_again(base)]


def _newest(run: Path) -> str:
    return f"{trees.newest(run):08d}"


def damages(data: bytes, other: bytes | None, flips: int, header: int, rng: random.Random) -> Iterator[Damage]:
    """Ways to damage a file: what was done, and the bytes after it (None: the file is gone)."""
    size = len(data)
    for cut in sorted({0, 1, size - 1, *(rng.randrange(size) for _ in range(CUTS - 3))}):
        yield f"cut to {cut} of {size} bytes", data[:cut]
    for more in (b"\0", b"\n", b" ", data[-1:], bytes(4096)):
        yield f"lengthened by {len(more)}", data + more
    for place in sorted({*range(min(header, _header(data))), *(i * size // flips for i in range(flips)), size - 1}):
        bit = 1 << rng.randrange(8)
        yield f"bit {bit} of byte {place} flipped", data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
    yield "removed", None
    if other is not None and other != data:
        yield "swapped with that of another model", other


def _header(data: bytes) -> int:
    """How many bytes come before the numbers of safetensors; all of JSON."""
    size = 8 + int.from_bytes(data[:8], "little")
    return size if size <= len(data) else len(data)


def _set(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def _loads(base: Path, inside: str, size: str, rng: random.Random) -> Tally:
    """Loads of a model's folder, or a checkpoint's, with one file damaged."""
    where = base / "whole" / inside
    tally = Tally(f"damaged file of a {'checkpoint' if inside else 'model'}, then loaded")
    for path in sorted(path for path in where.iterdir() if path.is_file() and path.name not in (".lock",)):
        if path.name == "metrics.jsonl" and where.name == checkpoints.FOLDER:
            continue
        data = path.read_bytes()
        other = base / "other" / inside / path.name
        swapped = other.read_bytes() if other.exists() else None
        for what, bad in damages(data, swapped, FLIPS[size], HEADER[size], rng):
            _set(path, bad)
            found = _loaded(where, base / "whole", path)
            if inside and path.name == folder.MANIFEST and bad is None:
                found = found[0], []  # as if the checkpoint had not been written: there is nothing to name
            tally.add(*found, f"{path.relative_to(base)} {what}")
        path.write_bytes(data)
    if found := trees.unreadable(base / "whole"):
        raise RuntimeError(f"the folder was not put back as it was: {found}")
    return tally


def _loaded(where: Path, run: Path, damaged: Path) -> tuple[str, list[str]]:
    """What a load of ``where`` and a look at ``run`` say of a damaged file."""
    said = " ".join(contents(run).problems)
    troubles = [] if str(damaged) in said or damaged.name in said else [f"`info` does not name it: {said!r}"]
    try:
        lb.load(where)
    except FormatError as error:
        return "refused", troubles + ([] if damaged.name in str(error) else [f"not named: {error}"])
    except Exception as error:
        return type(error).__name__, [*troubles, f"{type(error).__name__}: {error}"]
    # a load reads the model in a checkpoint, not the state of the fit; nor what the manifest says of that
    in_checkpoint = where != run and damaged.name in (checkpoints.NUMBERS, checkpoints.TENSORS, folder.MANIFEST)
    is_read = not (in_checkpoint and said)
    return "loaded" if is_read else "not read by a load, named by `info`", [*troubles, *["loaded silently"] * is_read]


def _gone_on(base: Path, size: str, rng: random.Random) -> Tally:
    """Fits that go on from a folder whose newest checkpoint has a damaged file."""
    tally, reference = Tally("damaged file of a checkpoint, then gone on with"), trees.tree(base / "whole")
    newest = base / "run" / checkpoints.FOLDER / _newest(base / "whole")
    for name in sorted(path.name for path in (base / "whole" / newest.relative_to(base / "run")).iterdir()):
        data = (base / "whole" / newest.relative_to(base / "run") / name).read_bytes()
        found = list(damages(data, None, FLIPS[size], 64, rng))
        some = [*rng.sample(found[:-1], GONE_ON[size]), found[-1]]
        for what, bad in some:
            _cut_short(base)
            _set(newest / name, bad)
            outcome, troubles = _fit_again(base / "run", name, reference)
            if name == "manifest.json" and bad is None:  # then nothing says that there was a checkpoint
                outcome, troubles = "as if it had not been written", [t for t in troubles if t != "not named: "]
            tally.add(outcome, troubles, f"{name} {what}")
    return tally


def _cut_short(base: Path) -> None:
    """``run``: the folder of the fit as it was before the model was written."""
    shutil.rmtree(base / "run", ignore_errors=True)
    shutil.copytree(base / "whole", base / "run", ignore=shutil.ignore_patterns(".lock"))
    for path in (base / "run").iterdir():
        if path.is_file():
            path.unlink()


def _fit_again(run: Path, name: str, reference: trees.Tree) -> tuple[str, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit_vae(OPTIONS, run)
        except Exception as error:
            return type(error).__name__, [f"{type(error).__name__}: {error}"]
    said = " ".join(str(warning.message) for warning in caught)
    troubles = trees.differences(run, reference) + ([] if name in said else [f"not named: {said}"])
    return "named, went on from the checkpoint before to the same bytes" if not troubles else "otherwise", troubles


def _all_damaged(base: Path) -> Tally:
    """Every checkpoint damaged: the fit refuses, and names the folder."""
    tally = Tally("every checkpoint damaged, then gone on with")
    for name in (checkpoints.NUMBERS, checkpoints.TENSORS, "config.json", "model.safetensors", "manifest.json"):
        _cut_short(base)
        for path in checkpoints.listed(base / "run"):
            (path / name).write_bytes((path / name).read_bytes()[:-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fit_vae(OPTIONS, base / "run")
                tally.add("fitted", ["started anew without a word"], name)
            except FormatError as error:
                tally.add("refused", [] if str(base / "run") in str(error) else [f"not named: {error}"], name)
    return tally


def _finished_again(base: Path) -> Tally:
    """A damaged model beside whole checkpoints: the same fit mends it."""
    tally, reference = Tally("damaged model beside whole checkpoints, then gone on with"), trees.tree(base / "whole")
    for name in ("config.json", "manifest.json", "metrics.jsonl", "model.safetensors"):
        for size in (0, 100, None):
            shutil.rmtree(base / "run", ignore_errors=True)
            shutil.copytree(base / "whole", base / "run")
            _set(base / "run" / name, None if size is None else (base / "run" / name).read_bytes()[:size])
            fit_vae(OPTIONS, base / "run")
            tally.add("mended", trees.differences(base / "run", reference), f"{name}, {size} bytes")
    return tally
