"""A log that is watched while it is written: in the terminal, and as a page."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from autotrain_env import Controller, RandomAgent
from autotrain_env.viewing.watch import LiveLog, as_text, main, make_server
from tests.helpers import tiny
from tests.helpers.loops import loaders, network, run


@pytest.fixture
def controlled(tmp_path: Path) -> Path:
    """The log of a controller with the policy that comes with the package."""
    train, holdout = loaders()
    model = network()
    log = tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run(Controller(model, optimizer, 100, holdout=holdout, decisions=10, log=log), train)
    return log


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_log_of_several_lanes_shows_the_last(tmp_path: Path, ending: str):
    path = tmp_path / f"log.{ending}"
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=3, **tiny(log_path=path, budget=40))
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.full(3, 2))
    log = LiveLog(path)
    assert log.refresh() and not log.refresh()
    assert len(log.rows) == 4 and {row["lane"] for row in log.rows} == {2}
    assert log.state()["numbers"]["updates"] == "16" and log.state()["probabilities"] == []
    assert "step 4, 16 updates" in as_text(log) and log.picture().startswith(b"<?xml")
    env.step(np.full(3, 2))
    assert log.refresh() and len(log.rows) == 5 and log.version == 2


def test_a_log_that_is_still_to_come(tmp_path: Path):
    log = LiveLog(tmp_path / "later.jsonl")
    assert not log.refresh() and "no decision yet" in as_text(log) and log.state()["rows"] == 0
    log.path.write_text("")
    assert log.refresh() and log.state()["rows"] == 0
    log.path.write_text('{"updates": 3')  # half a line
    assert log.refresh() and log.state()["rows"] == 0


def test_what_is_new_is_read_alone(controlled: Path):
    lines = controlled.read_text().splitlines(keepends=True)
    whole = LiveLog(controlled)
    whole.refresh()
    growing = LiveLog(controlled.with_name("growing.jsonl"))
    with growing.path.open("w") as file:
        for line in lines:
            file.write(line[:20])
            file.flush()
            growing.refresh()
            file.write(line[20:])
            file.flush()
            growing.refresh()
    assert growing.rows == whole.rows
    growing.path.write_text("".join(lines[:3]))  # begun anew
    assert growing.refresh() and growing.rows == whole.rows[:3]


def test_in_the_terminal(controlled: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(controlled), "--once"]) == 0
    shown = capsys.readouterr().out
    for words in ("over", "learning rate", "probabilities at the last decision", "%", "last actions"):
        assert words in shown
    assert main([str(controlled)]) == 0  # it is over, so that nothing is waited for


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], controlled: Path):
    assert main([str(tmp_path / "log.txt")]) == 1
    assert "a .jsonl or .csv file" in capsys.readouterr().err
    row = controlled.read_text().splitlines()[0]
    controlled.write_text(f"{row}\nnonsense\n")
    assert main([str(controlled), "--once"]) == 1
    assert "damaged in line 2" in capsys.readouterr().err
    controlled.write_text('{"updates": 3}\n')
    assert main([str(controlled), "--once"]) == 1
    assert "no log of decisions" in capsys.readouterr().err
    controlled.write_text(f"{row}\n")
    server = make_server(LiveLog(controlled), 0)
    assert main([str(controlled), "--web", "--port", str(server.server_address[1])]) == 1
    assert "--port=" in capsys.readouterr().err
    server.server_close()


def test_as_a_page(controlled: Path):
    server = make_server(LiveLog(controlled), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"

    def get(path: str, **headers: str) -> Any:
        request = urllib.request.Request(address + path, headers=headers)
        return urllib.request.urlopen(request, timeout=30)

    try:
        page = get("/").read().decode()
        assert "autotrain-watch" in page and "http" not in page  # nothing is loaded from elsewhere
        state = json.load(get("/state.json"))
        assert state["rows"] == 10 and state["state"] == "over"
        assert state["actions"][0][0] == 100 and 0 < state["probabilities"][0][1] <= 1
        assert get("/run.svg?version=1").read().startswith(b"<?xml")
        for path, headers, status in (("/other", {}, 404), ("/", {"Host": "elsewhere.org"}, 403)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(path, **headers)
            assert refused.value.code == status
            refused.value.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


def test_a_random_agent_has_no_probabilities(tmp_path: Path):
    train, holdout = loaders()
    model = network()
    log = tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run(
        Controller(model, optimizer, 60, policy=RandomAgent(), holdout=holdout, decisions=6, log=log), train
    )
    live = LiveLog(log)
    live.refresh()
    assert live.rows[-1]["probabilities"] is None and "probabilities" not in as_text(live)
