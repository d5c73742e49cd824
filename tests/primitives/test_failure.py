"""Failure as data (LDM-151 2.3)."""

from __future__ import annotations

import pickle

import pytest

from skyquilt.primitives.failure import REASON_TEXTS, Outcome, ProcessingFailure, Reason, attempt, serial_map


def _halve(number: int) -> int:
    if number < 0:
        raise ProcessingFailure(Reason.NO_STARS, f"{number} stars")
    return 100 // number


def test_every_reason_has_a_text_and_a_bit():
    """Each code has one sentence and a bit of its own that fits a 32-bit map."""
    assert set(REASON_TEXTS) == set(Reason)
    assert all(reason.text.endswith(".") for reason in Reason)
    assert sorted(reason.bit for reason in Reason) == list(range(len(Reason)))
    assert len(Reason) <= 31


def test_bits_are_frozen():
    """The bits of published maps keep their meaning: codes are appended, never inserted."""
    names = "missing_file unreadable_file unknown_camera unknown_detector wrong_shape no_good_pixels"
    assert [reason.value for reason in list(Reason)[:6]] == names.split()
    assert Reason.DUPLICATE.bit == 18


def test_expected_trouble_becomes_an_outcome():
    """A ProcessingFailure ends in the outcome of its own item and stops no other."""
    outcomes = serial_map(_halve, [1, -2, 4])
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert [outcome.value for outcome in outcomes] == [100, None, 25]
    assert outcomes[1] == Outcome(-2, None, Reason.NO_STARS, "-2 stars")


def test_bugs_pass_through():
    """Any other exception is a bug and is not caught."""
    with pytest.raises(ZeroDivisionError):
        attempt(_halve, 0)


def test_failures_cross_processes():
    """A failure keeps reason, detail and text when it is pickled, as a pool does."""
    failure = ProcessingFailure("no_wcs", "no CRVAL1 in a.fits")
    copy = pickle.loads(pickle.dumps(failure))
    assert (copy.reason, copy.detail, str(copy)) == (Reason.NO_WCS, failure.detail, str(failure))
    assert str(copy) == "no_wcs: no CRVAL1 in a.fits"


def test_without_detail_the_reason_speaks():
    """A failure without detail says its reason's sentence; an unknown code is refused."""
    assert Reason.NO_WCS.text in str(ProcessingFailure(Reason.NO_WCS))
    with pytest.raises(ValueError, match="no_such_code"):
        ProcessingFailure("no_such_code")
