"""A model as a folder: ``config.json``, ``model.safetensors``, ``metrics.jsonl``.

Loading builds only parts of the library (``storage.parts``); a network of your own is saved as numbers alone, and must
be given to ``load``. Nothing is unpickled, nothing in a file is run, and no memory is taken that the weights do not
fill.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import torch
from torch import Tensor, nn

import lowerbound
from lowerbound.checks import OBJECT, TEXTS, Check, check_fields, is_list, is_text, one_of, or_none, whole
from lowerbound.errors import FormatError
from lowerbound.process import seeded
from lowerbound.storage import checkpoints, folder, json_data, migrations, registry, tensor_data
from lowerbound.storage.files import locked
from lowerbound.storage.history import History, Stopped
from lowerbound.storage.parts import CONFIG, decode, encode, names_in

if TYPE_CHECKING:
    from lowerbound.model import Model
    from lowerbound.posteriors import Posterior

FORMAT = 2
TENSORS, METRICS = "model.safetensors", "metrics.jsonl"
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: migrations.config_from_1}
"""How a configuration of a format becomes one of the next."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_CONFIG = {
    "dtype": one_of(*_DTYPES),
    "model": OBJECT,
    "posterior": or_none(OBJECT),
    "history": OBJECT,
    "extra": OBJECT,
    "versions": Check(
        "an object of text", lambda value: isinstance(value, dict) and is_list([*value, *value.values()], is_text)
    ),
}
"""The check of each field of a configuration, except its format."""
_HISTORY = {
    "best_epoch": or_none(whole("a whole number of 0 or more")),
    "stopped": one_of(None, *get_args(Stopped)),
    "rescues": TEXTS,
}
"""The check of each field of a ``History``; its records are in a file of their own."""
_CODES = {  # of a safetensors header
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
}
_SMALL = 1_000_000  # numbers that a model may hold beside its weights, whatever these are
_TRIES = 20  # at a folder that changes while it is read
T = TypeVar("T")


@dataclass(frozen=True)
class Saved:
    """The contents of a folder: a model, q(z|x) if there is one, the history of their fit, and the extra values."""

    model: Any  # a LatentVariableModel or a TopicModel
    posterior: Posterior | None
    history: History
    extra: dict[str, Any]


def save(
    path: str | Path,
    model: Model,
    posterior: Posterior | None,
    extra: Mapping[str, Any] | None = None,
    history: History | None = None,
) -> None:
    """Write a model and its posterior into the folder ``path``; ``extra`` is kept as JSON with them.

    The folder holds the new model or, wherever writing was cut short, the one before. Raises ``LockedError`` while a
    fit writes there, ``OSError`` if it cannot be written.
    """
    with locked(Path(path)):
        folder.write(Path(path), files(model, posterior, extra, history))


