"""What comes of leaving a line, beside what hindsight tells of it.

    python -m benchmarks.hindsight --tasks 60

Of every task, nine lanes keep to a line to 0 from a rate each; others begin on one of these lines, and take
another action once, at a time of their own: another rate, or one to three rows back. What that changes at
the end is compared with what `agents.imitating.hindsight` tells of it at that moment, by the action and the
time, in arcsin √accuracy.
"""

import argparse
import itertools
from dataclasses import replace

import numpy as np

from agents.imitating.hindsight import (
    CHANGE_COST,
    REWIND_COST,
    Played,
    advantages,
    stabilized,
    worth_of_peaks,
)
from agents.imitating.sweeps import RATES
from autotrain_env import SGD, AutoTrainVectorEnv, make_evaluation_env
from autotrain_env.errors import check_whole
from autotrain_env.process.actions import DiscreteActions

LINES, LEAVERS = 9, 27
FIRST_SEED = 1_300_000_000
FACTORS = {10.0: 0.2, 2.5: 0.4, 1.0: 0.0, 0.4: 0.3, 0.1: 0.1}
"""How many of the lanes that leave do so by each factor; of those that go back, a third keep the rate."""
BACK = 0.5  # how many go back
TIMES = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Limits of the shares of an episode that are told apart."""
LEVEL = 0.01  # what the curve differs by at least, between both lines, to count as up or down


def play(env: AutoTrainVectorEnv, seed: int) -> tuple[Played, dict[str, np.ndarray]]:
    """Play a task.

    Args:
        env: An environment of as many lanes as there are lines and leavers.
        seed: Seed of the task, and of who leaves when.

    Returns:
        The lanes, those that leave after the lines; and of each of these, shape (LEAVERS,), on which line
        it begins, after how many env steps it leaves it, by which factor, and how far it goes back.
    """
    core, generator = env.core, np.random.default_rng(seed)
    table = core.action_type
    assert isinstance(table, DiscreteActions)
    task = core.maker.make(seed, None).task
    rates = np.geomspace(*RATES[isinstance(task.optimizer, SGD)], LINES)
    back = np.where(generator.random(LEAVERS) < BACK, generator.integers(1, 4, LEAVERS), 0)
    chances = np.array([*FACTORS.values()])
    factors = generator.choice([*FACTORS], LEAVERS, p=chances)
    factors = np.where((back > 0) & (generator.random(LEAVERS) < 1 / 3), 1.0, factors)
    begin = generator.integers(0, LINES, LEAVERS)
    lanes = np.arange(LINES + LEAVERS)
    tasks = [replace(task, initial_learning_rate=float(rate)) for rate in (*rates, *rates[begin])]
    core.reset(lanes, [seed] * len(lanes), list(tasks))
    steps = int(core.lineage.steps_left()[0])
    leave = np.clip((generator.uniform(0.05, 0.97, LEAVERS) * steps).astype(int), 1, steps - 1)
    leave = np.maximum(leave, back)
    leaving = np.array([table.lr_factors.index(factor) for factor in factors])
    leaving += back * len(table.lr_factors)
    keep = np.full(len(lanes), table.lr_factors.index(1.0))
    tracks = []
    for step in range(steps):
        actions = keep.copy()
        actions[LINES:] = np.where(leave == step, leaving, actions[LINES:])
        state = core.lineage.learning_rate, core.lanes.score, actions, core.action_masks()
        tracks.append([part.copy() for part in (*state, core.lanes.running, core.lineage.rows)])
        result = core.step(core.decode(actions))
    episode = core.stacks.episode(0)
    images = len(episode.split.validation_labels), len(episode.split.test_labels)
    ends = core.lanes.score, result.final[f"test_{core.config.score}"]
    learning_rates, scores, taken, masks, running, observed = (
        np.stack(part) for part in zip(*tracks, strict=True)
    )
    played = Played(
        rates=learning_rates,
        scores=stabilized(scores),
        actions=taken,
        masks=masks,
        running=running,
        rows=observed,
        final=stabilized(np.average(ends, axis=0, weights=images)),
        initial_rates=rates,
        chance=float(stabilized(1 / episode.dataset.num_classes)),
        metrics=core.config.metrics,
    )
    return played, {"begin": begin, "leave": leave, "factor": factors, "back": back}


def tell(played: Played, leavers: dict[str, np.ndarray], table: DiscreteActions) -> np.ndarray:
    """Returns a row for every lane that left.

    Args:
        played: The lanes.
        leavers: Who left when and how, as `play` returns it.
        table: What actions there are.

    Returns:
        The share of the episode that was over, the factor, how far it went back, how much higher the curve
        is at the rate that it leads to, what was told, and what came of it, shape (LEAVERS, 6).
    """
    begin, leave, factor, back = (leavers[name] for name in ("begin", "leave", "factor", "back"))
    number = np.array([table.lr_factors.index(each) for each in factor]) + back * len(table.lr_factors)
    told = advantages(played, table)[leave, LINES + np.arange(LEAVERS), number]
    told += np.where(back == 0, CHANGE_COST * np.abs(np.log10(factor)), REWIND_COST)
    kept = played.swept[begin]
    curve = worth_of_peaks(played, np.log10(played.initial_rates[begin] * factor)) - kept
    return np.stack([leave / len(played.rates), factor, back, curve, told, played.final[LINES:] - kept], 1)


def report(rows: np.ndarray) -> None:
    """Print means by action, by time, and by whether the curve rises."""
    time, factor, back, curve, told, found = rows.T
    error = told - found
    for name, some in (("another rate", back == 0), ("rows back", back > 0)):
        root = np.sqrt(np.mean(error[some] ** 2))
        print(f"{name}: root mean square error {root:.4f}, mean {np.abs(error[some]).mean():.4f}")
    print("| rows back | factor | time | the curve | lanes | difference of the curve | told | came of it |")
    print("|---|---|---|---|---|---|---|---|")
    kinds = [(rows_back, each) for rows_back in (False, True) for each in FACTORS]
    spans = [*zip(TIMES[:-1], TIMES[1:], strict=True)]
    for (goes_back, each), (low, high) in itertools.product(kinds, spans):
        for name, way in (
            ("rises", curve > LEVEL),
            ("is level", abs(curve) <= LEVEL),
            ("falls", curve < -LEVEL),
        ):
            chosen = ((back > 0) == goes_back) & (factor == each) & (time >= low) & (time < high) & way
            if chosen.sum() >= 5:
                deviation = found[chosen].std() / np.sqrt(chosen.sum())
                print(
                    f"| {'1 to 3' if goes_back else '0'} | {each:g} | {low:.2f} to {high:.2f} | {name} "
                    f"| {chosen.sum()} | {curve[chosen].mean():+.3f} | {told[chosen].mean():+.3f} "
                    f"| {found[chosen].mean():+.3f} ± {deviation:.3f} |"
                )


def main() -> None:
    """Play tasks, and print how well hindsight tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", type=int, default=60, help="how many tasks are played")
    parser.add_argument("--env-tasks", default="training_runs", help="what they are drawn from")
    arguments = parser.parse_args()
    check_whole("tasks", arguments.tasks, 1)
    made = make_evaluation_env(
        "AutoTrainRuns-v0", LINES + LEAVERS, tasks=arguments.env_tasks, observation_layout="flat"
    )
    env = made.unwrapped
    assert isinstance(env, AutoTrainVectorEnv)
    table = env.core.action_type
    assert isinstance(table, DiscreteActions)
    played = [play(env, FIRST_SEED + task) for task in range(arguments.tasks)]
    report(np.concatenate([tell(*task, table) for task in played]))


if __name__ == "__main__":
    main()
