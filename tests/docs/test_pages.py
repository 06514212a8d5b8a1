"""The pages: their Python runs, they build without a warning, and they need nothing from elsewhere."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

import autotrain_env
from agents.__main__ import Command
from autotrain_env import optimization

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)

NEEDS_OTHERS = ("trainers.md",)  # software of the extra `clients`
WITH_PYTHON = [page for page in PAGES if BLOCK.search((DOCS / page).read_text())]


def blocks(page: str) -> list[str]:
    """Returns the code of each block of a page."""
    return BLOCK.findall((DOCS / page).read_text())


def test_the_pages_with_python_are_found():
    assert len(WITH_PYTHON) >= 7


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.clients) if p in NEEDS_OTHERS else p for p in WITH_PYTHON],
)
def test_its_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for code in blocks(page):
        exec(compile(code, f"a block of {page}", "exec"), names)


def test_every_public_name_is_in_the_reference():
    pages = "".join((DOCS / page).read_text() for page in ("api.md", "environment.md"))
    shown = set(re.findall(r"^::: autotrain_env\.(?:\w+\.)*(\w+)$", pages, re.M))
    assert set(autotrain_env.__all__) - {"AutoTrainEnv"} <= shown
    assert set(optimization.__all__) - {"BACKWARD_PASSES"} <= shown


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_site_says_what_the_package_says(site: Path):
    environment = (site / "environment.html").read_text()
    for words in ("AutoTrainPrototype-v0", "reward_split", "generalization_gap", "Order within a step"):
        assert words in environment
    assert "thresholdout_sigma" in environment  # an argument of the configuration
    assert "autotrain_env/process/rewards.py" in (site / "contributing.html").read_text()
    assert (site / "results" / "tables" / "default_task.html").exists()
    assert "<!--" not in re.sub(
        r"<head>.*?</head>", "", (site / "environment.html").read_text(), flags=re.S
    )


@pytest.mark.slow
def test_notebooks_are_pages_with_their_pictures(site: Path):
    names = (
        *("01_first_steps", "02_evolution_strategies", "03_evolving_a_classifier"),
        *("04_descent_with_mutations", "05_optimisation"),
    )
    for name in names:
        page = (site / "notebooks" / f"{name}.html").read_text()
        pictures = re.findall(r'<img [^>]*src="([^":]+)"', page)
        assert len(pictures) >= 3
        assert all((site / "notebooks" / picture).stat().st_size > 1000 for picture in pictures)


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path):
    loading = re.compile(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="?(https?:[^" >]+)')
    found = {url for path in site.rglob("*.html") for url in loading.findall(path.read_text())}
    assert not found


# What is written about the code ----------------------------------------------------------------------

WRITTEN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *sorted(path for folder in ("autotrain_env", "agents") for path in (ROOT / folder).rglob("*.py")),
]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dotted_names_resolve(path: Path):
    names = set(re.findall(r"`((?:autotrain_env|agents)(?:\.\w+)+)`?", path.read_text()))
    names = {name for name in names if not name.endswith((".yml", ".md", ".py", ".json"))}
    assert [name for name in sorted(names) if not resolves(name)] == []


def commands(path: Path) -> list[str]:
    """Returns the commands of `python -m agents` that a page shows."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.M | re.S)
    plain = "\n".join(text for language, text in fences if not language)
    lines = plain.replace("\\\n", " ").splitlines()
    found = (re.search(r"python -m agents ([^;]*)", line) for line in lines)
    return [command[1] for command in found if command]


SHOWING = [path for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))] if commands(path)]


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_are_understood(path: Path):
    """They are parsed, not carried out; in a loop of the shell, for one of its values."""
    for command in commands(path):
        command = re.sub(r"\$\w+", "0", command.replace("train $a", "train ppo"))
        parsed: Any = tyro.cli(Command, args=shlex.split(command, comments=True))
        assert callable(parsed.run)
