"""Notebooks run from top to bottom, define nothing that the package lacks, and keep their pictures."""

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> list[str]:
    """What a cell put out: each stream's name, or the richest kind of each result."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append(output.name)
        else:
            found.append("image/png" if "image/png" in output.data else "text/plain")
    return sorted(set(found))


def test_these_are_all() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "01_first_steps.ipynb",
        "02_evolution_strategies.ipynb",
        "03_evolving_a_classifier.ipynb",
        "05_optimisation.ipynb",
    ]


@pytest.mark.slow
@notebooks
def test_runs_and_puts_out_what_it_keeps(path: Path) -> None:
    kept, fresh = read(path), read(path)
    for cell in code_cells(fresh):
        cell.outputs = []
    NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    # Not the numbers: they differ a little from one processor to another.
    assert [kinds(cell) for cell in code_cells(fresh)] == [kinds(cell) for cell in code_cells(kept)]


@notebooks
def test_every_name_that_it_imports_is_there(path: Path) -> None:
    source = "\n".join(cell.source for cell in code_cells(read(path)))
    tree = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    assert any(node.module.split(".")[0] == "autotrain_env" for node in imports if node.module)
    for node in imports:
        module = importlib.import_module(str(node.module))
        assert not [name.name for name in node.names if not hasattr(module, name.name)], node.module


@notebooks
def test_was_kept_as_it_ran(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    found = [kind for cell in cells for kind in kinds(cell)]
    assert "image/png" in found
    assert "stderr" not in found
    assert not re.search(r"(/home/|/root/|/tmp/|/Users/|site-packages)", path.read_text())
    assert path.stat().st_size < 500_000


@notebooks
def test_defines_nothing_that_the_package_lacks(path: Path) -> None:
    source = "\n".join(cell.source for cell in code_cells(read(path)))
    source = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, definitions)]
    assert "autotrain_env" in source
