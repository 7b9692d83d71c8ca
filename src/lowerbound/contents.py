"""What the folder of a fit holds, and whether it is whole."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowerbound import folder, io
from lowerbound.errors import FormatError
from lowerbound.training import checkpoints


@dataclass(frozen=True)
class Contents:
    """What was found in ``run``; ``problems``: a sentence for each file that is not as it was written.

    ``finished``: whether the model is that of an ended fit, not of a checkpoint.
    """

    run: str
    format: int | None
    versions: dict[str, str]
    estimator: str | None
    likelihood: Any
    prior: Any
    parameters: Any
    fitted: Any
    history: Any
    files: dict[str, int]
    checkpoints: dict[int, str]
    finished: bool
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same in words."""
        said = [f"{self.run}: {self.estimator or 'model'}, format {self.format}, versions {self.versions}"]
        if self.format is not None:
            kind = self.likelihood.get("part", self.likelihood)
            fitted = f", rows of shape {self.fitted['shape']}, seed {self.fitted['seed']}" if self.fitted else ""
            stopped = f"stopped by {self.history['stopped']}" if self.finished else "the fit has not ended"
            said += [f"likelihood {kind}{fitted}, kept pass {self.history['best_pass']}, {stopped}"]
        said += [f"  {name}  {size:,} bytes" for name, size in self.files.items()]
        said += [f"  checkpoint of step {step}: {state}" for step, state in self.checkpoints.items()]
        if not self.finished and "whole" in self.checkpoints.values():
            said += ["the same fit with --resume goes on from the newest whole checkpoint"]
        return [*said, *self.problems, "not whole" if self.problems else "whole: every file is as it was written"]


def contents(run: Path) -> Contents:
    """Look through the folder ``run``. Raises ``FileNotFoundError`` if there is neither a model nor a checkpoint."""
    finished = any((run / name).exists() for name in (folder.MANIFEST, io.CONFIG))
    problems = folder.problems(run) if finished else []
    states = {}
    for path in checkpoints.listed(run):
        damage = folder.problems(path)
        states[int(path.name)] = "damaged" if damage else "whole"
        problems += damage
    if not finished and not states:
        raise FileNotFoundError(f"{run} holds no model: there is no {io.CONFIG} in it.")
    config: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the fit has not ended is said below
            config = io.read_config(run)
    except (FormatError, FileNotFoundError) as error:
        if str(error) not in problems:
            problems.append(str(error))
    parts, extra = config.get("model", {}).get("arguments", {}), config.get("extra", {})
    return Contents(
        run=str(run),
        format=config.get("format"),
        versions=config.get("versions", {}),
        likelihood=parts.get("likelihood"),
        prior=parts.get("prior"),
        **{key: extra.get(key) for key in ("estimator", "parameters", "fitted")},
        history=config.get("history"),
        files={path.name: path.stat().st_size for path in sorted(run.iterdir()) if _is_shown(path)},
        checkpoints=states,
        finished=finished,
        problems=tuple(problems),
    )


def _is_shown(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")
