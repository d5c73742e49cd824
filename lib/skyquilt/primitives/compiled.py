"""Compiled kernels (LDM-151 9): numba functions over plain arrays, compiled once and kept on disk.

A kernel declares the signatures it is compiled for and takes nothing else::

    @kernel("float64(const(float32[:, :]), const(boolean[:, :]))")
    def sum_where(image, where): ...

Importing a module with kernels neither imports numba nor compiles: both happen at the first call (numba costs
0.2 s). `warm_all` compiles all kernels of the package; afterwards `cache_misses` stays 0 in new processes.

The machine code lies in `$SKYQUILT_CACHE`, else in the user's cache directory, under a key of versions and
CPU. `$SKYQUILT_CPU` (a name that LLVM knows, such as `x86-64-v3`) pins the instruction set where nodes
differ. LLVM takes the plainest of the architecture for a name that it does not know, and says so on stderr.
Processes may fill one cache at the same time. Fork before starting threads that call kernels for the first
time: a child would inherit the locked compiler.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import pkgutil
import platform
import sys
import threading
import types as python_types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_REGISTERED: list[Kernel] = []
_COMPILING = threading.RLock()

_CONSTANT_TYPES = (bool, int, float, complex, str, tuple, np.generic)


class Kernel:
    """A function that is compiled at its first call for the declared signatures only.

    Attributes
    ----------
    py_func : callable
        The plain Python function: the twin of the tests.
    signatures : tuple of str
        In numba's notation, with or without a return type. `const(...)` around an array type takes read-only
        arrays as well (pandas and memory maps hand them out): use it for every array that is not written.
    """

    def __init__(self, py_func: Callable[..., Any], signatures: tuple[str, ...]) -> None:
        if not signatures:
            raise ValueError(f"kernel {py_func.__qualname__} declares no signature")
        functools.update_wrapper(self, py_func)
        self.py_func = py_func
        self.signatures = signatures
        self._compiled: Any = None
        self._integers: tuple[int, ...] = ()

    def __call__(self, *args: Any) -> Any:
        """Run the compiled code.

        Raises
        ------
        TypeError
            When the arguments are not of a declared signature; a float where an integer is declared too,
            which numba would truncate.
        """
        compiled = self._compiled or self.compile()
        for i in self._integers:
            if i < len(args) and not isinstance(args[i], int | np.integer | np.bool_):
                raise TypeError(self._complaint(args))
        try:
            return compiled(*args)
        except TypeError as error:
            if str(error).startswith(("No matching definition", "Ambiguous", "not enough", "too many")):
                raise TypeError(self._complaint(args)) from None
            raise

    def __repr__(self) -> str:
        return f"<kernel {self.__module__}.{self.__qualname__}>"

    def __reduce__(self) -> str:
        return self.__qualname__

    @property
    def _numba_type_(self) -> Any:
        """What numba asks for when one kernel calls another."""
        return (self._compiled or self.compile())._numba_type_

    def compile(self) -> Any:
        """The numba dispatcher with all declared signatures, from the cache on disk where it is there."""
        if self._compiled is None:
            with _COMPILING:
                compiled = _compile(self)
                self._integers = _integer_scalars(compiled)
                self._compiled = compiled
        return self._compiled

    def misses(self) -> int:
        """How many signatures this process compiled because the cache did not have them."""
        return 0 if self._compiled is None else sum(self._compiled.stats.cache_misses.values())

    def _complaint(self, args: tuple[Any, ...]) -> str:
        found = ", ".join(_describe(arg) for arg in args)
        return (
            f"kernel {self.__module__}.{self.__qualname__} got ({found}); it is declared for "
            + " or ".join(self.signatures)
            + " (an array takes read-only input only where it is declared const)"
        )


def kernel(*signatures: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a function of a module as a kernel.

    It is compiled by numba in nopython mode without the GIL, without fastmath and without threads, and
    divides as NumPy does (by zero: inf or NaN). Kernels may call kernels, of other modules too.

    Parameters
    ----------
    signatures : str
        Such as `"float64(const(float32[:, :]), int64)"`. Names are those of `numba.types`, and `const`.
    """

    def declare(py_func: Callable[..., Any]) -> Kernel:
        declared = Kernel(py_func, signatures)
        _REGISTERED.append(declared)
        return declared

    return declare


