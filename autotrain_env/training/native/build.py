"""Builds the engine's libraries, one for each instruction set, with the C++ compiler that is there.

Needs nothing but Python's own library: the build of a wheel runs this file before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent

FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",  # bits must not depend on what the compiler finds fit to join into one operation
)

FLAGS_VARIABLE = "AUTOTRAIN_CXXFLAGS"
"""Names more flags for the compiler, as sanitizers need them; libraries built with others are not used."""

ARCHITECTURES = {
    "avx512": "-march=x86-64-v4",
    "avx2": "-march=x86-64-v3",
    "neon": "-march=armv8-a",
}
"""Instruction sets, and what the compiler has to be told for each."""


class BuildError(Exception):
    """The engine cannot be built; the message says why."""


def buildable() -> tuple[str, ...]:
    """Returns the instruction sets that libraries can be built for on this kind of machine."""
    machine = platform.machine().lower()
    if platform.system() not in ("Linux", "Darwin"):
        return ()
    if machine in ("x86_64", "amd64"):
        return ("avx512", "avx2")
    return ("neon",) if machine in ("arm64", "aarch64") else ()


def _more_flags() -> list[str]:
    return shlex.split(os.environ.get(FLAGS_VARIABLE, ""))


def source_key() -> str:
    """Returns what changes with the sources and flags: part of a library's name, so that none is stale."""
    digest = hashlib.sha256(" ".join((*FLAGS, *_more_flags(), *ARCHITECTURES.values())).encode())
    for path in sorted((*FOLDER.glob("*.h"), *FOLDER.glob("*.cpp"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def library_name(instructions: str) -> str:
    """Returns the file name of the library for an instruction set."""
    return f"engine-{source_key()}-{instructions}.so"


def compiler() -> str:
    """Returns the C++ compiler: what the variable `CXX` names, or the first one found.

    Raises:
        BuildError: If there is none.
    """
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        found = shutil.which(name)
        if found:
            return found
    if named:
        raise BuildError(f"CXX={named!r} is no program")
    raise BuildError("there is no C++ compiler (c++, g++ or clang++)")


def build(instructions: str, folder: Path, *, portable: bool = False) -> Path:
    """Compile the library for one instruction set, unless it is there; it appears whole or not at all.

    Args:
        instructions: One of `ARCHITECTURES`.
        folder: Where to put it; made where it is missing.
        portable: Whether it is for other machines too, which may lack this compiler's own libraries.

    Returns:
        The library's path.

    Raises:
        BuildError: If it cannot be compiled or written.
    """
    path = folder / library_name(instructions)
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / path.name
            source = FOLDER / "engine.cpp"
            command = [compiler(), *FLAGS, ARCHITECTURES[instructions], *_more_flags(), str(source)]
            if portable and platform.system() == "Linux":
                command += ["-static-libstdc++", "-static-libgcc"]
            command += ["-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
            made.replace(path)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"cannot build the engine in {folder}: {error}") from error
    return path
