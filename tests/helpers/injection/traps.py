"""The traps of ``hostile``: what is done to a folder, sealed again where its manifest must vouch for it."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from folders import forge, reseal

from lowerbound.storage import folder

Config = Any
Spoil = Callable[[Config], Config]
Trap = Callable[[Path, Path, bytes], object]
HUGE = 1_000_000
DEEP = 100_000


def _put(*keys: str | int, value: Any) -> Spoil:
    """Put ``value`` at a place of the configuration."""

    def spoil(config: Config) -> Config:
        at = config
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        return config

    return spoil


def _nested(depth: int, kind: str = "list") -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


_MODEL = ("model", "arguments")
_DECODER = (*_MODEL, "decoder", "arguments")
_ENCODER = ("posterior", "arguments", "encoder", "arguments")
_LIKELIHOOD = (*_MODEL, "likelihood")
_FITTED, _PARAMETERS = ("extra", "fitted"), ("extra", "parameters")


def _part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"part": name, "arguments": arguments}


def _chain(depth: int) -> Any:
    chain: Any = _part("networks.Standardise", shape=[], log1p=False)
    for _ in range(depth):
        chain = _part("networks.Chain", first=chain, second=_part("networks.Standardise", shape=[], log1p=False))
    return chain


CONFIGS: dict[str, Spoil] = {
    "a layer of 4 TB": _put(*_DECODER, "hidden", value=[HUGE, HUGE]),
    "a layer of 4 TB in the encoder": _put(*_ENCODER, "second", "arguments", "hidden", value=[HUGE, HUGE]),
    "an input of 4 TB": _put(*_ENCODER, "second", "arguments", "in_shape", value=[HUGE, HUGE]),
    "an output of 4 TB": _put(*_DECODER, "out_shape", value=[HUGE, HUGE]),
    "sizes beyond 64 bits": _put(*_DECODER, "hidden", value=[1 << 62, 1 << 62]),
    "sizes beyond all bits": _put(*_DECODER, "hidden", value=[10**100]),
    "a million layers": _put(*_DECODER, "hidden", value=[1] * HUGE),
    "ten thousand layers": _put(*_DECODER, "hidden", value=[1] * 10_000),
    "negative layers": _put(*_DECODER, "hidden", value=[-1]),
    "a layer of a fraction": _put(*_DECODER, "hidden", value=[1.5]),
    "a layer of text": _put(*_DECODER, "hidden", value="16"),
    "a layer of truth": _put(*_DECODER, "hidden", value=[True]),
    "standardised shape of 4 TB": _put(*_ENCODER, "first", "arguments", "shape", value=[HUGE, HUGE]),
    "latents of 4 TB": _put(*_MODEL, "prior", "arguments", "latent_dim", value=10**12),
    "a likelihood of 4 TB": _put(*_LIKELIHOOD, value=_part("likelihoods.Normal", shape=[HUGE, HUGE])),
    "10¹² classes": _put(*_LIKELIHOOD, value=_part("likelihoods.Categorical", classes=10**12)),
    "convolutions of 4 TB": _put(
        *_MODEL,
        "decoder",
        value=_part("networks.ConvDecoder", latent_dim=3, out_shape=[1, 8, 8], channels=[HUGE, HUGE]),
    ),
    "4 TB in a parameter": _put(
        *_PARAMETERS, "encoder", value=_part("networks.MLP", in_shape=[HUGE], out_shape=[HUGE])
    ),
    "a deep chain": _put(*_ENCODER, "first", value=_chain(60)),
    "a deep list in a part": _put(*_DECODER, "hidden", value=_nested(400)),
    "a part of no table": _put(*_LIKELIHOOD, value=_part("os.system", command="true")),
    "a part from a module": _put(*_LIKELIHOOD, value=_part("builtins.eval", source="1")),
    "a part with a path for a name": _put(*_LIKELIHOOD, value=_part("../../likelihoods.Bernoulli")),
    "a part where a name is due": _put(*_LIKELIHOOD, value={"name": {"name": "x"}}),
    "a part with a list for a name": _put(*_LIKELIHOOD, value={"part": ["x"], "arguments": {}}),
    "a part without arguments": _put(*_LIKELIHOOD, value={"part": "likelihoods.Bernoulli"}),
    "a part with arguments of text": _put(*_LIKELIHOOD, value={"part": "likelihoods.Bernoulli", "arguments": "x"}),
    "an activation that is a network": _put(*_DECODER, "activation", value={"name": "networks.MLP"}),
    "an activation that is an objective": _put(*_DECODER, "activation", value={"name": "objectives.elbo"}),
    "networks of one's own": _put(*_MODEL, "decoder", value={"own": "Decoder"}),
    "no dict": lambda config: [config],
    "a format of text": _put("format", value="1"),
    "a format to come": _put("format", value=99),
    "a type of no numbers": _put("dtype", value="object"),
    "a history of text": _put("history", value="x"),
    "a history with a list": _put("history", value=[]),
    "parameters of no estimator": _put("extra", "parameters", value={"shell": "true"}),
    "parameters that are a list": _put("extra", "parameters", value=[1]),
    "nothing fitted": _put("extra", "fitted", value={}),
    "a fitted type that is no type": _put(*_FITTED, "dtype", value="os.system"),
}

HARMLESS_CONFIGS: dict[str, Spoil] = {
    "10¹² levels": _put(*_LIKELIHOOD, value=_part("likelihoods.DiscretizedLogistic", levels=10**12)),
    "a deep list in a parameter": _put(*_PARAMETERS, "hidden", value=_nested(400)),
    "a deep dict in a parameter": _put(*_PARAMETERS, "learning_rate", value=_nested(400, "dict")),
    "a deep dict in what was fitted": _put(*_FITTED, "shape", value=_nested(400, "dict")),
    "a prior for a likelihood": _put(*_LIKELIHOOD, value=_part("priors.Normal", latent_dim=3)),
    "records of rescues that are numbers": _put("history", "rescues", value=7),
    "a best epoch of text": _put("history", "best_epoch", value="x"),
    "an unknown reason to stop": _put("history", "stopped", value=["x"]),
    "an estimator of another kind": _put("extra", "estimator", value="os.system"),
    "an estimator that is a list": _put("extra", "estimator", value=[]),
    "parameters with a device": _put(*_PARAMETERS, "device", value="cuda:99"),
    "a fitted shape of text": _put(*_FITTED, "shape", value="88"),
    "a fitted shape of 4 TB": _put(*_FITTED, "shape", value=[HUGE, HUGE]),
    "a fitted type of objects": _put(*_FITTED, "dtype", value="O"),
    "a fitted type of 400 MB": _put(*_FITTED, "dtype", value="U100000000"),
    "a seed of text": _put(*_FITTED, "seed", value="x"),
    "a seed below zero": _put(*_FITTED, "seed", value=-1),
    "a max_value of text": _put(*_FITTED, "max_value", value="x"),
    "features counted in text": _put(*_FITTED, "n_features_in", value="x"),
    "names that are a number": _put(*_FITTED, "feature_names_in", value=3),
    "names that are lists": _put(*_FITTED, "feature_names_in", value=[[1], [2]]),
}


def _forged(spoil: Spoil) -> Trap:
    """A configuration made anew, and sealed."""
    return lambda run, outside, pickled: forge(run, spoil)


def _replace(name: str, data: bytes, seal: bool = True) -> Trap:
    def trap(run: Path, outside: Path, pickled: bytes) -> None:
        (run / name).write_bytes(data)
        if seal:
            reseal(run)

    return trap


def _pickle(name: str, seal: bool = True) -> Trap:
    return lambda run, outside, pickled: _replace(name, pickled, seal)(run, outside, pickled)


def _manifest(*names: str) -> Trap:
    """A manifest that lists other names too."""

    def trap(run: Path, outside: Path, pickled: bytes) -> None:
        hashes = json.loads((run / folder.MANIFEST).read_bytes())["sha256"]
        (run / folder.MANIFEST).write_bytes(folder.manifest(hashes | dict.fromkeys(names, "0" * 64)))

    return trap


def _link(name: str, seal: bool = False) -> Trap:
    """A link to a file, or a folder, outside."""

    def trap(run: Path, outside: Path, pickled: bytes) -> None:
        there, path = outside / Path(name).name, run / name
        if path.exists():
            shutil.move(path, there)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(b"not yours")
        path.symlink_to(there)

    return trap


def _fifo(name: str) -> Trap:
    def trap(run: Path, outside: Path, pickled: bytes) -> None:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return trap


def _folder(name: str) -> Trap:
    def trap(run: Path, outside: Path, pickled: bytes) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
        (run / name / "file").write_bytes(b"x")

    return trap


def _safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


_HUGE = {"model.decoder.layers.0.weight": {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4 * HUGE**2]}}
_DEEP = b"[" * DEEP + b"]" * DEEP
_DEEP_DICTS = b'{"a":' * DEEP + b"1" + b"}" * DEEP
_FILES = ("config.json", "manifest.json", "metrics.jsonl", "model.safetensors")

LOAD_TRAPS: dict[str, Trap] = {
    **{f"config: {name}": _forged(spoil) for name, spoil in CONFIGS.items()},
    **{f"a pickle named {name}": _pickle(name, name != "manifest.json") for name in _FILES},
    "a manifest with a name above": _manifest("../../x"),
    "a manifest with a name from the root": _manifest("/etc/passwd"),
    "a manifest with a name below": _manifest("checkpoints/x"),
    "a manifest with no name": _manifest(""),
    "a manifest with dots": _manifest("..", "."),
    "a manifest with a zero": _manifest("a\0b"),
    "a manifest with a hidden name": _manifest(".lock"),
    "a manifest with itself": _manifest("manifest.json"),
    "a manifest of a million names": _manifest(*map(str, range(HUGE // 4))),
    **{f"deep JSON in {n}": _replace(n, b"[" * DEEP + b"]" * DEEP, n != "manifest.json") for n in _FILES[:3]},
    **{
        f"deep dicts in {n}": _replace(n, b'{"a":' * DEEP + b"1" + b"}" * DEEP, n != "manifest.json")
        for n in _FILES[:3]
    },
    "a number of a million digits": _replace("config.json", b"1" * HUGE),
    "half a character": _replace("config.json", b'{"format": "\xff"}'),
    "half a surrogate": _replace("metrics.jsonl", b'"\\ud800"\n'),
    "metrics that are numbers": _replace("metrics.jsonl", b"1\n2\n"),
    "tensors of 4 TB in a header": _replace("model.safetensors", _safetensors(_HUGE)),
    "a header of 2⁶³ bytes": _replace("model.safetensors", b"\xff" * 8 + b"{}"),
    "a header of deep lists": _replace("model.safetensors", _safetensors(b"[" * DEEP)),
    "a header that is a list": _replace("model.safetensors", _safetensors([])),
    "a header of no tensors": _replace("model.safetensors", _safetensors({})),
    "a shape of text": _replace("model.safetensors", _safetensors({"a": {"dtype": 3, "shape": "x"}})),
    "an empty file of tensors": _replace("model.safetensors", b""),
    **{f"a link outside for {name}": _link(name) for name in _FILES},
    **{f"a pipe for {name}": _fifo(name) for name in _FILES},
    **{f"a folder for {name}": _folder(name) for name in _FILES},
}


MAY_LOAD_TRAPS: dict[str, Trap] = {  # what is wrong in them does nothing, and takes no memory
    **{f"config: {name}": _forged(spoil) for name, spoil in HARMLESS_CONFIGS.items()},
    "a manifest with a long name": _manifest("x" * 5000),
    "metrics of text": _replace("metrics.jsonl", b'{"epoch": "x"}\n'),
    "metrics of lists": _replace("metrics.jsonl", b'{"epoch": [1]}\n'),
}


def _only_checkpoints(trap: Trap) -> Trap:
    """The trap in a folder of which the model itself was not written yet."""

    def whole(run: Path, outside: Path, pickled: bytes) -> None:
        for path in run.iterdir():
            if path.is_file():
                path.unlink()
        trap(run, outside, pickled)

    return whole


def _in_newest(trap: Trap) -> Trap:
    """The trap in the newest checkpoint."""
    return _only_checkpoints(lambda run, outside, pickled: trap(_newest(run), outside, pickled))


def _newest(run: Path) -> Path:
    return max(path for path in (run / "checkpoints").iterdir() if path.is_dir())


def _linked_newest(run: Path, outside: Path, pickled: bytes) -> None:
    """The newest checkpoint is a link to one outside."""
    path = _newest(run)
    shutil.move(path, outside / path.name)
    path.symlink_to(outside / path.name)


def _linked_next(run: Path, outside: Path, pickled: bytes) -> None:
    """A link outside, with the name of the checkpoint that the fit writes next."""
    path = _newest(run)
    shutil.rmtree(path)
    path.symlink_to(outside)


_STATE = ("state.json", "state.safetensors", "model.safetensors", "config.json", "metrics.jsonl")

FIT_TRAPS: dict[str, Trap] = {
    **{f"a link outside for {name}": _link(name) for name in (*_FILES, ".lock", "checkpoints")},
    "a link outside for checkpoints of no model": _only_checkpoints(_link("checkpoints")),
    "a link outside for the log": _only_checkpoints(_link("checkpoints/metrics.jsonl")),
    "a link outside for the newest checkpoint": _only_checkpoints(_linked_newest),
    "a link outside where the next checkpoint goes": _only_checkpoints(_linked_next),
    "a link outside for a staged file": _link(".new-config.json"),
    "a link outside for a staged file of a checkpoint": _in_newest(_link(".new-config.json")),
    **{f"a link outside for {name} of a checkpoint": _in_newest(_link(name)) for name in _STATE},
    **{f"a pickle named {name} of a checkpoint": _in_newest(_pickle(name)) for name in _STATE},
    **{f"deep JSON in {n} of a checkpoint": _in_newest(_replace(n, _DEEP)) for n in ("state.json", "metrics.jsonl")},
    "no numbers in a state": _in_newest(_replace("state.json", b"{}")),
    "a list for a state": _in_newest(_replace("state.json", b"[]")),
    "no tensors in a state": _in_newest(_replace("state.safetensors", _safetensors({}))),
    "tensors of 4 TB in a state": _in_newest(_replace("state.safetensors", _safetensors(_HUGE))),
    "a manifest with a name above in a checkpoint": _in_newest(_manifest("../../x")),
    **{f"a pipe for {name}": _fifo(name) for name in (*_FILES, ".lock", "checkpoints", "checkpoints/metrics.jsonl")},
    **{f"a pipe for {name} of a checkpoint": _in_newest(_fifo(name)) for name in _STATE},
    **{f"a folder for {name}": _folder(name) for name in (*_FILES, ".lock")},
    **{f"a folder for {name} of a checkpoint": _in_newest(_folder(name)) for name in _STATE},
}
