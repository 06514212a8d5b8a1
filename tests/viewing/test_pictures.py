"""Pictures say what the history says, fit on the page and leave no figure behind."""

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import PIL.Image
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from autotrain_env import AutoTrainEnv, AutoTrainVectorEnv
from autotrain_env.viewing.comparison import plot_comparison
from autotrain_env.viewing.logs import history_of_log, plot_log, read_log
from autotrain_env.viewing.run import animate_episode, pixels, plot_episode
from autotrain_env.viewing.text import SPARKLINE_WIDTH, render_ansi, sparkline
from tests.helpers.pictures import REINIT, RUNS, SMALL, STOP, overlapping


def history(actions: list[int], **kwargs: Any) -> dict[str, Any]:
    env = AutoTrainEnv(**SMALL | kwargs)
    env.reset(seed=1)
    for action in actions:
        if env.step(np.int64(action))[2]:
            break
    return env.core.history.of(0)


@functools.cache
def played(name: str) -> dict[str, Any]:
    """The history of one of these runs."""
    actions, kwargs = RUNS[name]
    return history(actions, **kwargs)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("error")
def test_every_run_can_be_drawn_without_overlap(name: str) -> None:
    assert overlapping(plot_episode(played(name))) == []


def test_overlap_is_found() -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "two")
    figure.text(0.99, 0.1, "three")
    assert overlapping(figure) == [("one", "two"), ("three", "the edge")]


def test_episode_shows_the_numbers_of_the_history() -> None:
    run = played("everything")
    figure = plot_episode(run)
    actions, loss, score, rate = figure.axes

    (losses,) = loss.lines
    trained = ~run["stop"]
    expected = np.append(run["loss"][0, -1], run["loss"][trained][1:].ravel())
    np.testing.assert_allclose(losses.get_ydata(), expected)
    # Windows of two updates each, the state at reset first.
    np.testing.assert_allclose(losses.get_xdata(), np.arange(0, run["updates"][-1] + 1, 2))

    shown = {line.get_label(): line for line in score.lines}
    for label, column in (
        ("train", "train_score"),
        ("holdout (guarded)", "holdout_answer"),
        ("validation", "score"),
    ):
        np.testing.assert_allclose(shown[label].get_ydata(), run[column][trained])
        np.testing.assert_allclose(shown[label].get_xdata(), run["updates"][trained])

    values, edges, _ = rate.patches[0].get_data()  # type: ignore[attr-defined]
    np.testing.assert_allclose(values, run["learning_rate"][trained][1:])
    np.testing.assert_allclose(edges, run["updates"][trained])
    assert loss.get_yscale() == rate.get_yscale() == "log"

    (rewinds,) = actions.lines
    # Each stands where the decision was taken.
    np.testing.assert_allclose(rewinds.get_xdata(), run["updates"][:-1][run["rewind"][1:] > 0])
    np.testing.assert_array_equal(rewinds.get_ydata(), run["rewind"][run["rewind"] > 0])
    legend = [text.get_text() for text in actions.get_legend().get_texts()]  # type: ignore[union-attr]
    assert legend == ["rewind ×2", "re-init", "stop"]


def test_marks_stand_in_every_panel_where_the_decision_was_taken() -> None:
    run = played("everything")
    before = run["updates"][:-1]
    for axes in plot_episode(run).axes:
        rewinds, reinits, stop = axes.collections[-3:]
        for marks, happened in ((rewinds, "rewind"), (reinits, "reinit"), (stop, "stop")):
            at = [segment[0, 0] for segment in marks.get_segments()]  # type: ignore[attr-defined]
            assert at == before[run[happened][1:] > 0].tolist()


def test_divergence_is_shaded() -> None:
    run = played("divergence")
    assert run["diverged"].any()
    picture, plain = pixels(plot_episode(run)), pixels(plot_episode(played("everything")))
    shade = 0.8 * np.array([255, 255, 255]) + 0.2 * np.array([0xD5, 0x5E, 0x00])
    shaded = (abs(picture.astype(int) - shade) <= 2).all(-1).mean()
    assert shaded > 0.1
    assert (abs(plain.astype(int) - shade) <= 2).all(-1).mean() < 1e-3


def test_score_label_and_log_loss() -> None:
    figure = plot_episode(played("one step"), score_label="holdout, unguarded")
    assert figure.axes[2].lines[-1].get_label() == "holdout, unguarded"
    figure = plot_episode(played("log loss"))
    assert figure.axes[-1].get_ylabel() == "validation:\nminus log loss [nats]"
    np.testing.assert_allclose(figure.axes[-1].lines[0].get_ydata(), played("log loss")["score"][:-1])


