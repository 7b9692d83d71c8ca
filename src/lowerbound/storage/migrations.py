"""Files of earlier formats, as this version's format has them.

Format 2 (from 1): ``epochs`` for ``passes``, ``max_value`` for ``white``, ``has_missing`` for ``holes``, and
``missing="self_masking"`` for ``"by_value"``; ``Latents``, whose parts are by name, for ``Joint``.
"""

from __future__ import annotations

from typing import Any

_PARAMETERS = {"passes": "epochs", "white": "max_value"}
_FITTED = {"white": "max_value", "holes": "has_missing"}
_HISTORY = {"best_pass": "best_epoch"}


def config_from_1(config: dict[str, Any]) -> dict[str, Any]:
    """A ``config.json`` of format 1 as one of format 2."""
    found: dict[str, Any] = _parts(config) | {"format": 2}
    history, extra = found.get("history"), found.get("extra")
    if isinstance(history, dict):
        found["history"] = _renamed(history, _HISTORY)
        if history.get("stopped") == "passes":
            found["history"]["stopped"] = "epochs"
    if isinstance(extra, dict):
        extra = dict(extra)
        if isinstance(parameters := extra.get("parameters"), dict):
            extra["parameters"] = _renamed(parameters, _PARAMETERS)
            if parameters.get("missing") == "by_value":
                extra["parameters"]["missing"] = "self_masking"
        if isinstance(fitted := extra.get("fitted"), dict):
            extra["fitted"] = _renamed(fitted, _FITTED)
        found["extra"] = extra
    return found


def state_from_1(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's ``state.json`` of format 1 as one of format 2."""
    found: dict[str, Any] = _parts(state)
    return _renamed(found, {"pass": "epoch"}) | {"format": 2}


def record_from_1(record: dict[str, Any]) -> dict[str, Any]:
    """A line of ``metrics.jsonl``, of any format, as one of format 2."""
    return _renamed(record, {"pass": "epoch"})


def _renamed(found: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key) if names.get(key) not in found else key: value for key, value in found.items()}


def _parts(value: Any) -> Any:
    """Rename the ``passes`` of every schedule to ``epochs``, and turn every ``Joint`` into ``Latents``."""
    if isinstance(value, list):
        return [_parts(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _parts(item) for key, item in value.items()}
    part, arguments = str(found.get("part", "")), found.get("arguments")
    if part.startswith("schedules.") and isinstance(arguments, dict):
        found["arguments"] = _renamed(arguments, {"passes": "epochs"})
    if part in ("posteriors.Joint", "priors.Joint") and isinstance(arguments, dict):
        names, parts = arguments.get("names"), arguments.get("parts")
        if isinstance(names, list) and isinstance(parts, list) and len(names) == len(parts):
            rest = {key: item for key, item in arguments.items() if key not in ("names", "parts")}
            by_name = {str(name): one for name, one in zip(names, parts, strict=True)}
            found |= {"part": part.replace("Joint", "Latents"), "arguments": rest | {"parts": by_name}}
    return found
