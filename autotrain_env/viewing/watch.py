"""A run while it goes on: in the terminal, or as a page in a browser. `autotrain-watch LOG` begins it.

The log may come from an environment (`log_path=`), from a training in a run folder (`decisions.jsonl`), or
from a controller (`log=`). Of several runs in it, the one that wrote the last line is shown.
"""

import argparse
import importlib.resources
import json
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from autotrain_env.errors import InvalidValueError, UserError, check
from autotrain_env.viewing.logs import history_of_rows, last_run, read_log
from autotrain_env.viewing.run import plot_episode
from autotrain_env.viewing.style import as_image
from autotrain_env.viewing.text import render_ansi

BAR_WIDTH = 30  # [characters]
LAST_ACTIONS = 12
PORT = 8731
_NEEDED = {"episode_seed", "lane", "step", "updates", "action", "learning_rate"}
_CLEAR = "\x1b[2J\x1b[H"


class LiveLog:
    """A log that may still be written.

    Args:
        path: A `.jsonl` or `.csv` file; it may appear later.

    Raises:
        InvalidValueError: If the ending is another.
    """

    def __init__(self, path: Path) -> None:
        check(path.suffix in (".jsonl", ".csv"), "log", str(path), "a .jsonl or .csv file")
        self.path = path
        self.version = 0
        self.rows: list[dict[str, Any]] = []
        self._seen: tuple[int, int] | None = None
        self._all: list[dict[str, Any]] = []
        self._read = 0  # bytes of whole lines that were read
        self._lock = threading.Lock()

    def refresh(self) -> bool:
        """Read what is new; returns whether there was anything."""
        with self._lock:
            try:
                status = self.path.stat()
            except FileNotFoundError:
                return False
            seen = (status.st_size, status.st_mtime_ns)
            if seen == self._seen:
                return False
            rows = self._new_rows(status.st_size)
            self.rows = [dict(row) for row in last_run(of_last_lane(rows))] if rows else []
            self._seen, self.version = seen, self.version + 1
            return True

    def _new_rows(self, size: int) -> list[dict[str, Any]]:
        """Returns all rows; of a long file with a row in each line what is new is read alone."""
        if self.path.suffix == ".csv":
            return read_log(self.path)
        if size < self._read:  # it was begun anew
            self._all, self._read = [], 0
        with self.path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except ValueError as error:
                number = len(self._all) + 1
                raise InvalidValueError(f"{self.path} is damaged in line {number}: {error}") from error
            if not (isinstance(row, dict) and row.keys() >= _NEEDED):
                raise InvalidValueError(
                    f"{self.path} is no log of decisions: a line must hold {', '.join(sorted(_NEEDED))}"
                )
            self._all.append(row)
            self._read += len(line)
        return self._all

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Returns the columns of the run, as `plot_episode` takes them; there must be a row."""
        return history_of_rows(self.rows)

    def state(self) -> dict[str, Any]:
        """Returns what a page shows beside the picture: plain values, strings and lists."""
        rows = self.rows
        if not rows:
            return {"version": self.version, "log": str(self.path), "rows": 0}
        last = rows[-1]
        numbers = {
            "updates": last["updates"],
            "decisions": last["step"],
            "loss": last.get("loss"),
            "train score": last.get("train_score"),
            "guarded holdout": last.get("holdout_answer", last.get("holdout_score")),
            "validation score": last.get("score"),
            "learning rate": last["learning_rate"],
            "questions to the holdout": last.get("holdout_queries"),
        }
        return {
            "version": self.version,
            "log": str(self.path),
            "rows": len(rows),
            "state": state_in_words(last),
            "numbers": {name: in_words(value) for name, value in numbers.items() if value is not None},
            "actions": [[row["updates"], row["action"]] for row in rows[-LAST_ACTIONS:]][::-1],
            "probabilities": likeliest(last.get("probabilities")),
        }

    def picture(self) -> bytes:
        """Returns the picture of the run so far, as the content of an SVG file."""
        with self._lock:
            return as_image(plot_episode(self.history), "svg")


def of_last_lane(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of the episode and lane that wrote the last one."""
    last = rows[-1]
    return [row for row in rows if all(row[name] == last[name] for name in ("episode_seed", "lane"))]


