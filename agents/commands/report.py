"""`python -m agents report`: a page, figures and tables from records and runs."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from agents.comparing.records import load_records
from agents.reporting.report import write_report
from agents.runs.folder import RunFolder
from autotrain_env.errors import check


@dataclass
class Report:
    """Write a page (HTML), figures (PNG), numbers (CSV) and tables (Markdown) from records and runs."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = (Path("agents/results/default_task"),)
    """Folders of records, as compare writes them, or parts of them (FOLDER/TARGET, FOLDER/TARGET/NAME, with
    wildcards), and run folders, whose training is shown."""

    first: str | None = None
    """Method whose lead over the others is reported; by default the agent with the most training seeds."""

    output: Path = Path("runs/report")
    """Folder for index.html, the figures, numbers.csv and tables.md."""

    def run(self, console: Console) -> None:
        """Write the report."""
        runs = [RunFolder(path) for path in self.paths if RunFolder(path).exists]
        others = [path for path in self.paths if not RunFolder(path).exists]
        check(len(self.paths) > 0, "paths", self.paths, "records, or run folders")
        records = load_records(others) if others else []
        page = write_report(records, self.output, self.first, runs)
        console.print(
            f"Written to {page}, with the figures, numbers.csv and tables.md beside it", soft_wrap=True
        )
