"""Masks (LDM-151 9.1.1)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import COADD_PLANES, MAX_PLANES, STANDARD_PLANES, Mask

SHAPE = (4, 5)
NAMES = [f"P{i}" for i in range(8)]


@st.composite
def masks(draw):
    """A mask with a few planes on any bits and any pixels set, with its planes as a dict of bool images."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    bits = draw(
        st.lists(st.integers(0, MAX_PLANES - 1), min_size=len(names), max_size=len(names), unique=True)
    )
    seed = draw(st.integers(0, 2**32 - 1))
    images = dict(zip(names, np.random.default_rng(seed).random((len(names), *SHAPE)) < 0.4, strict=True))
    array = np.zeros(SHAPE, dtype=np.int32)
    for name, bit in zip(names, bits, strict=True):
        array[images[name]] += np.int32(1 << bit)
    return Mask(array, dict(zip(names, bits, strict=True)), {n: f"text of {n}" for n in names}), images


@settings(max_examples=60, deadline=None)
@given(masks(), masks())
def test_masks_combine_by_name_whatever_their_bits(one, other):
    """After combine each plane holds the union of both masks' planes of that name."""
    (mask, images), (added, added_images) = one, other
    mask.combine(added)
    assert set(mask.planes) == {*images, *added_images}
    nothing = np.zeros(SHAPE, dtype=bool)
    for name in mask.planes:
        union = images.get(name, nothing) | added_images.get(name, nothing)
        np.testing.assert_array_equal(mask.any(name), union)


@settings(max_examples=60, deadline=None)
@given(masks(), st.data())
def test_queries_agree_with_one_bool_image_per_plane(made, data):
    """any, all, count, set and clear do what they say on a dict of bool images."""
    mask, images = made
    names = data.draw(st.lists(st.sampled_from(sorted(images)), min_size=1, unique=True))
    where = data.draw(st.integers(0, 2**20 - 1))
    where = (where >> np.arange(20).reshape(SHAPE)) & 1 == 1
    np.testing.assert_array_equal(mask.any(names), np.any([images[n] for n in names], axis=0))
    np.testing.assert_array_equal(mask.all(names), np.all([images[n] for n in names], axis=0))
    assert mask.count(names) == np.any([images[n] for n in names], axis=0).sum()
    assert mask.counts() == {n: image.sum() for n, image in images.items()}
    cleared = mask.copy()
    mask.set(names, where)
    cleared.clear(names, where)
    for name, image in images.items():
        changed = where if name in names else np.zeros(SHAPE, dtype=bool)
        np.testing.assert_array_equal(mask.any(name), image | changed)
        np.testing.assert_array_equal(cleared.any(name), image & ~changed)


@settings(max_examples=40, deadline=None)
@given(masks())
def test_cards_give_the_mask_back(made):
    """Names, bits and texts come back from the cards; from MP_ cards alone, names and bits."""
    mask, _ = made
    cards = {keyword.removeprefix("HIERARCH "): value for keyword, value, _ in mask.to_cards()}
    again = Mask.from_cards(mask.array, cards)
    assert (again.planes, again.texts) == (mask.planes, mask.texts)
    legacy = {key: value for key, value in cards.items() if key.startswith("MP_")}
    assert Mask.from_cards(mask.array, legacy).planes == mask.planes


@settings(max_examples=40, deadline=None)
@given(masks(), st.permutations(range(MAX_PLANES)))
def test_remapping_moves_bits_and_keeps_planes(made, bits):
    """A remapped mask is the same mask by name, with the bits asked for."""
    mask, _ = made
    planes = dict(zip(NAMES, bits[: len(NAMES)], strict=True))
    moved = mask.remapped(planes)
    assert moved.planes == planes
    for name in NAMES:
        expected = mask.any(name) if name in mask.planes else np.zeros(SHAPE, dtype=bool)
        np.testing.assert_array_equal(moved.any(name), expected)


def test_the_standard_planes_have_texts_and_leave_room():
    """All planes of images and coadds fit into one mask, and each says what it means."""
    mask = Mask.blank(SHAPE, [*STANDARD_PLANES, *COADD_PLANES])
    assert all(mask.texts.values())
    assert len(mask.planes) == 22
    # one FITS card holds 68 characters
    assert max(map(len, mask.texts.values())) <= 68