def registered_kernels() -> tuple[Kernel, ...]:
    """All kernels of the modules imported so far."""
    return tuple(_REGISTERED)


def warm_all(package: str = "skyquilt") -> int:
    """Import every module of a package that declares kernels and compile them all.

    Returns
    -------
    int
        Number of signatures that had to be compiled; the rest came from the cache.
    """
    for name in _modules_with_kernels(package):
        importlib.import_module(name)
    before = cache_misses()
    for each in _REGISTERED:
        each.compile()
    return cache_misses() - before


def cache_misses() -> int:
    """How many signatures this process compiled because the cache on disk did not have them."""
    return sum(each.misses() for each in _REGISTERED)


def cache_directory() -> Path:
    """Where compiled kernels of these versions and this CPU lie. Imports numba."""
    return _cache_root() / _environment_key()


def _cache_root() -> Path:
    """`$SKYQUILT_CACHE`, else the user's cache directory after the platform's convention."""
    if chosen := os.environ.get("SKYQUILT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "skyquilt" / "Cache"
        )
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "skyquilt"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skyquilt"


@functools.cache
def _numba() -> Any:
    """Numba, with the CPU pinned if the environment says so.

    Raises
    ------
    RuntimeError
        When somebody else compiled with numba before the CPU could be pinned.
    """
    import numba

    if cpu := os.environ.get("SKYQUILT_CPU"):
        from numba.core.registry import cpu_target

        numba.config.CPU_NAME = cpu
        # Without this numba adds the features of the machine it runs on to those of the named CPU.
        numba.config.CPU_FEATURES = ""
        features = cpu_target.target_context.codegen().magic_tuple()[2]
        if features:
            raise RuntimeError(
                f"SKYQUILT_CPU={cpu} comes too late: numba has already compiled for this machine"
            )
    return numba


@functools.cache
def _environment_key() -> str:
    """Directory name of what machine code depends on besides its source."""
    numba = _numba()
    import llvmlite
    from numba.core.registry import cpu_target

    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()[:3]
    digest = hashlib.sha256(f"{triple} {features}".encode()).hexdigest()[:8]
    return (
        f"{sys.implementation.cache_tag}-numba{numba.__version__}-llvmlite{llvmlite.__version__}"
        f"-numpy{np.__version__}-{platform.machine()}-{cpu}-{digest}"
    )


def _compile(declared: Kernel) -> Any:
    numba = _numba()
    # First the kernels that this one calls: compiling them sets numba's cache directory, a global.
    for other in _called_kernels(declared.py_func):
        if other is not declared:
            other.compile()
    directory = cache_directory() / _source_digest(declared)
    cached = _writable(directory)
    previous, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(directory)
    try:
        compiled = numba.njit(nogil=True, error_model="numpy", cache=cached)(declared.py_func)
        parsed = [_parse(text, declared) for text in declared.signatures]
        for signature in parsed:
            compiled.compile(signature)
        # Numba's index is read, changed and written again: processes that race could swap two entries.
        if set(compiled.overloads) != {_arguments(signature) for signature in parsed}:
            compiled.recompile()
            for signature in parsed:
                compiled.compile(signature)
    finally:
        numba.config.CACHE_DIR = previous
    compiled.disable_compile()
    return compiled


def _parse(text: str, declared: Kernel) -> Any:
    """A numba signature from its text."""
    from numba import types

    def const(array: Any) -> Any:
        return array.copy(readonly=True)

    names = {name: getattr(types, name) for name in dir(types) if not name.startswith("_")} | {"const": const}
    try:
        return eval(text, {"__builtins__": {}}, names)
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        raise ValueError(f"signature {text!r} of {declared!r} is not understood: {error}") from error


