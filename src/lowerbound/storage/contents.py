"""The contents of a fit's folder, and whether it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowerbound.errors import FormatError
from lowerbound.storage import checkpoints, folder
from lowerbound.storage.choice import Choice, in_words
from lowerbound.storage.model import METRICS, TENSORS, holds_model, read_config
from lowerbound.storage.parts import CONFIG


@dataclass(frozen=True)
class Contents:
    """The contents of the folder ``run``; ``problems``: a sentence for each file that is not as it was written.

    ``unfinished``: whether a fit is under way, or was cut short. The rest is what ``config.json`` says, if it can be
    read; ``about``: in words.
    """

    run: str
    files: dict[str, int]
    checkpoints: dict[int, str]
    unfinished: bool
    problems: tuple[str, ...]
    about: str = ""
    format: int | None = None
    versions: Any = None
    estimator: Any = None
    likelihood: Any = None
    prior: Any = None
    parameters: Any = None
    fitted: Any = None
    history: Any = None

    def as_dict(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same in words."""
        said = [f"{self.run}: {self.about}"] if self.about else [f"{self.run}: a model that cannot be read"]
        said += [f"  {name}  {size:,} bytes" for name, size in self.files.items()]
        said += [f"  checkpoint of step {step}: {state}" for step, state in self.checkpoints.items()]
        if self.unfinished and "whole" in self.checkpoints.values():
            said += [
                "a fit has not ended: with the same options and --resume it resumes from the newest intact checkpoint"
            ]
        return [*said, *self.problems, "not whole" if self.problems else "whole: every file is as it was written"]


def contents(run: Path) -> Contents:
    """Look through the folder ``run``. Raises ``FileNotFoundError`` if there is neither a model nor a checkpoint."""
    has_model = holds_model(run)
    problems = _problems(run, (CONFIG, TENSORS, METRICS)) if has_model else []
    states = {}
    for path in checkpoints.listed(run):
        damage = _problems(path, checkpoints.FILES)
        if damage and not (path / folder.MANIFEST).exists():
            continue  # a newer one has taken its place meanwhile
        states[int(path.name)] = "damaged" if damage else "whole"
        problems += damage
    if not has_model and not states:
        yet = " yet: a fit there has not ended; resume it, or wait for it"
        raise FileNotFoundError(
            f"{run} holds no model{yet if checkpoints.unfinished(run) else f': there is no {CONFIG} in it'}."
        )
    found: dict[str, Any] = {}
    try:
        found = _described(read_config(run, warn=False))  # ``unfinished`` reports a fit that has not ended
    except (FormatError, FileNotFoundError) as error:
        if str(error) not in problems:
            problems.append(str(error))
    except (AttributeError, KeyError, TypeError, IndexError):
        problems.append(f"{run / CONFIG} does not describe a model; restore it or fit the model again.")
    return Contents(
        run=str(run),
        files={path.name: path.stat().st_size for path in sorted(run.iterdir()) if _is_shown(path)},
        checkpoints=states,
        unfinished=checkpoints.unfinished(run) or not has_model,
        problems=tuple(problems),
        **found,
    )


def _problems(path: Path, due: Sequence[str]) -> list[str]:
    """Describe files that are not as they were written, and which of the files ``due`` the manifest does not list."""
    found = folder.problems(path)
    if not found and (lacking := set(due) - folder.Folder.at(path).hashes.keys()):
        found = [f"{path / folder.MANIFEST} lists no {', '.join(sorted(lacking))}; restore the folder or fit again."]
    return found


def _described(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``Contents`` that a configuration gives."""
    parts, extra, history = config["model"]["arguments"], config["extra"], config["history"]
    estimator, fitted = extra.get("estimator"), extra.get("fitted")
    likelihood, part = parts.get("likelihood"), config["model"]["part"]
    rows = f", rows of shape {fitted['shape']}" if fitted and "shape" in fitted else ""
    rows += f", seed {fitted['seed']}" if fitted else ""
    kind = f"model {part}" if likelihood is None else f"likelihood {likelihood.get('part', likelihood)}"
    chosen = {name: Choice(*each) for name, each in ((fitted or {}).get("chosen") or {}).items()}
    about = (
        f"{estimator or 'model'}, format {config['format']}, versions {config['versions']}\n"
        f"{kind}{rows}, kept epoch {history['best_epoch']}, stopped by {history['stopped'] or 'nothing yet'}"
    )
    if chosen:
        about += f"\nchosen: {', '.join(f'{name} {value}' for name, value in in_words(chosen).items())}"
    return {
        "about": about,
        "format": config["format"],
        "versions": config["versions"],
        "estimator": estimator,
        "likelihood": likelihood,
        "prior": parts.get("prior"),
        "parameters": extra.get("parameters"),
        "fitted": fitted,
        "history": history,
    }


def _is_shown(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")