def test_draws_into_a_given_figure() -> None:
    figure = Figure()
    assert plot_episode(played("one step"), figure) is figure
    whole = Figure(figsize=(14, 6), layout="constrained")
    left, right = whole.subfigures(1, 2)
    assert plot_episode(played("everything"), left) is whole
    plot_episode(played("many rewinds"), right)
    assert len(left.axes) == len(right.axes) == 4
    assert overlapping(whole) == []


def test_environments_render() -> None:
    env = AutoTrainEnv(render_mode="ansi", **SMALL)
    env.reset(seed=0)
    env.step(np.int64(2))
    assert env.render() == render_ansi(env.core.history.of(0))
    vector_env = AutoTrainVectorEnv(2, render_mode="rgb_array", **SMALL)
    vector_env.reset(seed=0)
    pictures = vector_env.render()
    assert pictures is not None
    assert [picture.shape for picture in pictures] == [(640, 720, 3)] * 2


# --- text ---


def test_text() -> None:
    run = played("everything")
    lines = render_ansi(run).splitlines()
    assert lines[0] == "step 10, 36 updates: stop"
    assert lines[1].startswith(f"learning rate {run['learning_rate'][-1]:.3g}   loss ")
    assert lines[1].endswith("rewinds 2   re-inits 1")
    assert lines[2] == (
        f"train {run['train_score'][-1]:.3f}   holdout {run['holdout_answer'][-1]:.3f}   "
        f"score {run['score'][-1]:.3f}"
    )
    assert [line.split()[0] for line in lines[3:]] == ["loss", "score"]
    assert len(lines[4].split()[1]) == len(run["score"])


def test_text_of_every_run() -> None:
    for run in map(played, RUNS):
        text = render_ansi(run)
        assert len(text.splitlines()) == 5
        assert max(map(len, text.splitlines())) <= 80
        assert "nan" not in text
    run = played("divergence")
    until = run["diverged"].argmax() + 1
    assert "DIVERGED" not in render_ansi({name: column[: until - 1] for name, column in run.items()})
    assert "DIVERGED" in render_ansi({name: column[:until] for name, column in run.items()})


def test_sparkline() -> None:
    assert sparkline(np.arange(8.0)) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.array([0.3, 0.3])) == "▁▁"
    assert len(sparkline(np.arange(1000.0))) == SPARKLINE_WIDTH


# --- comparisons ---


def row(method: str, group: str, mean: float) -> dict[str, Any]:
    return {"method": method, "group": group, "mean": mean, "low": mean - 0.03, "high": mean + 0.01}


ROWS = [
    row("PPO", "agent", 0.89),
    row("constant", "random initial rates", 0.6),
    row("cosine", "random initial rates", 0.7),
    row("cosine, rate 0.316", "best of grid", 0.88),
]


def test_comparison_is_grouped_and_sorted() -> None:
    axes = plot_comparison(ROWS).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "PPO",
        "cosine",
        "constant",
        "cosine, rate 0.316",
    ]
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([89, 70, 60, 88])  # type: ignore[index]
    # Down the page: a heading, then the group's rows.
    assert [line.get_ydata()[0] for line in axes.lines] == [1, 3, 4, 6]  # type: ignore[index]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    intervals = [marks.get_segments()[0][:, 0] for marks in axes.collections]  # type: ignore[attr-defined]
    np.testing.assert_allclose(intervals[0], [86, 90])
    assert [text.get_text() for text in axes.texts if text.get_text()[0].isdigit()] == [
        "89.0",
        "70.0",
        "60.0",
        "88.0",
    ]


@pytest.mark.parametrize("count", [1, 4, 100])
@pytest.mark.filterwarnings("error")
def test_comparison_of_any_size_has_no_overlap(count: int) -> None:
    generator = np.random.default_rng(0)
    groups = ["agent", "random initial rates", "best of grid", "one more", "and more"]
    rows = [row(f"method {i}", groups[i % 5], generator.uniform(0.1, 0.99)) for i in range(count)]
    figure = plot_comparison(rows)
    assert overlapping(figure) == []


def test_comparison_of_equal_and_perfect_methods() -> None:
    same = {"group": "agent", "mean": 1.0, "low": 1.0, "high": 1.0}
    figure = plot_comparison([{"method": "a", **same}, {"method": "b", **same}])
    assert overlapping(figure) == []


def test_comparison_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        plot_comparison([])
    with pytest.raises(ValueError, match="an entry 'low'"):
        plot_comparison([{"method": "a", "group": "agent", "mean": 0.5}])


# --- logs ---


