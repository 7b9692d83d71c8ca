"""Ctrl-C during a fit: the first is a request that the loop reads, the second raises ``KeyboardInterrupt``."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """Make SIGINT set ``asked`` while the block runs; not outside the main thread, nor if SIGINT is ignored."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupt:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._listens = in_main_thread and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)
        if self._listens:
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
