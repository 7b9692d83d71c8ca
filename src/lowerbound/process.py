"""State that all threads of a process share: torch's global generator, its number of threads, warning filters."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")

_GENERATOR = threading.RLock()
_THREAD = threading.local()
_THREADS = threading.Lock()
_FILTERS = threading.RLock()
_KNOWN = ("lowerbound.", "torch.nn.modules.", "torch.optim.")
_RANDOM = (
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)


class Draws:
    """A fit's own stream of what its modules draw from torch's global CPU generator, such as dropout."""

    def __init__(self, seed: int) -> None:
        self.state = torch.Generator().manual_seed(seed).get_state()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Run the block with this stream in place of the global generator, which is then as it was.

        One thread at a time: the others wait.
        """
        with _GENERATOR, self._in(_source()):
            yield

    @contextlib.contextmanager
    def _in(self, source: torch.Generator) -> Iterator[None]:
        before = source.get_state()
        source.set_state(self.state)
        try:
            yield
        finally:
            self.state = source.get_state()
            source.set_state(before)


def _source() -> torch.Generator:
    """The generator that this thread uses when none is given: torch's global one, or that of ``seeded``."""
    return getattr(_THREAD, "generator", torch.default_generator)


@contextlib.contextmanager
def rewound(enabled: bool = True) -> Iterator[None]:
    """Leave the global generator as it was before the block, whatever that draws."""
    draws = Draws(0)
    draws.state = _source().get_state()
    with draws.lent() if enabled else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the block with what this thread draws from torch's global CPU generator drawn from a new one at ``seed``.

    The numbers are those that the global generator gives after ``torch.manual_seed(seed)``; it is not touched, and
    other threads see no difference.
    """
    outer, own = _source(), torch.Generator().manual_seed(seed)
    with _GENERATOR, _FromGenerator(own):
        _THREAD.generator = own
        try:
            yield
        finally:
            _THREAD.generator = outer


class _FromGenerator(TorchDispatchMode):
    """Give ``generator`` to each operation on the CPU that draws and was given none."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, torch would import it, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        elsewhere = torch.Tag.nondeterministic_seeded not in func.tags or not _on_cpu(args, kwargs)
        if elsewhere or getattr(_THREAD, "in_place", False):
            return func(*args, **kwargs)
        func = _taking_generator(func)
        names = [argument.name for argument in func._schema.arguments]
        if "generator" in names[len(args) :]:
            return func(*args, **kwargs | {"generator": kwargs.get("generator") or self.generator})
        if "generator" in names:
            return func(*args, **kwargs)
        return self._in_place(func, args, kwargs)

    def _in_place(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An operation that takes no generator: it draws from the global one, which stands meanwhile at this one's."""
        own = Draws(0)
        own.state = self.generator.get_state()
        _THREAD.in_place = True  # an outer block of ``seeded`` is not to draw in turn
        try:
            with own._in(torch.default_generator):
                out = func(*args, **kwargs)
        finally:
            _THREAD.in_place = False
        self.generator.set_state(own.state)
        return out


def _taking_generator(func: Any) -> Any:
    """The overload of an operation that also takes a generator (``randn.generator`` of ``randn``), if there is one."""
    name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    return getattr(func.overloadpacket, name, func)


def _on_cpu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    device = next((value.device for value in args if isinstance(value, Tensor)), kwargs.get("device"))
    return device is None or torch.device(device).type == "cpu"


def may_draw(part: object) -> bool:
    """Whether ``part``, a module, a function or several, may draw from torch's global generator.

    The parts of this library draw from generators of their own, and torch's layers not at all but for a few. Of
    anything else it is not known.
    """
    if isinstance(part, nn.Module):  # what it holds: modules, hooks, functions
        return not _known(type(part)) or isinstance(part, _RANDOM) or may_draw(vars(part))
    if isinstance(part, partial):
        return may_draw([part.func, *part.args, *part.keywords.values()])
    if isinstance(part, Mapping):
        return may_draw(list(part.values()))
    if isinstance(part, list | tuple):
        return any(map(may_draw, part))
    if not callable(part):
        return False
    return not _known(part)


def _known(part: Any) -> bool:
    """Whether a class, a function or the class of a callable is the library's, or one of torch's."""
    return str(part.__module__).startswith(_KNOWN)


@contextlib.contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Run the block on ``threads`` CPU threads, in this thread of Python alone (None: as many as torch has)."""
    with _THREADS:  # a thread takes torch's number at its first operation: not while another sets it
        before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    set_threads(threads)
    try:
        yield
    finally:
        set_threads(before)


def set_threads(threads: int) -> None:
    """Have torch run on ``threads`` CPU threads in this thread of Python, and leave all others as they are.

    OpenMP keeps a number for each thread; torch keeps one more, which threads take at their first operation.
    """
    with _THREADS:
        of_others = _elsewhere(torch.get_num_threads)
        torch.set_num_threads(threads)
        _elsewhere(partial(torch.set_num_threads, of_others))


def _elsewhere(function: Callable[[], T]) -> T:
    """Run ``function`` in a new thread and return its result."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@contextlib.contextmanager
def ignored(category: type[Warning]) -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings of ``category`` back while the block runs, in one thread at a time; give what was kept back."""
    caught: list[warnings.WarningMessage] = []
    with _FILTERS:
        with warnings.catch_warnings(record=True) as every:
            warnings.simplefilter("always", category)
            yield caught
        for one in every:
            if issubclass(one.category, category):
                caught.append(one)
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
