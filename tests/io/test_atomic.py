"""Atomic writing: absent or whole."""

import os
import signal
import subprocess
import sys
import time

import pytest

from skyquilt.io.atomic import (
    PART_SUFFIX,
    atomic_path,
    checksum,
    remove_leftovers,
    write_if_changed,
    write_json,
)


def test_file_appears_only_when_the_block_ends_well(tmp_path):
    """An exception leaves the old file as it was and no temporary file."""
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_and_fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_unchanged_content_keeps_its_time(tmp_path):
    """Writing the same JSON again does not touch the file, so nothing that depends on it is run again."""
    target = tmp_path / "a.json"
    assert write_if_changed(target, {"b": 1, "a": 2})
    os.utime(target, (1, 1))
    assert not write_if_changed(target, {"a": 2, "b": 1})
    assert target.stat().st_mtime == 1
    assert write_if_changed(target, {"a": 3})
    assert target.stat().st_mtime > 1


def test_leftovers_of_a_killed_writer_are_removed_and_those_of_a_living_one_kept(tmp_path):
    """kill -9 while writing leaves a temporary file and no product; it is cleared when its process is dead."""
    code = (
        "import sys, time\nfrom skyquilt.io.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n    t.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.fits.gz")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        assert remove_leftovers(tmp_path) == 0
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    time.sleep(0.01)
    assert len([p for p in tmp_path.iterdir() if PART_SUFFIX in p.name]) == 1
    assert remove_leftovers(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_json_refuses_nan(tmp_path):
    """NaN is not JSON: it must be said as null by the caller."""
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_checksum_is_of_the_content(tmp_path):
    """Equal content has equal checksums, one changed byte another."""
    for name, data in (("a", b"x" * 10_000_000), ("b", b"x" * 10_000_000), ("c", b"x" * 9_999_999 + b"y")):
        (tmp_path / name).write_bytes(data)
    assert checksum(tmp_path / "a") == checksum(tmp_path / "b") != checksum(tmp_path / "c")
