"""What is asked of every message, and of the folder that a refusal leaves."""

from __future__ import annotations

import re
from pathlib import Path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every name under ``folder``, and what each file holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_one_sentence(message: str, words: tuple[str, ...]) -> None:
    """One line, one sentence, which holds each of ``words``."""
    assert_words(message, words)
    own = re.sub(r"\(.*\)|'[^']*'", "", message)  # what stands in brackets or quotes is others'
    assert "\n" not in message
    assert "Traceback" not in message
    assert not re.search(r"[.!?]\s+\S", own), f"more than one sentence: {message!r}"
    assert re.search(r"[.?\d)]$", message), message


def assert_words(line: str, words: tuple[str, ...]) -> None:
    for pattern in words:
        assert re.search(pattern, line), f"{pattern!r} is not in {line!r}"
