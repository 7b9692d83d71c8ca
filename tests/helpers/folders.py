"""What tests do to folders: take all of their bytes, and spoil a file so that only what is in it is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowerbound.storage import folder


def tree(path: Path) -> dict[str, bytes]:
    """Every file under ``path``, by its relative name."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def reseal(path: Path) -> None:
    """A manifest that vouches for the files as they now are, as a forger would write it."""
    names = json.loads((path / folder.MANIFEST).read_bytes())["sha256"]
    hashes = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names if (path / name).exists()}
    (path / folder.MANIFEST).write_bytes(folder.manifest(hashes))


def forge(path: Path, spoil: Callable[[Any], Any], name: str = "config.json") -> None:
    """Change a JSON file of a folder, and its manifest with it."""
    file = path / name
    file.write_text(json.dumps(spoil(json.loads(file.read_bytes()))))
    reseal(path)
