"""Check the shapes that custom parts return; nothing is broadcast silently."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor

from lowerbound.errors import is_out_of_memory

_OF_SHAPES = ("shape", "size", "dimension", "channels", "expected input")


_MEANING = {
    "[K, B]": "one number for each draw of each row",
    "[B]": "one number for each row",
    "[B, 1]": "one number for each row",
    "[N, 1]": "one number for each latent",
    "[B, 2d]": "the mean and the raw scale of each latent",
    "[B, d]": "one number for each latent of each row",
    "[B, T, F]": "the features of each step of each row",
    "[N, *E]": "a latent for each row",
    "[]": "one number",
}


def expect(what: str, found: object, shape: tuple[int, ...], symbols: str) -> None:
    """Refuse ``found``, which ``what`` gave, if it is no tensor of ``shape``, which ``symbols`` stand for."""
    if isinstance(found, Tensor) and found.shape == shape:
        return
    gave = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
    due = symbols if symbols == "[]" else f"{symbols} = {list(shape)}"
    raise ValueError(f"{what} gave {gave}, where a tensor {due} is expected: {_MEANING[symbols]}.")


@contextlib.contextmanager
def explained(what: str, given: Tensor) -> Iterator[None]:
    """Say of torch's errors about shapes in the block whose they are, and what it was given."""
    try:
        yield
    except RuntimeError as error:
        words = str(error).lower()
        others = type(error) is not RuntimeError or is_out_of_memory(error)  # of tracing, say
        if others or not any(word in words for word in _OF_SHAPES):
            raise
        raise ValueError(f"{what} does not fit its input, {list(given.shape)}: {str(error).splitlines()[0]}") from error
