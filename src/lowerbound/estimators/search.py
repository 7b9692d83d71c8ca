"""Choose the prior, the sizes of the networks and the number of latents by successive halving on held-out rows."""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from lowerbound import inference
from lowerbound.checks import OBJECT, TEXT, TRUTH, Check, check_fields, is_list, is_number, is_whole, whole
from lowerbound.errors import DataError, DivergedError
from lowerbound.estimators.choices import SEARCHED, Choice, is_auto
from lowerbound.estimators.defaults import part_of, takes_flow
from lowerbound.estimators.learning import is_aevb, is_own, name_of
from lowerbound.objectives import why_no_bound
from lowerbound.row_source import RowSource
from lowerbound.storage import checkpoints
from lowerbound.storage.files import atomic_write, locked
from lowerbound.storage.json_data import json_bytes, parse_json
from lowerbound.storage.model import holds_model
from lowerbound.storage.run import Resume

CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {},
    {"prior": "Flow"},
    {"latent_dim": 20},
    {"hidden": (512, 256)},
    {"prior": "Flow", "latent_dim": 20},
    {"prior": "Flow", "latent_dim": 20, "hidden": (512, 256)},
)
"""The arguments that each candidate changes, roughly from the smallest model to the largest; the first: none."""
FOLDER: Final = "search"
_FILE = "search.json"


@dataclass(frozen=True)
class Standing:
    """How far a search has come: after ``rungs`` rungs and ``seconds``, the candidates left, best first, and ``why``.

    ``of``: what was searched, to resume with the same only. ``ended``: whether no rung is left.
    """

    of: Mapping[str, Any]
    left: Sequence[int]
    rungs: int = 0
    seconds: float = 0.0
    why: str = ""
    ended: bool = False


_FIELDS = {
    "of": OBJECT,
    "left": Check("a list of whole numbers", lambda value: is_list(value, is_whole) and len(value) > 0),
    "rungs": whole("a whole number of 0 or more", 0),
    "seconds": Check("a number of 0 or more", lambda value: is_number(value, 0)),
    "why": TEXT,
    "ended": TRUTH,
}
"""The check of each field of a ``Standing`` that is read from a file."""


