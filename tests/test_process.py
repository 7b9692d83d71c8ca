"""What threads and children of a process share: a fit borrows none of it, and comes out as it does alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lowerbound as lb
from lowerbound import distributions, gradients, objectives, posteriors, priors, process
from lowerbound.distributions import flow
from lowerbound.errors import LockedError
from lowerbound.nn import MLP, ConvEncoder, seeded
from lowerbound.process import ignored, may_draw, set_threads, use_threads
from lowerbound.storage import files

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
IMAGES = np.random.default_rng(1).random((30, 8, 8)).astype(np.float32)
SEEDS = (0, 1, 2, 3)


class Noisy(nn.Module):
    """Draws from torch's global generator in more ways than dropout does."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) + 0.1 * torch.rand(1) + 0.1 * torch.bernoulli(torch.full_like(x, 0.5))


def perturbed(latent_dim: int, encoder: nn.Module) -> posteriors.Posterior:
    """A posterior made by a function of one's own, which draws."""
    found = posteriors.DiagonalNormal(latent_dim, encoder)
    found.register_buffer("own", torch.randn(3) + torch.randperm(3))
    return found


def drawn_elbo(draw: lb.draw.Draw) -> Tensor:
    return objectives.elbo(draw) + torch.randn(())


def own_encoder(layer: nn.Module) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 4))


FITS: dict[str, Callable[[], dict[str, Any]]] = {
    "mlp": dict,
    "conv": lambda: {"network": "conv"},
    "flow": lambda: {"posterior": partial(posteriors.Flow, features=0), "prior": "Flow"},
    "mixture": lambda: {"prior": "NormalMixture"},
    "a posterior that draws": lambda: {"posterior": perturbed},
    "dropout": lambda: {"encoder": own_encoder(nn.Dropout(0.5))},
    "a module that draws": lambda: {"encoder": own_encoder(Noisy())},
    "an objective that draws": lambda: {"objective": drawn_elbo},
}


def fitted(case: str, seed: int) -> lb.VAE:
    data = IMAGES if case == "conv" else X
    settings = {"hidden": (8,), "epochs": 2, "batch_size": 20, "patience": None, "threads": 1} | FITS[case]()
    return lb.VAE(2, random_state=seed, **settings).fit(data)


def digest(case: str, seed: int) -> str:
    vae = fitted(case, seed)
    tensors = {**vae.model_.state_dict(), **{f"q.{key}": value for key, value in vae.posterior_.state_dict().items()}}
    numbers = b"".join(value.numpy().tobytes() for value in tensors.values())
    return hashlib.sha256(numbers + repr(vae.history_.records).encode()).hexdigest()