def files(
    model: Model,
    posterior: Posterior | None,
    extra: Mapping[str, Any] | None = None,
    history: History | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> dict[str, bytes]:
    """The files of a model's folder. ``tensors``: values to save instead of the modules' own, by name."""
    history = History() if history is None else history
    config = {
        "format": FORMAT,
        "versions": {"lowerbound": lowerbound.__version__, "torch": torch.__version__},
        "dtype": str(tensor_data.first_of(model).dtype).removeprefix("torch."),
        "model": encode(model),
        "posterior": encode(posterior),
        "history": {name: getattr(history, name) for name in _HISTORY},
        "extra": dict(extra or {}),
    }
    own = tensor_data.tensors_of({"model": model} | ({} if posterior is None else {"posterior": posterior}))
    if tensors is not None:
        own = {name: tensors.get(name, value) for name, value in own.items()}
    return {
        CONFIG: json_data.json_bytes(config),
        TENSORS: tensor_data.tensor_bytes(own),
        METRICS: "".join(json_data.json_line(record) for record in history.records).encode(),
    }


def load(path: str | Path, **own: Any) -> Saved:
    """Read what ``save`` wrote. ``own``: what is not the library's, as ``decoder=…`` or ``encoder=…``.

    Every file is checked against the folder's manifest first; ``FormatError`` names one that is not as written.
    """
    return _read(path, lambda found: _load(found, own))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Run the block, and give the folder ``path`` to what it says of a configuration."""
    try:
        yield
    except FormatError as error:
        if not str(error).startswith(CONFIG):
            raise
        raise FormatError(f"{path / str(error)}") from error


def place(path: str | Path, warn: bool = True) -> Path:
    """The folder of the model in ``path``: itself or, of a fit that has not ended, the newest whole checkpoint."""
    path = Path(path)
    if holds_model(path):
        if warn and checkpoints.unfinished(path):
            warnings.warn(f"a fit in {path} has not ended: this is the model from before it", stacklevel=3)
        return path
    whole = [found for found in reversed(checkpoints.listed(path)) if not folder.problems(found)]
    if not whole and checkpoints.unfinished(path):
        raise FileNotFoundError(f"{path} holds no model yet: a fit there has not ended; resume it, or wait for it.")
    if not whole:
        raise FileNotFoundError(f"{path} holds no model: there is no {CONFIG} in it.")
    if warn:
        step = int(whole[0].name)
        warnings.warn(f"the fit of {path} has not ended: this is its best model up to step {step}", stacklevel=3)
    return whole[0]


def holds_model(path: Path) -> bool:
    """Whether ``path`` itself is a model's folder, whole or not."""
    return any((path / name).exists() for name in (CONFIG, folder.MANIFEST))


def _read(path: str | Path, reader: Callable[[folder.Folder], T], warn: bool = True) -> T:
    """``reader`` of the model in ``path``; again if that was a checkpoint whose place a newer one has taken."""
    for _ in range(_TRIES):
        there = checkpoints.listed(Path(path))
        try:
            return folder.read(place(path, warn), reader)
        except (FormatError, FileNotFoundError):
            if checkpoints.listed(Path(path)) == there:
                raise
    raise FormatError(f"{path} is written again and again while it is read; wait for the fit to end.")


def read_config(path: str | Path, warn: bool = True) -> dict[str, Any]:
    """The ``config.json`` of a folder, as this version's format has it. ``warn``: of a fit that has not ended."""
    return _read(path, _config, warn)


def _load(found: folder.Folder, own: Mapping[str, Any]) -> Saved:
    config = _config(found)
    with found.open(TENSORS) as file:
        header = tensor_data.tensor_shapes(file, found.path / TENSORS)
        with torch.device("meta"):
            _check_fit(_modules(config, own, found.path), header, found.path)
        tensors = tensor_data.parse_tensors(file.read(), found.path / TENSORS)
    with seeded(0):  # the weights are replaced at once; their random start must not move global state
        modules = _modules(config, own, found.path)
    tensor_data.check_finite(tensors, found.path / TENSORS, _buffers(modules, own))
    for name, value in tensor_data.tensors_of(modules).items():
        value.copy_(tensors[name])
    records = json_data.parse_records(found.read(METRICS), found.path / METRICS)
    history = History(records, **{name: config["history"][name] for name in _HISTORY})
    return Saved(modules["model"], modules.get("posterior"), history, config["extra"])


def _config(found: folder.Folder) -> dict[str, Any]:
    """The configuration of a folder, brought to this version's format."""
    file = found.path / CONFIG
    config: dict[str, Any] = json_data.parse_json(found.read(CONFIG, json_data.LARGEST_JSON), file)
    version = config.get("format") if isinstance(config, dict) else None
    if type(version) is not int or version < 1:
        raise FormatError(f"{file} is not the configuration of a lowerbound model.")
    if version > FORMAT:
        raise FormatError(f"{file} is of format {version}, newer than this version reads: update lowerbound.")
    for older in range(version, FORMAT):
        config = MIGRATIONS[older](config)
    what = f"{file} does not describe a model"
    check_fields({key: of for key, of in config.items() if key in _CONFIG}, _CONFIG, "the configuration", what)
    check_fields(config["history"], _HISTORY, "the history", what)
    return config


def _modules(config: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The model and the posterior that a configuration describes, with values still to be filled in."""
    try:
        with naming(path):
            parts = ("model",) if config["posterior"] is None else ("model", "posterior")
            modules = {name: decode(config[name], own) for name in parts}
    except KeyError as error:
        raise FormatError(f"{path / CONFIG} lacks {error}; restore it or fit the model again.") from error
    except (AttributeError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    kinds = {
        "model": registry.package("model").Model,
        "posterior": registry.package("posteriors").Posterior,
    }
    if not all(isinstance(module, kinds[name]) for name, module in modules.items()):
        raise _damaged(path)
    return {name: module.to(_DTYPES[config["dtype"]]) for name, module in modules.items()}


def _check_fit(modules: Mapping[str, nn.Module], header: tensor_data.Shapes, path: Path) -> None:
    """Refuse modules whose tensors are not those of the header, before they take memory."""
    due = {
        name: (_CODES.get(value.dtype), tuple(value.shape)) for name, value in tensor_data.tensors_of(modules).items()
    }
    for name in sorted(due.keys() | header.keys()):
        if due.get(name) != header.get(name):
            want, have = (" ".join(map(str, at[name])) if name in at else "nothing" for at in (due, header))
            raise FormatError(f"{path / TENSORS} does not fit {CONFIG}: {name} is {have}, where {want} is due.")
    numbers = sum(math.prod(shape) for _, shape in header.values())
    if tensor_data.size_of(modules.values()) > 2 * numbers + _SMALL:
        raise FormatError(f"{path / CONFIG} asks for far more memory than the model's {numbers} numbers; restore it.")


def _buffers(modules: Mapping[str, nn.Module], own: Mapping[str, Any]) -> list[str]:
    """The names of buffers of modules of one's own, which may be infinite, as what hides values is."""
    theirs = {id(value) for part in own.values() if isinstance(part, nn.Module) for value in part.buffers()}
    named = ((f"{name}.{key}", value) for name, part in modules.items() for key, value in part.named_buffers())
    return [name for name, value in named if id(value) in theirs]


def _damaged(path: str | Path) -> FormatError:
    return FormatError(f"{Path(path) / CONFIG} does not describe a model; restore it or fit the model again.")


def rebuild(value: Mapping[str, Any], own: Mapping[str, Any], saved: Saved) -> dict[str, Any]:
    """Build what ``encode`` described with a model; refuse networks larger than the model's own."""
    for key, item in value.items():
        networks_due = key in ("encoder", "decoder", "likelihood", "prior", "objective", "gradient")
        if not networks_due and any(not name.startswith("schedules.") for name in names_in(item)):
            raise FormatError(f"{CONFIG} describes the {key} by a part that is none of its kind; restore it.")
    with torch.device("meta"), seeded(0):
        asked = tensor_data.size_of(decode(item, own, key) for key, item in value.items())
    if asked > tensor_data.size_of((saved.model, saved.posterior)):
        raise FormatError(f"{CONFIG} describes networks of {asked} numbers, more than the model has; restore it.")
    with seeded(0):
        return {key: decode(item, own, key) for key, item in value.items()}
