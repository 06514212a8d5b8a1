"""The README's programs run as they stand, and its links lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_it_is_short():
    assert 100 <= len(TEXT.splitlines()) <= 140


def test_its_program_has_six_lines_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    (program,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    assert len(program.splitlines()) == 6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(program)
    runpy.run_path("program.py")
    assert re.fullmatch(r"test accuracy 0\.[89]\d+\n", capsys.readouterr().out)


def test_its_links_lead_to_files_of_the_repository():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 10
    assert not [link for link in links if not (ROOT / link).exists()]
