"""The pool: order, failures, deaths."""

import os
import signal
import subprocess
import sys
import time

import pytest

from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.workflow.pool import Pool, WorkerError


def square(number):
    if number == 3:
        raise ProcessingFailure(Reason.NO_SOURCES, "three has none")
    time.sleep(0.01 * (number % 4))
    return number**2


def buggy(number):
    return 1 / number


def dies_on_two(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_outcomes_come_in_order_of_items(size):
    """Any number of workers gives the same outcomes, failures among them."""
    with Pool(size) as pool:
        outcomes = pool.map(square, range(8))
    assert [o.value for o in outcomes] == [0, 1, 4, None, 16, 25, 36, 49]
    assert outcomes[3].reason is Reason.NO_SOURCES
    assert outcomes[3].detail == "three has none"


@pytest.mark.parametrize("size", [1, 2])
def test_a_bug_stops_the_map(size):
    """An exception that is no ProcessingFailure reaches the caller with its traceback."""
    with Pool(size) as pool, pytest.raises((WorkerError, ZeroDivisionError), match="division"):
        pool.map(buggy, [1, 0])


def test_a_killed_worker_costs_one_item():
    """A worker killed by a signal is replaced; the other items are done, also in later maps."""
    with Pool(2) as pool:
        outcomes = pool.map(dies_on_two, range(5))
        again = pool.map(dies_on_two, [0, 1])
    assert [o.ok for o in outcomes] == [True, True, False, True, True]
    assert outcomes[2].reason is Reason.WORKER_DIED
    assert "SIGKILL" in outcomes[2].detail
    assert all(o.ok for o in again)


def test_a_worker_killed_while_idle_is_replaced():
    """Between two maps nothing is lost."""
    with Pool(2) as pool:
        pool.map(square, [1])
        for worker in pool._workers:
            worker.process.kill()
            worker.process.join()
        assert [o.value for o in pool.map(square, [1, 2])] == [1, 4]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signal is Linux")
def test_workers_die_with_a_killed_parent(tmp_path):
    """kill -9 of the job leaves no worker behind."""
    code = (
        "import sys, time\n"
        "from skyquilt.workflow.pool import Pool\n"
        "pool = Pool(2)\n"
        "print(*(w.process.pid for w in pool._workers), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
        parent.wait()
    deadline = time.time() + 5
    while time.time() < deadline and any(_runs(pid) for pid in workers):
        time.sleep(0.02)
    assert not any(_runs(pid) for pid in workers)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