def test_31_planes_fit_and_the_next_is_refused():
    """The sign bit stays unused; the refusal names the limit and leaves the mask as it was."""
    mask = Mask.blank(SHAPE, [f"P{i}" for i in range(30)])
    assert mask.add_plane("LAST") == 30
    mask.set("LAST")
    assert (mask.array > 0).all()
    with pytest.raises(ValueError, match="at most 31"):
        mask.add_plane("ONE_MORE")
    before = mask.array.copy()
    with pytest.raises(ValueError, match="at most 31"):
        mask.combine(Mask.blank(SHAPE, ["ONE_MORE"]))
    np.testing.assert_array_equal(mask.array, before)
    with pytest.raises(ValueError, match="at most 31"):
        Mask.blank(SHAPE, [f"P{i}" for i in range(32)])


def test_a_removed_plane_frees_its_bit_clean():
    """A new plane on a freed bit starts unset."""
    mask = Mask.blank(SHAPE, ["A", "B", "C"])
    mask.set(["A", "B"])
    mask.remove_plane("A")
    assert mask.add_plane("D") == 0
    assert (mask.count("D"), mask.count("B")) == (0, 20)


def test_renaming_keeps_pixels_order_and_text():
    """Only the name changes; a name that is taken is refused."""
    mask = Mask.blank(SHAPE, ["A", "B"])
    mask.add_plane("A", "about A")
    mask.set("A", (1, 2))
    mask.rename_plane("A", "Z")
    assert list(mask.planes.items()) == [("Z", 0), ("B", 1)]
    assert (mask.texts["Z"], mask.count("Z")) == ("about A", 1)
    with pytest.raises(ValueError, match="that plane exists"):
        mask.rename_plane("Z", "B")


def test_a_view_shares_pixels_and_planes():
    """Planes added and pixels set through a view are those of the parent."""
    parent = Box(10, 20, 5, 4)
    mask = Mask.blank(parent.shape)
    view = mask.subimage(Box(12, 21, 2, 2), parent)
    view.add_plane("CLIPPED")
    view.set("CLIPPED")
    expected = np.zeros(parent.shape, dtype=bool)
    expected[1:3, 2:4] = True
    np.testing.assert_array_equal(mask.any("CLIPPED"), expected)


def test_msk_cards_win_over_mp_cards():
    """Where both conventions are there, the self-describing one counts."""
    header = {"MSKN0000": "BAD", "MSKM0000": 8, "MSKD0000": "why", "MP_BAD": 0, "MP_OLD": 1}
    mask = Mask.from_cards(np.full(SHAPE, 8, dtype=np.int32), header)
    assert (mask.planes, mask.texts, mask.count("BAD")) == ({"BAD": 3}, {"BAD": "why"}, 20)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({}, "no names"),
        ({"MSKN0001": "A", "MSKM0001": 3}, "one bit"),
        ({"MP_A": 1, "MP_B": 1}, "share a bit"),
    ],
)
def test_headers_without_a_meaning_are_refused(header, message):
    """Bits without names, values of two bits and shared bits are errors."""
    with pytest.raises(ValueError, match=message):
        Mask.from_cards(np.zeros(SHAPE, dtype=np.int32), header)


def test_an_unknown_plane_is_named_with_a_suggestion():
    """The message has the near name; `missing_ok` takes the plane as never set."""
    mask = Mask.blank(SHAPE)
    with pytest.raises(KeyError, match="did you mean SATURATED"):
        mask.any("SATURATD")
    assert mask.count(["BAD", "CLIPPED"], missing_ok=True) == 0


def test_other_integers_and_names_are_refused():
    """int64 pixels and names that FITS keywords cannot hold are errors."""
    with pytest.raises(TypeError, match="int32"):
        Mask(np.zeros(SHAPE, dtype=np.int64))
    with pytest.raises(ValueError, match="capitals"):
        Mask.blank(SHAPE).add_plane("lower")


def test_any_of_many_rows():
    """Pixels are found whichever rows they are in, as by the bits of the whole array."""
    rng = np.random.default_rng(700)
    mask = Mask(rng.integers(0, 8, (700, 3)).astype(np.int32))
    bits = mask.bits(["BAD", "INTERPOLATED"])
    np.testing.assert_array_equal(mask.any(["BAD", "INTERPOLATED"]), (mask.array & bits) != 0)
