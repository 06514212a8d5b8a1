"""What pages take from the package, from notebooks and from records while the site is built."""

import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from autotrain_env import ENVIRONMENTS, AutoTrainEnv
from autotrain_env.process.observations import METRIC_SETS

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "results" / "table.md"
EXERCISE = ROOT / "examples" / "results" / "beat_the_benchmark.md"
TABLES = sorted((ROOT / "agents" / "results").glob("*/tables.md"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, or are made."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for file in notebook_files(path, config):
            files.append(file)
    for path in (ROOT / "notebooks").glob("*.gif"):
        files.append(File.generated(config, f"notebooks/{path.name}", content=path.read_bytes()))
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    files.append(File.generated(config, "contributing.md", content=contributing))
    for table in TABLES:
        name = table.parent.name
        text = f"# {name}\n\nAll columns, of `agents/results/{name}`.\n\n{table.read_text()}"
        file = File.generated(config, f"results/tables/{name}.md", content=text)
        files.append(file)
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace a comment that names one of the parts below by that part."""
    for name, make in PARTS.items():
        mark = f"<!-- {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def notebook_files(path: Path, config: MkDocsConfig) -> list[File]:
    """Returns a notebook as a page, and its pictures."""
    notebook = nbformat.read(path, as_version=4)
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, {"output_files_dir": f"{path.stem}_pictures"}
    )
    text = re.sub(r"^!\[png\]\(", "![What the cell above draws](", text, flags=re.M)
    contents = {f"{path.stem}.md": text, **resources["outputs"]}
    return [
        File.generated(config, f"notebooks/{name}", content=content) for name, content in contents.items()
    ]


def specification() -> str:
    """Returns the class docstring of the environment, from its description up to its arguments."""
    text = inspect.cleandoc(AutoTrainEnv.__doc__ or "")
    text = text[text.index("## Description\n") : text.index("\nArgs:\n")]
    return re.sub(r"arXiv:([\d.]*\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def environments() -> str:
    """Returns a table of the registered environments."""
    rows = ["| id | arguments that differ | actions |", "|---|---|---|"]
    for name, kwargs in ENVIRONMENTS.items():
        env = gymnasium.make(name)
        differing = ", ".join(f"`{key}={value!r}`" for key, value in kwargs.items())
        rows.append(f"| `{name}` | {differing or 'none'} | `{env.action_space}` |")
        env.close()
    return "\n".join(rows)


def metrics() -> str:
    """Returns a table of the metrics of an observation, and of the sets in which each of them is."""
    rows = ["| index | name | bounds | `metrics=` |", "|---|---|---|---|"]
    largest = max(METRIC_SETS.values(), key=len)
    for index, (name, (low, high)) in enumerate(largest.items()):
        sets = ", ".join(f'`"{title}"`' for title, metrics in METRIC_SETS.items() if name in metrics)
        rows.append(f"| {index} | `{name}` | [{low:g}, {high:g}] | {sets} |")
    return "\n".join(rows)


def tables() -> str:
    """Returns a list of all tables."""
    return "\n".join(f"- [{path.parent.name}](tables/{path.parent.name}.md)" for path in TABLES)


def examples() -> str:
    """Returns the table of the jobs that the controller was tried on."""
    return EXAMPLES.read_text()


def exercise() -> str:
    """Returns the table of the last exercise of a course on optimisation."""
    return EXERCISE.read_text()


PARTS = {
    "examples": examples,
    "exercise": exercise,
    "environments": environments,
    "metrics": metrics,
    "specification": specification,
    "tables": tables,
}