def check_search(given: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments with which candidates cannot be compared by a bound on held-out rows."""
    if not is_aevb(given["inference"]):
        name = "your own" if is_own(given["inference"]) else name_of(given["inference"])
        raise ValueError(f"search compares fits by AEVB, and inference is {name}; leave one of them out.")
    if not is_auto(given["validation"]) and given["validation"] == 0:
        raise ValueError("search needs held-out rows: give validation a share above 0, or leave search out.")
    if given["beta"] != 1 or given["warm_up"] or given["free_bits"]:
        raise ValueError("search compares bounds, which beta, warm_up and free_bits change; leave them or search out.")
    objective = given["objective"]
    why = "" if is_auto(objective) else why_no_bound(part_of("objectives", objective))
    if why:
        raise ValueError(f"search compares bounds, and the objective is none ({why}); give another, or leave one out.")
    if len(candidates(given)) < 2:
        raise ValueError(
            "search compares priors, hidden and latent_dim, and the prior, encoder or decoder given leave nothing to "
            "compare; leave them or search out."
        )


def candidates(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each candidate changes in the arguments ``given``; the first changes nothing."""
    free, found = searched(given), []
    for changes in CANDIDATES:
        left = {name: value for name, value in changes.items() if name in free and value != _plain(given[name])}
        if left not in found:
            found.append(left)
    return found


def searched(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that a search may change: not a prior that was given, nor what own networks determine."""
    fixed: set[str] = set()
    if given["prior"] is not None or not takes_flow(given["posterior"]):
        fixed.add("prior")
    if given["encoder"] is not None or given["decoder"] is not None:
        fixed |= {"hidden", "latent_dim"}
    if given["network"] != "mlp":
        fixed.add("hidden")
    return tuple(name for name in SEARCHED if name not in fixed)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def search(
    vae: Any, start: Callable[[Any], RowSource], rows: RowSource, run: Path | None, resume: Resume, every: int
) -> dict[str, Choice]:
    """Compare candidates for ``vae.search`` seconds, and return the best one's arguments, with the reason.

    ``start`` builds the model of a candidate, which is a copy of ``vae`` with other arguments. ``run``: the folder in
    whose subfolder the candidates keep their checkpoints, and from which the search resumes.
    """
    given = vae.get_params(deep=False)
    if round(vae._settings()["validation"] * len(rows)) < 1 or len(rows) < 2:
        raise DataError(f"search needs held-out rows, and {len(rows)} rows leave none; give more rows, or no search.")
    changes = candidates(given)
    of = {"data": rows.digest(), "seed": vae.seed_, "candidates": [_listed(each) for each in changes]}
    with _kept(run, of, resume) as (folder, standing):
        until = time.monotonic() + vae.search - standing.seconds
        members = [_member(vae, each, until) for each in changes]
        for number in standing.left if not standing.ended else ():
            start(members[number])
        while not standing.ended:
            epochs = _epochs(vae, len(changes), standing.rungs)
            how: Resume = "auto" if standing.rungs else resume
            fits = ((members[number], folder / str(number)) for number in standing.left)
            found = list(_until_none(_trained(member, rows, epochs, own, how, every) for member, own in fits))
            if len(found) < len(standing.left):
                standing = replace(standing, ended=True)
            else:
                standing = _halved(standing, found, len(changes), vae.search - (until - time.monotonic()))
            _write(folder, standing)
    return _choices(given, changes, standing, vae.search)


def _until_none(found: Iterable[Tensor | None]) -> Iterator[Tensor]:
    for each in found:
        if each is None:
            return
        yield each


def _listed(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()}


def _member(vae: Any, changes: Mapping[str, Any], until: float) -> Any:
    """A copy of the estimator with ``changes`` of its arguments, whose fits end ``until`` then."""
    member = copy.copy(vae)
    member.set_params(**changes, search=None, patience=None, callbacks=(lambda event: time.monotonic() > until,))
    return member


def _epochs(vae: Any, count: int, rung: int) -> int:
    """The epochs up to the end of a rung: half of those of a fit in the last one, and half as many in each before."""
    rungs = math.ceil(math.log2(count))
    return max(1, int(vae._settings()["epochs"]) >> (rungs - rung))


def _trained(member: Any, rows: RowSource, epochs: int, folder: Path, resume: Resume, every: int) -> Tensor | None:
    """Train a candidate up to ``epochs``, and return the objective of each held-out row; None if time ran out."""
    member.epochs = epochs
    member.chosen_ = {name: choice for name, choice in member.chosen_.items() if is_auto(getattr(member, name, None))}
    settings = member._settings()
    share, batch_size = settings["validation"], settings["batch_size"]
    with contextlib.suppress(DivergedError):
        member._learn(rows, folder, resume, every)
        if member.history_.stopped == "interrupted":
            raise KeyboardInterrupt
        if member.history_.stopped == "callback":
            return None
        return inference.held_out_objective(member.model_, rows, member._inference(), share, batch_size, member.seed_)
    return torch.full((1,), -math.inf)


def _halved(standing: Standing, found: Sequence[Tensor], count: int, seconds: float) -> Standing:
    """The better half of the candidates by the mean objective of the held-out rows, after a further rung.

    Of those that are no worse than the best by more than the standard error of the paired difference, the one that is
    earliest in the list, which is the smallest model, comes first: it wins if no rung follows.
    """
    numbered = sorted(zip(standing.left, found, strict=True), key=lambda each: (-float(each[1].mean()), each[0]))
    half = numbered[: max(2, math.ceil(len(numbered) / 2))]
    first = min((each for each in half if _is_close(half[0][1], each[1])), key=lambda each: each[0])
    left = [first[0], *(number for number, _ in half if number != first[0])][: math.ceil(len(numbered) / 2)]
    why = _why(first, numbered, count)
    return Standing(standing.of, left, standing.rungs + 1, seconds, why, len(left) == 1)


def _is_close(best: Tensor, rows: Tensor) -> bool:
    """Whether the mean of the paired differences of ``best`` and ``rows`` is within its standard error."""
    if len(best) != len(rows) or len(rows) < 2:
        return rows is best
    gap = best.double() - rows.double()
    return bool(gap.mean() <= gap.std() / math.sqrt(len(gap)))


def _why(winner: tuple[int, Tensor], numbered: Sequence[tuple[int, Tensor]], count: int) -> str:
    """The reason for the winner, in words, with the paired difference from the best of the others."""
    rows, other = winner[1], next(rows for number, rows in numbered if number != winner[0])
    is_best = winner[0] == numbered[0][0]
    what = "best" if is_best else "smallest model within the error of the best"
    why = f"{what} held-out bound of {count} candidates: {_mean(rows)} nats per row, "
    why += f"{'next' if is_best else 'best'} {_mean(other, False)}"
    if len(rows) == len(other) > 1:
        why += f", {_mean(rows - other)} below" if is_best else f", {_mean(other - rows)} above"
    return why


def _mean(rows: Tensor, with_error: bool = True) -> str:
    """The mean over rows in words, with its standard error."""
    error = f" ± {float(rows.double().std()) / math.sqrt(len(rows)):.2f}" if with_error and len(rows) > 1 else ""
    return f"{float(rows.double().mean()):.2f}{error}".replace("-", "−")


def _choices(
    given: Mapping[str, Any], changes: Sequence[Mapping[str, Any]], standing: Standing, seconds: float
) -> dict[str, Choice]:
    """The arguments of the best candidate; none if no rung has ended."""
    if standing.rungs == 0:
        warnings.warn(
            f"search={seconds:g} seconds did not suffice to compare {len(changes)} candidates once, so the model is "
            "that of the arguments given; give search more seconds.",
            RuntimeWarning,
            stacklevel=4,
        )
        return {}
    best = {"prior": given["prior"] or "Normal", **changes[standing.left[0]]}
    return {name: Choice(_plain(best.get(name, given[name])), standing.why) for name in searched(given)}


@contextlib.contextmanager
def _kept(run: Path | None, of: Mapping[str, Any], resume: Resume) -> Iterator[tuple[Path, Standing]]:
    """The folder of the candidates, in a run that is locked, or else one that is removed; how far the search had come.

    A run is marked as unfinished from the start of the search on.
    """
    fresh = Standing(of, list(range(len(of["candidates"]))))
    if run is None:
        with tempfile.TemporaryDirectory() as place:
            yield Path(place), fresh
        return
    with locked(run):
        checkpoints.check_folder(run)
        folder, standing = run / FOLDER, fresh
        if resume == "auto" and (folder / _FILE).exists():
            standing = _read(folder)
            if standing.of != of:
                raise ValueError(
                    f"{run} holds a search of other rows, seed or candidates; make them the same, or start anew with "
                    "resume='never' (--force), or choose another folder."
                )
        elif resume == "auto" and (holds_model(run) or checkpoints.listed(run)):
            raise ValueError(
                f"{run} holds a fit without a search; leave search out, or start anew with resume='never' (--force), "
                "or choose another folder."
            )
        else:
            folder.mkdir(exist_ok=True)
            checkpoints.clear(run)
            _write(folder, standing)
        if not standing.ended:
            checkpoints.mark(run)
        yield folder, standing


def seed_of(run: Path) -> int | None:
    """The seed of the search in ``run``, if there is one."""
    file = run / FOLDER / _FILE
    seed = _read(file.parent).of.get("seed") if file.exists() else None
    return seed if isinstance(seed, int) else None


def _read(folder: Path) -> Standing:
    file = folder / _FILE
    found = check_fields(parse_json(file.read_bytes(), file), _FIELDS, "a search", str(file))
    return Standing(**found)


def _write(folder: Path, standing: Standing) -> None:
    with atomic_write(folder / _FILE) as file:
        file.write(json_bytes(asdict(standing)))