def state_in_words(row: dict[str, Any]) -> str:
    """Returns how a run is at a row of its log."""
    if row.get("stop"):
        return "stopped"
    if row.get("terminated") or row.get("truncated"):
        return "over"
    return "diverged" if row.get("diverged") else "going on"


def in_words(value: Any) -> str:
    """Returns a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def likeliest(probabilities: Any, most: int = 8) -> list[tuple[str, float]]:
    """Returns the likeliest actions and their probabilities, the likeliest first; none for nothing."""
    if not isinstance(probabilities, dict):
        return []
    return sorted(probabilities.items(), key=lambda pair: -pair[1])[:most]


def as_text(log: LiveLog) -> str:
    """Returns a run as lines of text."""
    if not log.rows:
        return f"{log.path}: no decision yet"
    lines = [f"{log.path}: {state_in_words(log.rows[-1])}", render_ansi(log.history)]
    probabilities = likeliest(log.rows[-1].get("probabilities"))
    if probabilities:
        lines.append("probabilities at the last decision")
        for words, probability in probabilities:
            bar = "█" * round(probability * BAR_WIDTH)
            lines.append(f"  {words:<24} {probability:6.1%} {bar}")
    lines.append("last actions")
    lines += [f"  {row['updates']:>8} {row['action']}" for row in log.rows[-LAST_ACTIONS:]]
    return "\n".join(lines)


# --- the page ---


class _Handler(BaseHTTPRequestHandler):
    log: LiveLog

    def do_GET(self) -> None:  # noqa: N802
        """Answer with the page, what it shows, or the picture."""
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost", "[::1]"):  # another site that takes our name
            return self._answer(403, "text/plain", b"only from this computer")
        path = self.path.partition("?")[0]
        if path == "/":
            page = importlib.resources.files("autotrain_env.viewing") / "watch.html"
            return self._answer(200, "text/html; charset=utf-8", page.read_bytes())
        self.log.refresh()
        if path == "/state.json":
            return self._answer(200, "application/json", json.dumps(self.log.state()).encode())
        if path == "/run.svg" and self.log.rows:
            return self._answer(200, "image/svg+xml", self.log.picture())
        return self._answer(404, "text/plain", b"not here")

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests."""


def make_server(log: LiveLog, port: int) -> ThreadingHTTPServer:
    """Returns a server of the page on this computer alone.

    Args:
        log: The log to show.
        port: Number of the port; 0 for any that is free.

    Raises:
        InvalidValueError: If the port cannot be used.
    """
    handler = type("Handler", (_Handler,), {"log": log})
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        check(False, "--port", port, f"one that is free ({error}); 0 takes any")
        raise


# --- the command ---


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch a log; the command `autotrain-watch`.

    Args:
        arguments: What stands on the command line; `None` for the process's own.

    Returns:
        The exit status: 1 for a mistake of the user's, which is printed.
    """
    parser = argparse.ArgumentParser(prog="autotrain-watch", description="Show a run while it goes on.")
    parser.add_argument(
        "log", type=Path, help="a .jsonl or .csv log of an environment, a training or a controller"
    )
    parser.add_argument("--web", action="store_true", help="as a page in a browser, on this computer")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the page; {PORT} by default, 0 for any")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="show it as it is, and end")
    given = parser.parse_args(arguments)
    try:
        log = LiveLog(given.log)
        if given.web:
            _serve(make_server(log, given.port))
        else:
            _follow(log, given.interval, given.once)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _serve(server: ThreadingHTTPServer) -> None:
    print(f"http://127.0.0.1:{server.server_address[1]}  (ends with Ctrl+C)", flush=True)
    with server:
        server.serve_forever()


def _follow(log: LiveLog, interval: float, once: bool) -> None:
    clear = "" if once or not sys.stdout.isatty() else _CLEAR
    log.refresh()
    print(clear + as_text(log), flush=True)
    while not once and not (log.rows and state_in_words(log.rows[-1]) in ("over", "stopped")):
        time.sleep(interval)
        if log.refresh():
            print(clear + as_text(log), flush=True)
