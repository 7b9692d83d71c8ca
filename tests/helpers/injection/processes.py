"""Forked children of a process that has imported everything: a fit starts at once, and dies alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

Signal = Callable[[], None]
Action = Callable[[Signal], object]


class Child:
    """A process that runs ``action`` and leaves by its exit code; ``held``: only once it is let go.

    The action is given a function to call when it has come to what matters.
    """

    def __init__(self, action: Action, held: bool = False) -> None:
        self.words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by wait)
        self._ready, ready = os.pipe()
        go, self._go = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(self.words.fileno(), 2)
            os.dup2(self.words.fileno(), 1)
            if held:
                os.read(go, 1)
            _run(action, ready)
        os.close(ready)
        os.close(go)
        if not held:
            self.let_go()

    def let_go(self) -> None:
        """Let a held child start."""
        os.write(self._go, b".")

    def ready(self, timeout: float = 600) -> bool:
        """Wait until the action says that it has come to what matters; False if it ended before."""
        found, _, _ = select.select([self._ready], [], [], timeout)
        return bool(found) and os.read(self._ready, 1) == b"."

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # a child that has ended is there until it is waited for

    def wait(self, timeout: float = 600) -> tuple[int | None, str]:
        """Its exit code (− a signal; None if it had to be killed), and what it said."""
        end = time.monotonic() + timeout  # far beyond what a busy machine needs
        code = None
        while code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                self.signal(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                break
            else:
                time.sleep(0.0005)
        self.words.seek(0)
        said = self.words.read().decode(errors="replace")
        self.words.close()
        os.close(self._ready)
        os.close(self._go)
        return code, said


def _run(action: Action, pipe: int) -> None:
    """The child's life."""
    code = 1

    def ready() -> None:
        os.write(pipe, b".")

    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            action(ready)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Exception:
            traceback.print_exc()
    except BaseException as error:  # Ctrl-C may come to a process that has done its work
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        print(type(error).__name__, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def warm(action: Callable[[], object], base: Path) -> None:
    """Import here all that ``action`` imports, so that children need not: they start sooner, and all alike."""

    def tell(ready: Signal) -> None:
        try:
            action()
        finally:
            (base / "modules").write_text("\n".join(sys.modules))

    Child(tell).wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (base / "modules").read_text().splitlines():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
