"""Running the command line on a survey, and comparing what came out."""

import subprocess
import sys

# run records are not products
NOT_PRODUCTS = ("run.json", "resources.js")
PLACES = ("calibration", "imchar", "release", "quality")


def skyquilt(*words, check=True, **options):
    """Run the command line in a process of its own, as a user does."""
    command = [sys.executable, "-m", "skyquilt.workflow.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(map(str, words))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


def products(root, within=PLACES, without_chunks=False):
    """Path -> bytes of every product of a survey."""
    found = {}
    for place in within:
        for path in sorted((root / place).rglob("*")):
            chunk = without_chunks and any(part.startswith("chunk_") for part in path.parts)
            if path.is_file() and path.name not in NOT_PRODUCTS and not chunk:
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def assert_same_products(found, expected):
    """Names and bytes agree; says which do not."""
    assert sorted(found) == sorted(expected)
    different = [name for name in expected if found[name] != expected[name]]
    assert not different, different
