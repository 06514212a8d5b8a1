"""The package as a user gets it: the wheel, its metadata, and an episode far from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import autotrain_env
from autotrain_env.training.native.build import buildable, library_name
from autotrain_env.training.native.library import instructions_here

ROOT = Path(__file__).resolve().parents[1]

SOURCES = {".py", ".h", ".cpp"}
EPISODE = """
import sys
sys.path[:] = sys.argv[1:]
import gymnasium

env = gymnasium.make("autotrain_env:AutoTrain-v0")
import autotrain_env
assert autotrain_env.__file__.startswith(sys.argv[1]), autotrain_env.__file__

env.action_space.seed(0)
env.reset(seed=0)
terminated = truncated = False
while not (terminated or truncated):
    _, _, terminated, truncated, info = env.step(env.action_space.sample())
assert terminated and not truncated
assert 0 <= info["test_accuracy"] <= 1, info
env.close()
assert autotrain_env.load_policy("many").spec.action_space == env.action_space
print(env.unwrapped.backends)
"""


def check_run(*arguments: str, cwd: Path, **variables: str) -> str:
    """Run a Python command and show what it printed if it fails; returns what it printed."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(place: Path, **variables: str) -> Path:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    # Everything that is beside the package, to see that none of it slips in.
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist")
    shutil.copytree(ROOT, place / "source", ignore=ignored)
    command = ("-m", "build", "--wheel", "--no-isolation", "--outdir", "../dist")
    check_run(*command, cwd=place / "source", **variables)
    (built,) = (place / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built here."""
    return build_wheel(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The METADATA file of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.xdist_group("wheel")
@pytest.mark.slow
def test_wheel_holds_the_library_alone(wheel: Path) -> None:
    version = autotrain_env.__version__
    assert wheel.name.startswith(f"autotrain_env-{version}-py3-none-")
    info = f"autotrain_env-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"autotrain_env", info}
    assert f"{info}/licenses/LICENSE" in names
    with zipfile.ZipFile(wheel) as archive:
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    assert scripts.split() == [
        "[console_scripts]",
        "autotrain-watch",
        "=",
        "autotrain_env.viewing.watch:main",
    ]
    package = ROOT / "autotrain_env"
    sources = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.suffix in SOURCES}
    assert sources | {"autotrain_env/py.typed", "autotrain_env/viewing/watch.html"} <= names


@pytest.mark.xdist_group("wheel")
@pytest.mark.slow
def test_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "autotrain-env"
    assert metadata["Version"] == autotrain_env.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "agents",
        "clients",
        "dev",
        "distributed",
        "docs",
        "lightning",
        "transformers",
        "play",
    }

    requirements = metadata.get_all("Requires-Dist", [])
    core = [requirement for requirement in requirements if ";" not in requirement]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in core}
    assert names == {
        "cloudpickle",
        "gymnasium",
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "scikit-learn",
        "matplotlib",
        "pillow",
        "safetensors",
    }
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", requirement) for requirement in core), core


def play_from(wheel: Path, tmp_path: Path) -> str:
    """An episode far from the checkout, without a compiler; returns what it printed."""
    site = tmp_path / "site"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site))
    check_run(*install, str(wheel), cwd=elsewhere)
    # -S keeps out the .pth file of an editable installation; the other folders are handed over.
    checkout = {ROOT, ROOT / "tests"}
    path = [entry for entry in sys.path if entry and Path(entry).resolve() not in checkout]
    variables = {"AUTOTRAIN_CACHE": str(tmp_path / "cache"), "CXX": "no-compiler"}
    return check_run("-I", "-S", "-c", EPISODE, str(site), *path, cwd=elsewhere, **variables)


@pytest.mark.xdist_group("wheel")
@pytest.mark.slow
@pytest.mark.skipif(not buildable() or shutil.which("c++") is None, reason="no compiled engine here")
def test_episode_from_the_installed_wheel_by_its_compiled_engine(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert {library_name(instructions) for instructions in buildable()} <= names
    assert not wheel.name.endswith("-any.whl")
    expected = "native" if instructions_here() else "stacked"
    assert play_from(wheel, tmp_path) == f"('{expected}',)\n"


@pytest.mark.slow
def test_a_wheel_built_without_a_compiler_computes_by_torch(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, CXX="no-compiler")
    assert wheel.name == f"autotrain_env-{autotrain_env.__version__}-py3-none-any.whl"
    assert play_from(wheel, tmp_path) == "('stacked',)\n"


def test_one_version_everywhere() -> None:
    releases = re.findall(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert releases[0] == autotrain_env.__version__
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited and cited[1].strip("\"'") == autotrain_env.__version__


def test_make_targets_of_the_readme_exist() -> None:
    readme = ROOT / "README.md"
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    fences = re.split(r"^ *```.*$", readme.read_text(), flags=re.M)
    lines = "\n".join(fences[1::2]).splitlines()
    spans = re.findall(r"`([^`\n]+)`", "\n".join(fences[0::2]))
    commands = (re.match(r"\s*(?:\$ )?make ([a-z][\w-]*)", code) for code in [*lines, *spans])
    named = {command[1] for command in commands if command}
    assert {"demo", "test"} <= named <= targets
