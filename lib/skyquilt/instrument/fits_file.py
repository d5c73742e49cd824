"""Raw readers (LDM-151 4.1.2.3, 9.2): FITS headers block by block, pixels of one HDU at a time.

Ingest reads one header of each of some 1e5 files and asks a dozen keywords of it: this scan and translation
cost 0.3 ms a file (0.6 in gzip), where CFITSIO's header alone costs 3.6 ms (23, for it unpacks the whole .gz)
and astropy's with a dozen values 5 ms. Cards are split at once and parsed when asked. Files are FITS, FITS in
gzip, and tile-compressed FITS (fpack; pixels by fitsio). Every fault of a file is a `ProcessingFailure` that
names the file without its directory.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.primitives.failure import ProcessingFailure, Reason

BLOCK = 2880
CARD = 80
MAX_HEADER_BLOCKS = 2000
"""A header without END is taken for a broken file after this many blocks [count]."""

MAX_AXES = 999
"""Most axes that FITS allows [count]."""

PIXEL_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


class Cards:
    """Keywords of one header, parsed when asked.

    Parameters
    ----------
    text : str
        The header's 80-character cards up to and including END.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._position: dict[str, int] = {}
        self._parsed: dict[str, Any] = {}
        for start in range(0, len(text), CARD):
            keyword = text[start : start + 8].rstrip()
            if keyword == "HIERARCH":
                keyword = text[start + 9 : start + CARD].partition("=")[0].strip()
            self._position.setdefault(keyword, start)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._position and self._value_text(keyword) is not None

    def keywords(self) -> list[str]:
        """Keywords that have a value, in the header's order."""
        return [keyword for keyword in self._position if keyword in self]

    def get(self, keyword: str, default: Any = None) -> Any:
        """Value of the first card of a keyword: bool, int, float, str without trailing blanks, or None."""
        if keyword not in self._parsed:
            text = self._value_text(keyword)
            if text is None:
                return default
            self._parsed[keyword] = self._parse(text, self._position[keyword])
        return self._parsed[keyword]

    def as_dict(self) -> dict[str, Any]:
        """All keywords that have a value."""
        return {keyword: self.get(keyword) for keyword in self.keywords()}

    def _value_text(self, keyword: str) -> str | None:
        start = self._position.get(keyword)
        if start is None:
            return None
        card = self.text[start : start + CARD]
        if card.startswith("HIERARCH"):
            return card.partition("=")[2]
        return card[10:] if card[8:10] == "= " else None

    def _parse(self, text: str, start: int) -> Any:
        text = text.strip()
        if text.startswith("'"):
            value = _quoted(text)
            while value.endswith("&") and self.text[start + CARD : start + CARD + 8] == "CONTINUE":
                start += CARD
                value = value[:-1] + _quoted(self.text[start + 8 : start + CARD].strip())
            return value
        return _number(text.partition("/")[0].strip())


def _quoted(text: str) -> str:
    """The string in quotes at the start of `text`, without trailing blanks; a doubled quote is one."""
    out, position = [], 1
    while position < len(text):
        if text[position] == "'":
            if text[position + 1 : position + 2] != "'":
                break
            position += 1
        out.append(text[position])
        position += 1
    return "".join(out).rstrip()


def _number(text: str) -> Any:
    if text in ("T", "F"):
        return text == "T"
    for kind in (int, float):
        try:
            return kind(text.replace("D", "E") if kind is float else text)
        except ValueError:
            continue
    return text or None