def _arguments(signature: Any) -> tuple[Any, ...]:
    return tuple(signature.args) if hasattr(signature, "args") else tuple(signature)


def _integer_scalars(compiled: Any) -> tuple[int, ...]:
    """Positions at which every signature takes an integer."""
    from numba import types

    columns = zip(*compiled.overloads, strict=True)
    return tuple(i for i, column in enumerate(columns) if all(isinstance(t, types.Integer) for t in column))


def _describe(arg: Any) -> str:
    if isinstance(arg, np.ndarray):
        layout = "C" if arg.flags.c_contiguous else "strided"
        return f"{arg.dtype} array {arg.shape} {layout}{'' if arg.flags.writeable else ' read-only'}"
    return type(arg).__name__


def _writable(directory: Path) -> bool:
    """Make the directory; without one kernels are compiled anew in each process."""
    trouble = "it is not writable"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        trouble = str(error)
    if os.access(directory, os.W_OK | os.X_OK):
        return True
    message = f"compiled kernels cannot be kept in {directory}: {trouble}; set SKYQUILT_CACHE"
    warnings.warn(message, RuntimeWarning, stacklevel=2)
    return False


def _source_digest(declared: Kernel) -> str:
    """Digest of the source of a kernel, of those it calls and of the constants they use.

    Numba looks at a kernel's own file only; the code of what it calls is inlined, and would stay old.
    """
    hasher = hashlib.sha256()
    seen: set[Kernel] = set()
    stack = [declared]
    while stack:
        each = stack.pop()
        if each in seen:
            continue
        seen.add(each)
        hasher.update(f"{each.__module__}.{each.__qualname__}{each.signatures}".encode())
        hasher.update(_file_digest(each.py_func.__code__.co_filename))
        for name, value in sorted(_constants(each.py_func).items()):
            hasher.update(f"{name}={value!r}".encode())
        stack.extend(sorted(_called_kernels(each.py_func), key=repr))
    return f"{declared.__name__}-{hasher.hexdigest()[:16]}"


@functools.cache
def _file_digest(filename: str) -> bytes:
    path = Path(filename)
    return hashlib.sha256(path.read_bytes()).digest() if path.is_file() else filename.encode()


def _global_values(py_func: Callable[..., Any]) -> dict[str, Any]:
    """Values of the global names of a function, and of the attributes it reads of modules."""
    names = _code_names(py_func.__code__)
    values = {name: py_func.__globals__[name] for name in names if name in py_func.__globals__}
    for module_name, module in list(values.items()):
        if isinstance(module, python_types.ModuleType) and module.__name__.partition(".")[0] != "numpy":
            values |= {f"{module_name}.{n}": getattr(module, n) for n in names if hasattr(module, n)}
    return values


def _code_names(code: python_types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, python_types.CodeType):
            names |= _code_names(constant)
    return names


def _called_kernels(py_func: Callable[..., Any]) -> list[Kernel]:
    return [value for value in _global_values(py_func).values() if isinstance(value, Kernel)]


def _constants(py_func: Callable[..., Any]) -> dict[str, Any]:
    """Global values that numba freezes into the machine code."""
    frozen: dict[str, Any] = {}
    for name, value in _global_values(py_func).items():
        if isinstance(value, _CONSTANT_TYPES):
            frozen[name] = value
        elif isinstance(value, np.ndarray):
            content = hashlib.sha256(np.ascontiguousarray(value)).hexdigest()
            frozen[name] = (value.dtype.str, value.shape, content)
    return frozen


def _modules_with_kernels(package: str) -> list[str]:
    """Names of the modules of a package whose source imports the decorator, under whatever name."""
    found = []
    root = importlib.import_module(package)
    for place in pkgutil.walk_packages(getattr(root, "__path__", []), package + "."):
        spec = place.module_finder.find_spec(place.name, None)
        origin = spec.origin if spec else None
        if origin and origin.endswith(".py"):
            source = Path(origin).read_text(encoding="utf-8")
            if "skyquilt.primitives.compiled import" in source:
                found.append(place.name)
    return sorted(found)
