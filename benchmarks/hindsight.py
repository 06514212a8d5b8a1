"""What comes of leaving a line, beside what hindsight tells of it.

    python -m benchmarks.hindsight --tasks 60

Of every task, nine lanes keep to a line to 0 from a rate each; others begin on one of these lines, and go
to another once, at a time of their own. What that changes at the end is compared with what
`agents.imitating.hindsight` tells of it at that moment, by the factor and the time, in arcsin √accuracy.
"""

import argparse
from dataclasses import replace

import numpy as np

from agents.imitating.hindsight import CHANGE_COST, Played, advantages, stabilized, worth_of_peaks
from agents.imitating.sweeps import RATES
from autotrain_env import SGD, AutoTrainVectorEnv, make_evaluation_env
from autotrain_env.process.actions import DiscreteActions

LINES, LEAVERS = 9, 27
SHARES = {10.0: 0.2, 2.5: 0.45, 1.25: 0.05, 0.4: 0.2, 0.1: 0.1}
"""How many of the lanes that leave do so by each factor."""
TIMES = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Limits of the shares of an episode that are told apart."""
LEVEL = 0.01  # what the curve differs by at least, between both lines, to count as up or down


def play(env: AutoTrainVectorEnv, seed: int) -> np.ndarray:
    """Play a task, and return a row for every lane that left.

    Args:
        env: An environment of as many lanes as there are lines and leavers.
        seed: Seed of the task, and of who leaves when.

    Returns:
        The share of the episode that was over, the factor, how much higher the curve is at the rate that it
        leads to, what was told, and what came of it, shape (LEAVERS, 5).
    """
    core, generator = env.core, np.random.default_rng(seed)
    table = core.action_type
    assert isinstance(table, DiscreteActions)
    task = core.maker.make(seed, None).task
    rates = np.geomspace(*RATES[isinstance(task.optimizer, SGD)], LINES)
    begin = generator.integers(0, LINES - 1, LEAVERS)
    factors = generator.choice([*SHARES], LEAVERS, p=[*SHARES.values()])
    lanes = np.arange(LINES + LEAVERS)
    tasks = [replace(task, initial_learning_rate=float(rate)) for rate in (*rates, *rates[begin])]
    core.reset(lanes, [seed] * len(lanes), list(tasks))
    steps = int(core.lineage.steps_left()[0])
    leave = np.clip((generator.uniform(0.05, 0.97, LEAVERS) * steps).astype(int), 1, steps - 1)
    leaving = np.array([table.lr_factors.index(factor) for factor in factors])
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
    told = advantages(played, table)[leave, lanes[LINES:], leaving]
    told += CHANGE_COST * np.abs(np.log10(factors))
    kept = played.swept[begin]
    curve = worth_of_peaks(played, np.log10(rates[begin] * factors)) - kept
    return np.stack([leave / steps, factors, curve, told, played.final[LINES:] - kept], 1)


def report(rows: np.ndarray) -> None:
    """Print means by factor, by time, and by whether the curve rises."""
    time, factor, curve, told, found = rows.T
    error = told - found
    print(f"root mean square error {np.sqrt(np.mean(error**2)):.4f}, mean {np.abs(error).mean():.4f}")
    print("| factor | time | the curve | lanes | difference of the curve | told | came of it |")
    print("|---|---|---|---|---|---|---|")
    for each in SHARES:
        for low, high in zip(TIMES, TIMES[1:], strict=False):
            for name, way in (("rises", curve > LEVEL), ("falls", curve < -LEVEL)):
                chosen = (factor == each) & (time >= low) & (time < high) & way
                if chosen.sum() < 5:
                    continue
                deviation = found[chosen].std() / np.sqrt(chosen.sum())
                print(
                    f"| {each:g} | {low:.2f} to {high:.2f} | {name} | {chosen.sum()} "
                    f"| {curve[chosen].mean():+.3f} | {told[chosen].mean():+.3f} "
                    f"| {found[chosen].mean():+.3f} ± {deviation:.3f} |"
                )


def main() -> None:
    """Play tasks, and print how well hindsight tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", type=int, default=60, help="how many tasks are played")
    parser.add_argument("--env-tasks", default="training_runs", help="what they are drawn from")
    arguments = parser.parse_args()
    made = make_evaluation_env(
        "AutoTrainRuns-v0", LINES + LEAVERS, tasks=arguments.env_tasks, observation_layout="flat"
    )
    env = made.unwrapped
    assert isinstance(env, AutoTrainVectorEnv)
    report(np.concatenate([play(env, 1_300_000_000 + task) for task in range(arguments.tasks)]))


if __name__ == "__main__":
    main()
