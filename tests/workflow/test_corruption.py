"""What was damaged on disk is found and made again, never used (design 6)."""

import os

import pytest
from survey_runs import assert_same_products, products, skyquilt

DAMAGE = [
    "calibration/bias/20251231/detector_001.fits",
    "imchar/bootstrap/260101002/source.parquet",
    "imchar/bootstrap/260101003/detector_002.fits",
    "imchar/bootstrap/260101001/manifest.json",
    "release/visits/visit_table.parquet",
]


def flip_byte(path, keep_times=False):
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    if keep_times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("how", ["delete", "flip"])
def test_damaged_members_are_made_again(survey, processed, how):
    """Deleted or altered members of several stages: the next run says so and restores the same bytes."""
    for name in DAMAGE:
        if how == "delete":
            (survey / name).unlink()
        else:
            flip_byte(survey / name)
    done = skyquilt("run", survey)
    assert "will be made again" in done.stdout
    assert_same_products(products(survey), products(processed))


@pytest.mark.parametrize("name", DAMAGE[:3])
def test_a_damaged_intermediate_is_made_again_although_what_follows_is_done(survey, processed, name):
    """Bias, source table, pixels: each alone, with everything after it up to date."""
    flip_byte(survey / name)
    assert f"{name} has checksum" in skyquilt("run", survey).stdout
    assert_same_products(products(survey), products(processed))


def test_damage_that_size_and_time_do_not_show_is_found_by_a_full_verification(survey, processed):
    """`run --verify` compares every checksum."""
    name = "imchar/bootstrap/260101002/source.parquet"
    flip_byte(survey / name, keep_times=True)
    assert "has checksum" in skyquilt("run", survey, "--verify").stdout
    assert_same_products(products(survey), products(processed))


def test_a_reader_that_meets_damage_has_it_made_again_within_the_same_run(survey, processed):
    """A job that opens a damaged member sets its manifest aside; the run makes the unit and goes on."""
    flip_byte(survey / "imchar/bootstrap/260101002/detector_000.fits", keep_times=True)
    (survey / "quality/visits/260101002/manifest.json").unlink()
    done = skyquilt("run", survey)
    assert "a reader met a corrupted product" in done.stdout
    assert_same_products(products(survey), products(processed))


def test_verify_reports_and_sets_aside(survey):
    """`skyquilt verify` names each damaged file; with --keep it changes nothing."""
    name = "imchar/bootstrap/260101002/source.parquet"
    assert "all products are whole" in skyquilt("verify", survey).stdout
    flip_byte(survey / name, keep_times=True)
    assert "all products are whole" in skyquilt("verify", survey, "--quick").stdout
    kept = skyquilt("verify", survey, "--keep", check=False)
    assert kept.returncode == 1
    assert f"{name} has checksum" in kept.stdout
    assert (survey / "imchar/bootstrap/260101002/manifest.json").is_file()
    assert skyquilt("verify", survey, check=False).returncode == 1
    assert not (survey / "imchar/bootstrap/260101002/manifest.json").is_file()
    assert not list((survey / "imchar/bootstrap").glob("chunk_260101001/manifest.json")), "its chunk follows"
