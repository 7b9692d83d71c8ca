"""Named tensors as safetensors, and back; their shapes are read before their values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lowerbound.errors import FormatError
from lowerbound.storage.json_data import LARGEST_JSON

_ROOM = 1 << 24

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Type ("F32", …) and shape of tensors by name."""


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as safetensors. Raises what torch does where memory is short."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    torch.empty(4 * size + _ROOM, dtype=torch.uint8)  # safetensors makes three copies; where one fails, all ends
    form = torch.contiguous_format
    copies = {name: tensor.detach().cpu().clone(memory_format=form) for name, tensor in tensors.items()}
    return safetensors.torch.save(copies)


def tensor_shapes(file: BinaryIO, path: Path) -> Shapes:
    """Type and shape of each tensor of a safetensors file, by its header alone: no memory is taken for values."""
    try:
        size = int.from_bytes(file.read(8), "little")
        if size > LARGEST_JSON:
            raise ValueError("its header has no end")
        header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        return {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in header.items()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _not_whole(path, error) from error
    finally:
        file.seek(0)


def parse_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """Named tensors, or ``FormatError`` naming the file that they came from."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> FormatError:
    return FormatError(f"{path} is not a whole safetensors file ({error}); restore it or fit again.")


def check_finite(tensors: Mapping[str, Tensor], path: Path, infinite: Collection[str] = ()) -> None:
    """Refuse tensors that hold NaN, or an infinity where they are not among ``infinite``, naming the first."""
    for name, value in tensors.items():
        usable = ~value.isnan() if name in infinite else value.isfinite()
        if value.is_floating_point() and not bool(usable.all()):
            raise FormatError(
                f"{path}: {int((~usable).sum())} of the {value.numel()} numbers of {name} are NaN or infinite; restore "
                "it or fit the model again."
            )


def tensors_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The parameters and buffers of modules by name, ``model.decoder.weight``."""
    return {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}


def first_of(module: nn.Module) -> Tensor:
    """The first parameter of a module or, if it has none, its first buffer: it has the module's dtype and device."""
    return next(itertools.chain(module.parameters(), module.buffers()))


def size_of(parts: Iterable[Any]) -> int:
    """How many numbers the modules among ``parts`` hold."""
    modules = [part for part in parts if isinstance(part, nn.Module)]
    return sum(value.numel() for part in modules for value in (*part.parameters(), *part.buffers()))