def write_log(path: Path, **kwargs: Any) -> dict[int, dict[str, Any]]:
    """Log two lanes, and return their histories by episode seed."""
    env = AutoTrainVectorEnv(2, autoreset_mode="Disabled", log_path=path, **SMALL | kwargs)
    env.reset(seed=3)
    for actions in ([2, 2], [3, 7], [7, REINIT], [2, STOP], [2, 2]):
        env.step(np.array(actions))
    env.close()
    episodes = [env.core.stacks.episode(lane).seed for lane in range(2)]
    return {seed: env.core.history.of(lane) for lane, seed in enumerate(episodes)}


@pytest.mark.parametrize(("ending", "table"), [("jsonl", False), ("csv", False), ("csv", True)])
def test_log_draws_the_episode(ending: str, table: bool, tmp_path: Path) -> None:
    path = tmp_path / f"log.{ending}"
    expected = write_log(path)
    log: Any = path
    if table:
        log = pandas.read_csv(path) if ending == "csv" else pandas.read_json(path, lines=True)
    for seed, run in expected.items():
        found = history_of_log(log, seed)
        for name, column in found.items():
            if name == "loss":
                np.testing.assert_allclose(column[1:, 0], run["loss"][1:, -1])
            elif column.dtype == float:
                assert np.isnan(column[0])
                np.testing.assert_allclose(column[1:], run[name][1:])
            else:
                np.testing.assert_array_equal(column, run[name])
        figure = plot_log(log, seed)
        assert overlapping(figure) == []
        drawn = [[text.get_text() for text in f.findobj(Text)] for f in (figure, plot_episode(run))]
        legends = [{t for t in texts if "re-init" in t or "rewind" in t or "stop" in t} for texts in drawn]
        assert legends[0] == legends[1]


def test_a_log_of_an_earlier_version_is_drawn(tmp_path: Path) -> None:
    """It called the holdout's answers otherwise, and had no factors."""
    path = tmp_path / "log.csv"
    (seed, run), *_ = write_log(path).items()
    log = pandas.read_csv(path).drop(columns="lr_factor")
    log = log.rename(columns={"holdout_answer": "holdout_score"})
    found = history_of_log(log, seed)
    np.testing.assert_allclose(found["holdout_answer"][1:], run["holdout_answer"][1:])
    assert np.isnan(found["lr_factor"]).all()
    plot_log(log, seed)


def test_log_of_log_loss_scores(tmp_path: Path) -> None:
    (seed, _) = write_log(tmp_path / "log.csv", score="neg_log_loss")
    assert len(plot_log(tmp_path / "log.csv", seed).axes) == 5


def test_of_several_runs_of_an_episode_the_last_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for actions in ([2, 2, 2, STOP], [3, STOP]):
        env = AutoTrainEnv(log_path=path, **SMALL)
        env.reset(seed=0)
        for action in actions:
            env.step(np.int64(action))
        env.close()
    assert history_of_log(path)["action"].tolist() == ["reset", "lr x1.2", "stop"]


def test_read_log_takes_a_last_line_without_an_end_if_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    assert [row["step"] for row in read_log(path)] == [1, 2]
    path.write_text('{"step": 1}\n{"ste')
    assert [row["step"] for row in read_log(path)] == [1]
    path.write_text('{"ste\n{"step": 2}\n')
    with pytest.raises(ValueError, match="log.jsonl, line 1, is damaged"):
        read_log(path)


def test_read_log_has_the_types_of_both_formats(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl"):
        write_log(tmp_path / f"log.{ending}")
    first, second = (read_log(tmp_path / f"log.{ending}") for ending in ("csv", "jsonl"))
    assert first == second


def test_bad_logs(tmp_path: Path) -> None:
    seeds = list(write_log(tmp_path / "log.csv"))
    with pytest.raises(
        ValueError, match=f"episode_seed=None is not allowed: it must be one of .*{seeds[0]}"
    ):
        plot_log(tmp_path / "log.csv")
    with pytest.raises(ValueError, match="episode_seed=1 .* one of"):
        plot_log(tmp_path / "log.csv", 1)
    with pytest.raises(ValueError, match=r"log='.*log.txt' .* a .jsonl or .csv file"):
        plot_log(tmp_path / "log.txt")
    with pytest.raises(FileNotFoundError):
        plot_log(tmp_path / "missing.csv")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="at least one row"):
        plot_log(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("name", ["reset", "everything", "divergence", "log loss"])
def test_an_animation_has_a_frame_for_each_decision_and_ends_with_the_whole_run(name: str):
    history = played(name)
    animation = PIL.Image.open(io.BytesIO(animate_episode(history)))
    assert getattr(animation, "n_frames", 1) == len(history["updates"])
    assert animation.size == (720, 640)
    first = np.asarray(animation.convert("L"))
    animation.seek(len(history["updates"]) - 1)
    last = np.asarray(animation.convert("L"))
    ink = [(frame < 200).sum() for frame in (first, last)]
    assert ink[1] > 1.1 * ink[0] or name == "reset"
