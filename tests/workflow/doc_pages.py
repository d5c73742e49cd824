"""Pages of the documentation and their fenced blocks, for the tests that hold them true."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```\s*$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text without indentation, the text before it, and where it stands."""

    page: str
    line: int
    language: str
    text: str
    before: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def pages():
    """Path in the repository -> text of README and all pages of docs."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in files}


def blocks(*languages, page=None):
    """Fenced blocks of the languages given, of one page or of all, in order."""
    found = []
    for name, text in pages().items():
        if page in (None, name):
            for match in _FENCE.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                content = textwrap.dedent(match["text"])
                found.append(Block(name, line, match["language"], content, text[: match.start()]))
    return [block for block in found if block.language in languages]


def prose(text):
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)
