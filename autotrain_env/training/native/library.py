"""Finds the engine's library, or builds it, and loads it."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

import numpy as np
import torch

from autotrain_env.data.sampling import permute_rows
from autotrain_env.errors import warn
from autotrain_env.training.native.build import (
    FOLDER,
    BuildError,
    CannotBuildError,
    build,
    buildable,
    compiler,
    library_name,
)

CACHE_VARIABLE = "AUTOTRAIN_CACHE"
"""Names the folder in which a library that was built is kept; by default `~/.cache/autotrain`."""

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes, _capsule_pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p

_P, _I32, _I64, _F = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float


class Job(ctypes.Structure):
    """The fields of `Job` in job.h, which says what they are."""

    _fields_ = [
        ("convolutional", _I32),
        ("num_sizes", _I32),
        ("sizes", _P),
        ("image_height", _I32),
        ("image_width", _I32),
        ("num_features", _I32),
        ("num_lanes", _I64),
        ("rows", _P),
        ("row_stride", _I64),
        ("slots", _P),
        ("scale", _P),
        ("shift", _P),
        ("pool", _P),
        ("num_updates", _I32),
        ("batch_size", _I32),
        ("indices", _P),
        ("labels", _P),
        ("learning_rates", _P),
        ("coefficients", _P),
        ("num_factors", _I32),
        ("rule", _I32),
        ("weight_decay", _F),
        ("decoupled_decay", _F),
        ("beta1", _F),
        ("beta2", _F),
        ("eps", _F),
        ("max_grad_norm", _F),
        ("losses", _P),
        ("accuracies", _P),
        ("finite", _P),
        ("num_images", _I32),
        ("image_indices", _P),
        ("image_labels", _P),
        ("image_correct", _P),
        ("image_finite", _P),
        ("image_losses", _P),
        ("num_threads", _I32),
    ]


class Members(ctypes.Structure):
    """The fields of `Members` in members.h, which says what they are."""

    _fields_ = [
        ("centre", _P),
        ("numbers", _P),
        ("numbers_stride", _I64),
        ("rank", _I32),
        ("num_signs", _I32),
        ("std", _P),
        ("weights", _P),
        ("losses", _P),
        ("accuracies", _P),
    ]


class Library:
    """A library that was loaded.

    Args:
        path: Where it lies.
        instructions: The instruction set it was built for.
    """

    def __init__(self, path: Path, instructions: str) -> None:
        self.path = path
        self.instructions = instructions
        functions = ctypes.CDLL(str(path))
        functions.autotrain_job_bytes.restype = functions.autotrain_members_bytes.restype = _I64
        assert functions.autotrain_job_bytes() == ctypes.sizeof(Job), "job.h and Job differ"
        assert functions.autotrain_members_bytes() == ctypes.sizeof(Members), "members.h and Members differ"
        self._train, self._evaluate = functions.autotrain_train, functions.autotrain_evaluate
        for function in (self._train, self._evaluate):
            function.argtypes, function.restype = [ctypes.POINTER(Job)], ctypes.c_int
        self._measure = functions.autotrain_measure
        self._measure.argtypes = [ctypes.POINTER(Job), ctypes.POINTER(Members)]
        self._measure.restype = ctypes.c_int
        self._permute = functions.autotrain_permute
        self._permute.argtypes, self._permute.restype = [_P, _P, _I64, _I64], None

    def train(self, job: Job) -> None:
        """Carry out a training job.

        Raises:
            MemoryError: If there is not enough memory.
        """
        self._check(self._train(job))

    def evaluate(self, job: Job) -> None:
        """Carry out an evaluation job.

        Raises:
            MemoryError: If there is not enough memory.
        """
        self._check(self._evaluate(job))

    def measure(self, job: Job, members: Members) -> None:
        """Measure members of a generation on the minibatch that a job holds.

        Raises:
            MemoryError: If there is not enough memory.
        """
        self._check(self._measure(job, members))

    def permute(self, generator: np.random.Generator, rows: np.ndarray) -> None:
        """Do `generator.permuted(rows, axis=1, out=rows)`, with the same bits in a third of the time.

        Args:
            generator: Any of NumPy's.
            rows: Items, int64, shape (rows, fewer than 2**32), one after the other in memory.
        """
        assert rows.dtype == np.int64 and rows.flags.c_contiguous
        source = generator.bit_generator
        address = _capsule_pointer(source.capsule, b"BitGenerator")
        with source.lock:
            self._permute(address, rows.ctypes.data, *rows.shape)

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise MemoryError("not enough memory to compute the networks")


def permute(generator: np.random.Generator, rows: np.ndarray) -> None:
    """Permute every row by itself, in place; by compiled code where there is any, with the same bits.

    Args:
        generator: Any of NumPy's; it advances.
        rows: Items, int64, shape (rows, items in a row), one after the other in memory.
    """
    library = best_library()
    if isinstance(library, BuildError):
        permute_rows(generator, rows)
    else:
        library.permute(generator, rows)


def instructions_here() -> tuple[str, ...]:
    """Returns the instruction sets that this processor has, the best first."""
    has = torch.backends.cpu.get_cpu_capability()
    if has == "AVX512":
        usable = {"avx512", "avx2"}
    else:
        usable = {"avx2"} if has == "AVX2" else {"neon"}
    return tuple(name for name in buildable() if name in usable)


def cache_folder() -> Path:
    """Returns where libraries that were built are kept."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autotrain"


@functools.cache
def load(instructions: str) -> Library:
    """Returns the library for an instruction set, from the package or the cache, or else built now.

    Raises:
        BuildError: If there is none and it cannot be built, or it cannot be loaded.
    """
    path = FOLDER / library_name(instructions)
    if not path.exists():
        path = cache_folder() / path.name
    if not path.exists():
        compiler()  # or say that there is none
        print("AutoTrain: compiling the engine, once (about 10 s) …", file=sys.stderr, flush=True)
        path = build(instructions, path.parent)
    try:
        return Library(path, instructions)
    except OSError as error:
        raise BuildError(f"cannot load {path}: {error}") from error


@functools.cache
def best_library() -> Library | BuildError:
    """Returns the library for the best instruction set of this processor, or why there is none.

    Warns where one should have been built or loaded and was not.
    """
    usable = instructions_here()
    if not usable:
        return CannotBuildError("it is written for x86-64 with AVX2 and for ARM, on Linux and macOS")
    try:
        return load(usable[0])
    except CannotBuildError as error:
        return error
    except BuildError as error:
        warn(f"the compiled engine cannot be used, and torch computes instead, which is slower: {error}")
        return error


def library_or_raise(library: Library | None) -> Library:
    """Returns a library, by default that for the best instruction set of this processor.

    Raises:
        BuildError: If none is given, and there is none.
    """
    found = best_library() if library is None else library
    if isinstance(found, BuildError):
        raise found
    return found
