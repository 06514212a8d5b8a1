"""The pages: their Python runs, they build without a warning, and they need nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import autotrain_env

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)

WITH_PYTHON = [page for page in PAGES if BLOCK.search((DOCS / page).read_text())]


def blocks(page: str) -> list[str]:
    """Returns the code of each block of a page."""
    return BLOCK.findall((DOCS / page).read_text())


def test_the_pages_with_python_are_found():
    assert len(WITH_PYTHON) >= 7


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_its_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for code in blocks(page):
        exec(compile(code, f"a block of {page}", "exec"), names)


def test_every_public_name_is_in_the_reference():
    pages = "".join((DOCS / page).read_text() for page in ("api.md", "environment.md"))
    shown = set(re.findall(r"^::: autotrain_env\.(?:\w+\.)*(\w+)$", pages, re.M))
    assert set(autotrain_env.__all__) - {"AutoTrainEnv"} <= shown


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
    for name in ("01_first_steps", "02_evolution_strategies"):
        page = (site / "notebooks" / f"{name}.html").read_text()
        pictures = re.findall(r'<img [^>]*src="([^":]+)"', page)
        assert len(pictures) >= 3
        assert all((site / "notebooks" / picture).stat().st_size > 1000 for picture in pictures)


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path):
    loading = re.compile(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="?(https?:[^" >]+)')
    found = {url for path in site.rglob("*.html") for url in loading.findall(path.read_text())}
    assert not found
