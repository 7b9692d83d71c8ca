"""Files of earlier formats, as this version's format has them.

Format 2 (from 1): ``epochs`` for ``passes``, ``max_value`` for ``white``, ``has_missing`` for ``holes``, and
``missing="self_masking"`` for ``"by_value"``.
"""

from __future__ import annotations

from typing import Any

_PARAMETERS = {"passes": "epochs", "white": "max_value"}
_FITTED = {"white": "max_value", "holes": "has_missing"}
_HISTORY = {"best_pass": "best_epoch"}


def config_from_1(config: dict[str, Any]) -> dict[str, Any]:
    """A ``config.json`` of format 1 as one of format 2."""
    found: dict[str, Any] = _schedules(config) | {"format": 2}
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
    return _renamed(state, {"pass": "epoch"}) | {"format": 2}


def record_from_1(record: dict[str, Any]) -> dict[str, Any]:
    """A line of ``metrics.jsonl``, of any format, as one of format 2."""
    return _renamed(record, {"pass": "epoch"})


def _renamed(found: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key) if names.get(key) not in found else key: value for key, value in found.items()}


def _schedules(value: Any) -> Any:
    """With the ``passes`` of every schedule as its ``epochs``."""
    if isinstance(value, list):
        return [_schedules(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _schedules(item) for key, item in value.items()}
    if str(found.get("part", "")).startswith("schedules.") and isinstance(found.get("arguments"), dict):
        found["arguments"] = _renamed(found["arguments"], {"passes": "epochs"})
    return found
