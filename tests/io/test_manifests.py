"""Manifests: written last, deterministic, and never believed without looking."""

import json
import os

import pytest

from skyquilt.io.manifests import (
    CorruptProduct,
    ManifestWriter,
    note_pruned,
    problems,
    read_manifest,
    relative_name,
)
from skyquilt.primitives.failure import Outcome, Reason


def make(directory, text="payload", **figures):
    directory.mkdir(exist_ok=True)
    writer = ManifestWriter(directory / "manifest.json", "stage", {"visit": 7}, {"config": "c", "code": "d"})
    with writer.member("table", "a.txt", detector=1) as temporary:
        temporary.write_text(text)
    writer.part("detector 1", Outcome(1, "x"))
    writer.part("detector 2", Outcome(2, None, Reason.UNREADABLE_FILE, "truncated"))
    writer.figures.update(figures)
    return writer.finish({"seconds": 1.5})


def test_round_trip(tmp_path):
    """What was noted is read back; the member opens after its checksum was compared."""
    make(tmp_path / "u", seeing=1.25, lost=float("nan"))
    manifest = read_manifest(tmp_path / "u" / "manifest.json")
    assert manifest.status == "flagged"
    assert manifest.parts["detector 2"] == {
        "status": "failed",
        "reason": "unreadable_file",
        "detail": "truncated",
    }
    assert manifest.content["figures"] == {"seeing": 1.25, "lost": None}
    assert manifest.members("table", visit=7, detector=1) == ["a.txt"]
    assert manifest.members("table", detector=2) == []
    assert manifest.open("a.txt").read_text() == "payload"


def test_same_work_gives_the_same_bytes(tmp_path):
    """No clock, host or duration is in a manifest."""
    make(tmp_path / "u")
    make(tmp_path / "v")
    assert (tmp_path / "u/manifest.json").read_bytes() == (tmp_path / "v/manifest.json").read_bytes()


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
def test_a_reader_sets_a_corrupt_unit_aside(tmp_path, damage):
    """A missing, shortened or altered member is not used: the manifest becomes .bad, to be made again."""
    manifest = make(tmp_path / "u")
    member = tmp_path / "u" / "a.txt"
    if damage == "delete":
        member.unlink()
    elif damage == "truncate":
        member.write_text("pay")
    else:
        member.write_text("payloaD")
    assert set(problems(manifest, full=True)) == {"a.txt"}
    with pytest.raises(CorruptProduct, match="will be made again"):
        manifest.open("a.txt")
    assert not manifest.path.exists()
    assert manifest.path.with_name("manifest.json.bad").exists()


def test_quick_look_believes_size_and_time_and_reads_where_they_differ(tmp_path):
    """Equal size and recorded time are believed; another time makes it compare the content."""
    manifest = make(tmp_path / "u")
    member = tmp_path / "u" / "a.txt"
    times = member.stat()
    member.write_text("payloaD")
    assert set(problems(manifest, full=False)) == {"a.txt"}
    os.utime(member, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert problems(manifest, full=False) == {}
    assert set(problems(manifest, full=True)) == {"a.txt"}


def test_broken_manifest_is_set_aside(tmp_path):
    """A manifest cut short or of another format is no manifest."""
    for text in ("{", json.dumps({"format": 99, "files": {}}), "[]"):
        path = tmp_path / "manifest.json"
        path.write_text(text)
        with pytest.raises(CorruptProduct):
            read_manifest(path)
        assert not path.exists()


def test_pruned_members_are_in_order_until_needed(tmp_path):
    """A member removed on purpose is no problem of the manifest; opening it says that it was pruned."""
    manifest = make(tmp_path / "u")
    note_pruned(manifest.directory, {"a.txt"})
    (tmp_path / "u" / "a.txt").unlink()
    assert problems(manifest, full=True) == {}
    with pytest.raises(CorruptProduct, match="pruned"):
        manifest.open("a.txt")


def test_members_of_an_earlier_attempt_do_not_stay(tmp_path):
    """A file that is no longer made is removed before the manifest is written."""
    make(tmp_path / "u")
    (tmp_path / "u" / "old.fits").write_text("x")
    make(tmp_path / "u")
    assert not (tmp_path / "u" / "old.fits").exists()


def test_names_of_inputs_do_not_depend_on_where_the_survey_lies(tmp_path):
    """Files inside the survey are relative to it, others keep their last three parts."""
    assert relative_name(tmp_path / "s/raw/a.fits", tmp_path / "s") == "raw/a.fits"
    outside = tmp_path / "x" / "y" / "z" / "a.fits"
    assert relative_name(outside, tmp_path / "s") == "external/y/z/a.fits"