@dataclass(frozen=True)
class Hdu:
    """Place of one header-data unit.

    Parameters
    ----------
    index : int
        Position in the file, 0 is the primary.
    cards : Cards
        Its header.
    offset, n_byte : int
        Where the data starts and how long it is without padding [byte].
    """

    index: int
    cards: Cards
    offset: int
    n_byte: int

    @property
    def name(self) -> str:
        """EXTNAME, or an empty string."""
        return str(self.cards.get("EXTNAME") or "")

    @property
    def is_compressed(self) -> bool:
        """True for a tile-compressed image."""
        return self.cards.get("ZIMAGE") is True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image (y, x) after decompression, third axes of length one dropped."""
        prefix = "ZNAXIS" if self.is_compressed else "NAXIS"
        n_axis = self.cards.get(prefix)
        axes = range(n_axis if _is_count(n_axis) and n_axis <= MAX_AXES else 0, 0, -1)
        shape = tuple(int(self.cards.get(f"{prefix}{axis}") or 0) for axis in axes)
        return shape if len(shape) < 3 else tuple(n for n in shape if n != 1)

    @property
    def is_image(self) -> bool:
        """True when it holds a 2-d image."""
        plain = self.index == 0 or self.cards.get("XTENSION") == "IMAGE"
        return len(self.shape) == 2 and (plain or self.is_compressed)


class FitsFile:
    """Headers and images of one file, read as far as asked.

    Parameters
    ----------
    path : path-like
        Plain, gzipped or tile-compressed FITS.

    Raises
    ------
    ProcessingFailure
        MISSING_FILE, or UNREADABLE_FILE with what is wrong, from any method.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._hdus: list[Hdu] = []
        self._complete = False
        with self._guarded():
            stream = open(self.path, "rb")  # noqa: SIM115 - closed by __exit__
            self._stream: Any = stream
            if stream.read(2) == b"\x1f\x8b":
                stream.seek(0)
                self._stream = io.BufferedReader(gzip.GzipFile(fileobj=stream, mode="rb"), 1 << 16)
            else:
                stream.seek(0)
            self._file = stream

    def __enter__(self) -> FitsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._file.close()

    def _guarded(self) -> _Guard:
        return _Guard(self.path)

    def _fail(self, text: str) -> ProcessingFailure:
        return ProcessingFailure(Reason.UNREADABLE_FILE, f"{self.path.name}: {text}")

    @property
    def primary(self) -> Hdu:
        """The primary HDU; in a file from fpack the first extension, if the image had been the primary's."""
        return self.hdu(0)

    def hdus(self) -> Iterator[Hdu]:
        """All HDUs in the file's order, as they are in the file before fpack."""
        index = 1 if self._packed_primary() else 0
        while (hdu := self._walk(index)) is not None:
            yield hdu
            index += 1

    def hdu(self, key: int | str) -> Hdu:
        """HDU of a number (0 is the primary) or EXTNAME (any case).

        Raises
        ------
        ProcessingFailure
            WRONG_SHAPE when a whole file has no such HDU.
        """
        for number, hdu in enumerate(self.hdus()):
            if number == key or (isinstance(key, str) and hdu.name.upper() == key.upper()):
                return hdu
        found = [hdu.name or str(number) for number, hdu in enumerate(self.hdus())]
        listed = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
        raise ProcessingFailure(
            Reason.WRONG_SHAPE, f"{self.path.name}: no extension {key!r} in the file; it has {listed}"
        )

    def first_image(self) -> Hdu:
        """The first HDU with a 2-d image; WRONG_SHAPE when there is none."""
        for hdu in self.hdus():
            if hdu.is_image:
                return hdu
        raise ProcessingFailure(Reason.WRONG_SHAPE, f"{self.path.name}: the file holds no 2-d image")

    def pixels(self, hdu: Hdu) -> np.ndarray:
        """Image of one HDU with BSCALE, BZERO and BLANK applied, float32, shape (y, x)."""
        if hdu.is_compressed:
            return self._compressed_pixels(hdu)
        dtype = PIXEL_TYPES.get(hdu.cards.get("BITPIX"))
        if dtype is None:
            raise self._fail(f"BITPIX is {hdu.cards.get('BITPIX')!r}, expected one of {sorted(PIXEL_TYPES)}")
        with self._guarded():
            self._stream.seek(hdu.offset)
            data = self._stream.read(hdu.n_byte)
        if len(data) < hdu.n_byte:
            where = hdu.name or f"HDU {hdu.index}"
            raise self._fail(f"truncated, {where} has {len(data)} of {hdu.n_byte} bytes of pixels")
        return _scaled(np.frombuffer(data, dtype).reshape(hdu.shape), *self._scaling(hdu.cards))

    def _scaling(self, cards: Cards) -> tuple[float, float, float | None]:
        """BSCALE, BZERO and BLANK."""
        values = {"BSCALE": 1, "BZERO": 0, "BLANK": None}
        for keyword, default in values.items():
            value = values[keyword] = cards.get(keyword, default)
            if isinstance(value, bool) or not (value is default or isinstance(value, (int, float))):
                raise self._fail(f"{keyword} is {value!r}, expected a number")
        return values["BSCALE"], values["BZERO"], values["BLANK"]

    def _compressed_pixels(self, hdu: Hdu) -> np.ndarray:
        import fitsio

        try:
            return np.asarray(fitsio.read(str(self.path), ext=hdu.index), dtype=np.float32).reshape(hdu.shape)
        except (OSError, ValueError) as error:
            raise self._fail(f"HDU {hdu.index} cannot be decompressed ({_first_line(error)})") from error

    def _packed_primary(self) -> bool:
        if self.path.suffix != ".fz":
            return False
        first = self._walk(0)
        if first is None or first.cards.get("NAXIS") != 0:
            return False
        # fpack marks the extension that had been the primary HDU with ZSIMPLE
        second = self._walk(1)
        return second is not None and "ZSIMPLE" in second.cards

    def _walk(self, index: int) -> Hdu | None:
        while len(self._hdus) <= index and not self._complete:
            self._read_next()
        return self._hdus[index] if index < len(self._hdus) else None

    def _read_next(self) -> None:
        offset = 0
        if self._hdus:
            last = self._hdus[-1]
            offset = last.offset + -(-last.n_byte // BLOCK) * BLOCK
        with self._guarded():
            self._stream.seek(offset)
            text = self._header_text(offset)
        if text is None:
            self._complete = True
            return
        cards = Cards(text)
        start = offset + -(-len(text) // BLOCK) * BLOCK
        self._hdus.append(Hdu(len(self._hdus), cards, start, self._data_bytes(cards)))

    def _header_text(self, offset: int) -> str | None:
        pieces: list[str] = []
        for _ in range(MAX_HEADER_BLOCKS):
            block = self._stream.read(BLOCK)
            if not pieces:
                if not block and offset:
                    self._check_end(offset)
                    return None
                self._check_start(block, offset)
                if block[:8] not in (b"SIMPLE  ", b"XTENSION"):
                    return None  # special records after the last HDU
            if len(block) < BLOCK:
                raise self._fail(f"truncated inside the header at byte {offset + len(pieces) * BLOCK}")
            pieces.append(block.decode("latin-1"))
            if (end := _end_card(pieces[-1])) is not None:
                return "".join(pieces[:-1]) + pieces[-1][: end + CARD]
        raise self._fail(f"the header at byte {offset} has no END card")

    def _check_start(self, block: bytes, offset: int) -> None:
        if offset:
            return
        if not block:
            raise self._fail("the file is empty")
        if block[:9] != b"SIMPLE  =":
            raise self._fail(f"not a FITS file, it starts with {block[:9]!r} instead of 'SIMPLE  ='")

    def _check_end(self, offset: int) -> None:
        """Seeking beyond the end of a plain file is silent: see that the last HDU's data is whole."""
        last = self._hdus[-1]
        end = self._stream.seek(0, io.SEEK_END) if self._stream is self._file else self._stream.tell()
        if end < last.offset + last.n_byte:
            raise self._fail(
                f"truncated, it ends at byte {end}, HDU {last.index} should reach {last.offset + last.n_byte}"
            )

    def _data_bytes(self, cards: Cards) -> int:
        n_axis, bits = cards.get("NAXIS"), cards.get("BITPIX")
        compressed = cards.get("ZNAXIS") if cards.get("ZIMAGE") is True else 0
        compressed = compressed if _is_count(compressed) and compressed <= MAX_AXES else 0
        sizes = (
            [cards.get(f"NAXIS{i + 1}") for i in range(n_axis)]
            if _is_count(n_axis) and n_axis <= MAX_AXES
            else [None]
        )
        sizes += [cards.get(f"ZNAXIS{i + 1}") for i in range(compressed)]
        extra, groups = cards.get("PCOUNT", 0), cards.get("GCOUNT", 1)
        if not isinstance(bits, int) or not all(_is_count(n) for n in (*sizes, extra, groups)):
            raise self._fail(
                f"BITPIX {bits!r}, axes {sizes}, PCOUNT {extra!r} and GCOUNT {groups!r} describe no data"
            )
        n_pixel = math.prod(sizes[: len(sizes) - compressed]) if n_axis else 0
        return abs(bits) // 8 * groups * (n_pixel + extra)


class _Guard:
    """Turn faults of the operating system and of gzip into ProcessingFailure."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        name = self.path.name
        if isinstance(error, FileNotFoundError):
            raise ProcessingFailure(Reason.MISSING_FILE, f"{name}: there is no such file") from error
        if isinstance(error, EOFError):
            raise ProcessingFailure(
                Reason.UNREADABLE_FILE, f"{name}: truncated, the gzip stream ends early"
            ) from error
        if isinstance(error, (zlib.error, gzip.BadGzipFile)):
            raise ProcessingFailure(
                Reason.UNREADABLE_FILE, f"{name}: corrupt gzip stream ({_first_line(error)})"
            ) from error
        if isinstance(error, OSError):
            raise ProcessingFailure(
                Reason.UNREADABLE_FILE, f"{name}: cannot be read ({error.strerror or _first_line(error)})"
            ) from error


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _end_card(block: str) -> int | None:
    """Position of the END card in a block, or None."""
    position = block.find("END     ")
    while position >= 0:
        if position % CARD == 0 and not block[position + 3 : position + CARD].strip():
            return position
        position = block.find("END     ", position + 1)
    return None


def _scaled(stored: np.ndarray, scale: float, zero: float, blank: float | None) -> np.ndarray:
    # float64 pixels or scales beyond float32 become inf: ISR masks what is not finite
    with np.errstate(over="ignore", invalid="ignore"):
        if scale == 1 and stored.dtype.itemsize <= 2:
            image = stored.astype(np.float32)  # exact: below 2**24
            image += np.float32(zero)
        elif scale == 1 and zero == 0:
            image = stored.astype(np.float32)
        else:
            image = (stored.astype(np.float64) * float(scale) + float(zero)).astype(np.float32)
    if blank is not None and stored.dtype.kind in "iu":
        image[stored == blank] = np.nan
    return image