def at_once(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each of ``tasks`` gives, all started at the same moment, each in a thread of its own."""
    start = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        start.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


@pytest.fixture(scope="module")
def imported() -> None:
    """What is imported at first use adds filters of warnings."""
    fitted("flow", 0)


@pytest.fixture
def shared(imported: None) -> Iterator[None]:
    """All that threads share, held to be after the test what it was before."""

    def state() -> list[Any]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        flags = [torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()]
        numpys = [np.random.get_state()[1].tobytes(), np.geterr()]  # noqa: NPY002
        filters = [list(warnings.filters), warnings.showwarning]
        checks = vars(torch.distributions.Distribution)["_validate_args"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        place = [Path.cwd(), environment, umask(), sys.getrecursionlimit()]
        return [torch.random.get_rng_state().tolist(), handlers, flags, numpys, filters, checks, place]

    before = state()
    yield
    assert state() == before


def umask() -> str:
    if not Path("/proc/self/status").exists():  # reading it otherwise sets it, which other threads would see
        pytest.skip("only Linux tells the umask without setting it")
    return next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask"))


@pytest.mark.parametrize("case", FITS)
def test_fits_in_threads_are_those_of_each_alone(case: str, shared: None) -> None:
    alone = [digest(case, seed) for seed in SEEDS]
    assert len(set(alone)) == len(SEEDS)
    assert at_once([partial(digest, case, seed) for seed in SEEDS * 3]) == alone * 3


def test_fits_of_all_kinds_at_once(shared: None) -> None:
    alone = [digest(case, 0) for case in FITS]
    assert at_once([partial(digest, case, 0) for case in (*FITS, *reversed(FITS))]) == alone + alone[::-1]


@pytest.mark.parametrize("case", ["mlp", "conv", "flow", "mixture"])
def test_a_fit_and_its_process_draw_side_by_side(case: str) -> None:
    # a fit of the library's parts neither reads nor moves the global generator, not for a moment
    alone = digest(case, 0)
    torch.manual_seed(5)
    due = [torch.rand(3).tolist() for _ in range(200)]
    torch.manual_seed(5)
    found, drawn = at_once([partial(digest, case, 0), lambda: [torch.rand(3).tolist() for _ in range(200)]])
    assert found == alone
    assert drawn == due


def test_evidence_in_threads_is_that_of_each_alone(shared: None) -> None:
    vae = fitted("mlp", 0)
    x = np.concatenate([X] * 4)

    def evidence() -> bytes:
        with use_threads(2):
            return vae.log_likelihood(x, samples=50).estimate.tobytes()

    assert len({evidence(), *at_once([evidence] * 4)}) == 1


def test_writers_in_threads_leave_the_umask_and_obey_it(tmp_path: Path, shared: None) -> None:
    def write(number: int) -> None:
        for step in range(50):
            with files.atomic_write(tmp_path / f"{number}-{step}") as file:
                file.write(b"x")

    at_once([partial(write, number) for number in range(8)])
    due = 0o666 & ~int(umask().split()[1], 8)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {due}
    assert len(list(tmp_path.iterdir())) == 400


# --- what torch draws from ---

DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(20),
    "randn": lambda: torch.randn(20),
    "randn_like": lambda: torch.randn_like(torch.zeros(20)),
    "randperm": lambda: torch.randperm(20),
    "randint": lambda: torch.randint(100, (20,)),
    "normal": lambda: torch.normal(0.0, 1.0, (20,)),
    "normal_": lambda: torch.empty(20).normal_(),
    "bernoulli": lambda: torch.bernoulli(torch.full((20,), 0.5)),
    "poisson": lambda: torch.poisson(torch.full((20,), 3.0)),
    "multinomial": lambda: torch.multinomial(torch.ones(20), 5),
    "gamma": lambda: torch.distributions.Gamma(torch.ones(20), 1.0).sample(),
    "dropout": lambda: nn.Dropout()(torch.ones(20)),
    "rrelu": lambda: nn.RReLU()(-torch.ones(20)),
    "linear": lambda: nn.Linear(4, 5).weight.detach(),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(4, 4)),
}


def test_seeded_draws_what_the_global_generator_would(shared: None) -> None:
    before = torch.random.get_rng_state()
    torch.manual_seed(7)
    due = {name: draw() for name, draw in DRAWS.items()}
    torch.random.set_rng_state(before)
    with seeded(7):
        first = {name: draw() for name, draw in DRAWS.items()}
        with seeded(7):
            inner = {name: draw() for name, draw in DRAWS.items()}
        rest = torch.rand(3)
        own = torch.rand(3, generator=torch.Generator().manual_seed(1))
    for name, value in due.items():
        assert torch.equal(first[name], value), name
        assert torch.equal(inner[name], value), name
    assert not torch.equal(rest, first["rand"][:3])
    assert torch.equal(own, torch.rand(3, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("case", ["dropout", "a posterior that draws", "mlp"])
def test_a_fit_within_seeded_is_the_fit(case: str, shared: None) -> None:
    alone = digest(case, 1)
    with seeded(3):
        assert digest(case, 1) == alone


class OwnLayer(nn.Linear):
    pass


def hooked() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, inputs, output: output + torch.rand_like(output))
    return layer


@pytest.mark.parametrize(
    ("part", "draws"),
    [
        (MLP((2,), (2,)), False),
        (ConvEncoder((8, 8), 2), False),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.SiLU()), False),
        (priors.Flow(2), False),
        (objectives.Constrained("kl", 1.0), False),
        (partial(objectives.renyi, alpha=0.5), False),
        (gradients.ByNode(("a",), (gradients.leave_one_out,)), False),
        (torch.optim.Adam, False),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), True),
        (nn.LSTM(2, 2), True),
        (nn.RReLU(), True),
        (MLP((2,), (2,), activation=nn.RReLU), True),
        (Noisy(), True),
        (OwnLayer(2, 2), True),
        (hooked(), True),
        (drawn_elbo, True),
        (partial(objectives.renyi, alpha=drawn_elbo), True),
        (gradients.ByNode(("a",), (drawn_elbo,)), True),
    ],
)
def test_what_may_draw_from_the_global_generator(part: object, draws: bool) -> None:
    assert may_draw(part) is draws
    assert may_draw({"one": [part]}) is draws


# --- torch's threads ---


def test_threads_are_those_of_one_thread_alone(shared: None) -> None:
    before, inside, outside = torch.get_num_threads(), threading.Event(), threading.Event()
    seen = []

    def fit() -> None:
        with use_threads(3):
            inside.set()
            outside.wait()
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=fit)
    thread.start()
    inside.wait()
    assert torch.get_num_threads() == before
    assert at_once([torch.get_num_threads]) == [before]
    outside.set()
    thread.join()
    assert seen == [3, before]

    def use(count: int) -> bool:
        for _ in range(3):
            with use_threads(count):
                if torch.get_num_threads() != count:
                    return False
        return torch.get_num_threads() == before

    for _ in range(100):  # new threads each time: they take torch's number at their first operation
        assert all(at_once([partial(use, count) for count in (1, 2, 3, 4)]))
    assert at_once([torch.get_num_threads]) == [before]
    set_threads(2)
    assert torch.get_num_threads() == 2
    assert at_once([torch.get_num_threads]) == [before]
    set_threads(before)


# --- warnings and imports ---


def test_warnings_kept_back_in_threads_leave_the_filters(shared: None) -> None:
    def quiet(number: int) -> int:
        with ignored(ResourceWarning) as caught:
            for _ in range(number):
                warnings.warn("mine", ResourceWarning, stacklevel=1)
        return len(caught)

    assert at_once([partial(quiet, number) for number in range(8)]) == list(range(8))
    with pytest.warns(UserWarning, match="another"), ignored(ResourceWarning):
        warnings.warn("another", UserWarning, stacklevel=1)


def test_an_import_in_two_threads_leaves_the_checks_of_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: None
) -> None:
    package = tmp_path / "zuko"
    package.mkdir()
    slow = "import time, torch\ntorch.distributions.Distribution._validate_args = False\ntime.sleep(0.1)\n"
    (package / "__init__.py").write_text(slow)
    (package / "transforms.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    flow._zuko.cache_clear()
    try:
        at_once([flow._zuko] * 4)
    finally:
        flow._zuko.cache_clear()
        for name in ("zuko", "zuko.transforms"):
            sys.modules.pop(name, None)
    assert distributions is not None


# --- children ---


def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with files.locked(tmp_path):
        child = os.fork()
        if child == 0:  # lives on, idle, as a worker of a pool does
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        with pytest.raises(LockedError), files.locked(tmp_path):
            pass
    try:
        with files.locked(tmp_path):
            pass
        with (tmp_path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)


def test_a_child_that_ends_does_not_unlock(tmp_path: Path) -> None:
    with files.locked(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(LockedError), files.locked(tmp_path):
            pass


@pytest.mark.parametrize("case", ["mlp", "conv", "flow", "mixture"])
def test_fits_of_the_librarys_parts_never_set_the_global_generator(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, func: object, args: object, kwargs: object) -> None:
        raise AssertionError(f"{func} drew from the global generator")

    monkeypatch.setattr(process._FromGenerator, "_in_place", refuse)
    fitted(case, 0)
