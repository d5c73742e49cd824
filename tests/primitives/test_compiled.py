"""Compiled kernels: laziness, the cache on disk, refusals."""

import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from skyquilt.primitives import compiled
from skyquilt.primitives.compiled import kernel

LIBRARY = Path(compiled.__file__).parents[2]

INNER = """
    from skyquilt.primitives.compiled import kernel
    FACTOR = 2.0

    @kernel("float64(const(float32[:, :]), int64)")
    def weighted(image, n):
        total = 0.0
        for i in range(image.shape[0]):
            for j in range(image.shape[1]):
                total += image[i, j] * FACTOR
        return total * n
"""

OUTER = """
    from skyquilt.primitives.compiled import kernel as compiled_kernel
    from tinypkg.inner import weighted

    @compiled_kernel("void(const(float32[:, :]), float64[:])", "void(const(float64[:, :]), float64[:])")
    def store(image, out):
        out[0] = weighted(image.astype("float32"), 3)
"""

CALL = """
    import sys
    import numpy as np
    from tinypkg.outer import store
    assert "numba" not in sys.modules, "importing kernels imported numba"
    out = np.zeros(1)
    store(np.ones((2, 3), dtype=np.float32), out)
    from skyquilt.primitives.compiled import cache_misses, cache_directory
    print(out[0], cache_misses(), cache_directory().name)
"""


@pytest.fixture
def package(tmp_path):
    """A package of two modules, the kernel of one calling that of the other."""
    folder = tmp_path / "tinypkg"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text(textwrap.dedent(INNER))
    (folder / "outer.py").write_text(textwrap.dedent(OUTER))
    return tmp_path


def start(package, code, **environment):
    """Start another interpreter on `code` with its own cache of compiled kernels."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SKYQUILT")}
    variables |= {"PYTHONPATH": f"{LIBRARY}{os.pathsep}{package}", "SKYQUILT_CACHE": str(package / "cache")}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.split()


@kernel("float64(const(float32[:, :]), int64)", "float64(const(float64[:, :]), int64)")
def sum_times(image, n):
    total = 0.0
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            total += image[i, j]
    return total * n


@kernel("void(float64[:])")
def fill_with_one(out):
    out[:] = 1.0


def in_child(values):
    return sum_times(values, 2)


def test_kernel_equals_its_python_twin():
    """The compiled code and `py_func` give the same, on strided and read-only arrays too."""
    image = np.arange(24, dtype=np.float32).reshape(4, 6)
    image.flags.writeable = False
    for array in (image, image[::2, ::3], image.T):
        assert sum_times(array, 3) == sum_times.py_func(array, 3) == 3 * array.sum()


@pytest.mark.parametrize(
    "args",
    [
        (np.zeros((2, 2), dtype=np.int64), 1),
        (np.zeros(4, dtype=np.float32), 1),
        (np.zeros((2, 2), dtype=np.float32), 2.5),
        (np.zeros((2, 2), dtype=np.float32),),
        (np.zeros((2, 2), dtype=np.float32), 1, 2),
    ],
)
def test_undeclared_arguments_are_refused(args):
    """Another dtype, rank, number or a float for an integer: a TypeError names the declared signatures."""
    with pytest.raises(TypeError, match=r"sum_times got .* declared for float64\(const\(float32"):
        sum_times(*args)


def test_read_only_output_is_refused():
    """An array that is not declared const must be writable."""
    out = np.zeros(3)
    out.flags.writeable = False
    with pytest.raises(TypeError, match="read-only"):
        fill_with_one(out)
    assert not out.any()


def test_bad_declarations_are_refused():
    """A kernel without signatures, or with one that numba cannot read, says so."""
    with pytest.raises(ValueError, match="no signature"):
        kernel()(lambda: None)
    with pytest.raises(ValueError, match="flaot64"):
        compiled.Kernel(lambda x: x, ("flaot64(float64)",)).compile()


def test_pickle_finds_the_kernel_again():
    """A kernel travels to a worker by its name."""
    assert pickle.loads(pickle.dumps(sum_times)) is sum_times


def test_children_of_a_fork_run_kernels():
    """A pool forked after the kernels were called runs them."""
    image = np.ones((3, 3), dtype=np.float32)
    assert sum_times(image, 1) == 9
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        assert list(pool.map(in_child, [image, 2 * image])) == [18, 36]


def test_second_process_compiles_nothing(package):
    """After `warm_all` another process finds every signature on disk; importing does not import numba."""
    warm = "from skyquilt.primitives.compiled import warm_all; print(warm_all('tinypkg'))"
    assert answer(start(package, warm)) == ["3"]
    assert answer(start(package, CALL))[:2] == ["36.0", "0"]


def test_processes_fill_a_cache_at_once(package):
    """Three processes that start on an empty cache agree, and what they leave is whole."""
    first = [start(package, CALL) for _ in range(3)]
    assert [answer(process)[0] for process in first] == ["36.0"] * 3
    assert answer(start(package, CALL))[:2] == ["36.0", "0"]
    assert not list((package / "cache").rglob("*.tmp.*"))


def test_cache_follows_what_a_kernel_calls(package):
    """A constant or line changed in the module of a called kernel is seen, which numba's own cache misses."""
    assert answer(start(package, CALL))[0] == "36.0"
    source = package / "tinypkg" / "inner.py"
    source.write_text(source.read_text().replace("FACTOR = 2.0", "FACTOR = 5.0"))
    assert answer(start(package, CALL))[:2] == ["90.0", "3"]


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="an x86 level")
def test_pinned_cpu_is_part_of_the_key(package):
    """$SKYQUILT_CPU changes the code's target and the directory it is kept in."""
    host, pinned = start(package, CALL), start(package, CALL, SKYQUILT_CPU="x86-64-v2")
    host, pinned = answer(host), answer(pinned)
    assert host[0] == pinned[0] == "36.0"
    assert "x86-64-v2" in pinned[2]
    assert host[2] != pinned[2]


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    """$SKYQUILT_CACHE comes before the user's cache directory."""
    monkeypatch.setenv("SKYQUILT_CACHE", str(tmp_path))
    assert compiled.cache_directory().parent == tmp_path
    monkeypatch.delenv("SKYQUILT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compiled.cache_directory().parent == tmp_path / "xdg" / "skyquilt"


def test_unwritable_cache_warns_and_works(monkeypatch, tmp_path):
    """Where nothing can be kept kernels still run, and a warning says what to set."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SKYQUILT_CACHE", str(tmp_path / "file"))
    again = compiled.Kernel(sum_times.py_func, sum_times.signatures[:1])
    with pytest.warns(RuntimeWarning, match="SKYQUILT_CACHE"):
        assert again(np.ones((2, 2), dtype=np.float32), 2) == 8
    assert again.misses() == 1
