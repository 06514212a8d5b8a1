"""The order of the packages: who may import whom, read from the import statements."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "autotrain_env"
SOURCES = sorted(
    [*LIBRARY.rglob("*.py"), *(ROOT / "agents").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
)

# Each may import those before it.
ORDER = ("data", "training", "process", "viewing", "envs", "policies", "control", "agents")
# Beside that order: what they may import, and which rooms may import them.
ASIDE = {
    "evolution": ({"data", "training"}, ("viewing", "policies", "agents")),
    "optimization": ({"data", "training", "evolution"}, ("viewing", "agents")),
}
FOUNDATIONS = ("errors", "files", "schemas")  # for all to import; each may import those before it
PROJECT = ("autotrain_env", "agents", "tests", "benchmarks")


def module_of(path: Path) -> str:
    """Returns the dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imported(path: Path) -> Iterator[str]:
    """Yields the dotted names of what a file imports, wherever in it; of names in modules, the module's."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module_of(path).split(".")
            if path.name != "__init__.py":
                package.pop()
            base = ".".join([*package[: len(package) + 1 - node.level], *filter(None, [node.module])])
            base = base if node.level else str(node.module)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if base.split(".")[0] in PROJECT and exists(inner) else base


def room_of(module: str) -> str | None:
    """Returns the room that a module of the project stands in; of the library itself `""`."""
    parts = module.split(".")
    if parts[0] == "agents":
        return "agents"
    if parts[0] != "autotrain_env":
        return None
    return parts[1] if len(parts) > 1 else ""


def allowed(room: str) -> set[str]:
    """Returns the rooms that a room's modules may import."""
    if room in FOUNDATIONS:
        return set(FOUNDATIONS[: FOUNDATIONS.index(room)])
    if room in ASIDE:
        return {room, *FOUNDATIONS, *ASIDE[room][0]}
    rooms = {room, *FOUNDATIONS, *ORDER[: ORDER.index(room)]}
    rooms.update(aside for aside, (_, users) in ASIDE.items() if room in users)
    if room == "agents":
        rooms.add("")  # what `from autotrain_env import …` gives
    return rooms


def imports_between_rooms() -> list[tuple[str, str, str]]:
    """Returns (module, imported module, room of the imported) for all of the library and agents."""
    found = []
    for path in SOURCES:
        module = module_of(path)
        if module.split(".")[0] in ("autotrain_env", "agents") and room_of(module) != "":
            found += [
                (module, name, str(room_of(name))) for name in imported(path) if room_of(name) is not None
            ]
    return found


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= {*ORDER, *ASIDE}
    files = {path.stem for path in LIBRARY.glob("*.py")} - {"__init__"}
    assert files == set(FOUNDATIONS)


def test_imports_point_one_way() -> None:
    between = imports_between_rooms()
    assert len(between) > 200  # the imports are found at all
    wrong = {
        f"{module} imports {name}"
        for module, name, target in between
        if target not in allowed(str(room_of(module)))
    }
    assert wrong == set()


def test_the_library_knows_nothing_of_agents() -> None:
    known = [
        f"{module_of(path)} imports {name}"
        for path in LIBRARY.rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in ("agents", "tests", "benchmarks")
    ]
    assert known == []


@pytest.mark.parametrize("name", FOUNDATIONS)
def test_foundations_import_nothing_else_of_the_project(name: str) -> None:
    names = [found for found in imported(LIBRARY / f"{name}.py")]
    others = {found for found in names if found.split(".")[0] in PROJECT}
    assert names and others <= {f"autotrain_env.{before}" for before in allowed(name)}


def test_policies_take_no_environment_and_touch_no_core() -> None:
    """All but the evaluation, which plays them in one; the controls of `agents` are policies, too."""
    touching = []
    controls = ROOT / "agents" / "comparing" / "controls.py"
    for path in [*sorted((LIBRARY / "policies").glob("*.py")), controls]:
        if path.name == "evaluation.py":
            continue
        module = module_of(path)
        touching += [f"{module} imports {n}" for n in imported(path) if room_of(n) == "envs"]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "core":
                touching.append(f"{module}:{node.lineno} .core")
            if isinstance(node, ast.FunctionDef):
                arguments = node.args
                for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                    if argument.arg in ("env", "envs", "vector_env"):
                        touching.append(f"{module}:{node.lineno} {node.name}({argument.arg})")
    assert touching == []


def test_no_test_file_imports_another() -> None:
    files = [path for path in SOURCES if path.is_relative_to(ROOT / "tests")]
    importing = {
        f"{module_of(path)} imports {name}"
        for path in files
        for name in imported(path)
        if name.startswith("tests.") and name.rsplit(".", 1)[-1].startswith(("test_", "conftest"))
    }
    assert len(files) > 50
    assert importing == set()
