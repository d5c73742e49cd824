"""The pool (design 3): one set of worker processes for the detectors, patches or families of a job.

Workers are forked before the parent starts any thread (where fork is unsafe: forkserver), get one item at a
time, and die with their parent. Outcomes come back in the order of the items, so results do not depend on how
many workers there were. A worker that is killed (out of memory, a crash in a library) costs its item, not the
job: the outcome says `WORKER_DIED` and a new worker takes its place.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from skyquilt.primitives.failure import Outcome, Reason, attempt, serial_map

START_METHOD = "fork" if sys.platform.startswith("linux") else "forkserver"
_PR_SET_PDEATHSIG = 1


class WorkerError(RuntimeError):
    """A bug met in a worker; the message has the worker's traceback."""


@dataclass
class _Worker:
    process: Any
    connection: Connection
    item: int | None = None


class Pool:
    """Worker processes with the contract of `skyquilt.primitives.failure.serial_map`.

    Parameters
    ----------
    size : int
        Number of processes. With one, work is done in the calling process.
    """

    def __init__(self, size: int) -> None:
        self.size = max(1, size)
        self._context = multiprocessing.get_context(START_METHOD)
        self._workers: list[_Worker] = []
        if self.size > 1:
            self._workers = [self._start() for _ in range(self.size)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.close(at_once=kind is not None)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Outcome]:
        """Outcomes of `function(item)`, in the order of the items.

        Parameters
        ----------
        function : picklable callable
            A `ProcessingFailure` it raises becomes the reason in its outcome.

        Raises
        ------
        WorkerError
            When the function raised anything else.
        """
        items = list(items)
        if not self._workers:
            return serial_map(function, items)
        code = pickle.dumps(function)
        outcomes: list[Outcome | None] = [None] * len(items)
        waiting = list(range(len(items)))[::-1]
        for worker in self._workers:
            self._next(worker, code, items, waiting)
        while any(worker.item is not None for worker in self._workers):
            for worker in self._answered():
                index = worker.item
                outcomes[index] = self._receive(worker, items[index])
                self._next(worker, code, items, waiting)
        return outcomes

    def close(self, *, at_once: bool = False) -> None:
        """End the workers; `at_once` without waiting for the items they are at."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            if at_once:
                worker.process.kill()
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []

    def _answered(self) -> list[_Worker]:
        busy = {worker.connection: worker for worker in self._workers if worker.item is not None}
        return [busy[connection] for connection in wait(list(busy))]

    def _next(self, worker: _Worker, code: bytes, items: list[Any], waiting: list[int]) -> None:
        worker.item = waiting.pop() if waiting else None
        if worker.item is not None:
            try:
                worker.connection.send((code, items[worker.item]))
            except (BrokenPipeError, ConnectionResetError):
                # it died while idle: the item is lost to nobody, a new worker takes it
                self._replace(worker)
                worker.connection.send((code, items[worker.item]))

    def _receive(self, worker: _Worker, item: Any) -> Outcome:
        try:
            outcome, bug = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            detail = f"worker ended with {_ending(worker.process.exitcode)}"
            self._replace(worker)
            return Outcome(item, None, Reason.WORKER_DIED, detail)
        if bug:
            raise WorkerError(f"while working on {item!r}:\n{bug}")
        return outcome

    def _replace(self, worker: _Worker) -> None:
        worker.connection.close()
        replacement = self._start()
        worker.process, worker.connection = replacement.process, replacement.connection

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        inherited = []
        if START_METHOD == "fork":
            inherited = [ours, *(w.connection for w in self._workers if not w.connection.closed)]
        process = self._context.Process(target=_work, args=(theirs, os.getpid(), inherited), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)


def _work(connection: Connection, parent: int, inherited: list[Connection]) -> None:
    """Loop of a worker: receive a function and an item, send the outcome or the bug's traceback."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in inherited:
        # the other workers' pipes, copied by the fork, would keep them from seeing their parent's end
        other.close()
    while True:
        try:
            code, item = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            answer = (attempt(pickle.loads(code), item), "")
        except Exception:  # whatever it is, the parent raises it with this traceback
            answer = (None, traceback.format_exc())
        connection.send(answer)


def _die_with(parent: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent and START_METHOD == "fork":
        os._exit(1)


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"
