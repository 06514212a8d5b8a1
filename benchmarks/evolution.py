"""Speed of evolution: a generation of policies beside plain torch, which trains the same networks in turn.

Run by `python -m benchmarks.evolution`; `--help` says what it takes.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from agents.algorithms import REWARD, load_hyperparameters
from agents.backends import Serial
from agents.evolving import Evolution
from agents.runs import RunConfig, RunFolder
from benchmarks.measuring import Figure, Spread, alternate, machine, make_console, table, write_json
from benchmarks.speed import ENV_STEPS, Setup, plain_run, repeat


def generation(setup: Setup) -> list[Figure]:
    """A generation of `train es` with its shipped hyperparameters, beside plain torch."""
    plain_episodes = 4
    plain = plain_run(setup)
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            algorithm="es",
            env_id="AutoTrain-v0",
            env={"observation_layout": "flat", "reward": REWARD},
            num_envs=4,
            seed=0,
            train_steps=1,
            checkpoint_steps=1,
            evaluation_episodes=4,
            hyperparameters=load_hyperparameters("es", "AutoTrain-v0"),
        )
        run = Evolution(config, RunFolder(Path(folder)), Serial())
        progress = run.start()
        shares: list[float] = []
        networks: list[float] = []

        def one() -> None:
            nonlocal progress
            begin, before = time.perf_counter(), progress.updates
            progress, row = run.generation(progress)
            shares.append(1 - row["seconds_of_episodes"] / (time.perf_counter() - begin))
            networks.append((progress.updates - before) / (ENV_STEPS * plain.inner_steps))

        seconds = alternate(
            one, repeat(lambda: plain.episode(ENV_STEPS), plain_episodes), rounds=setup.rounds(6)
        )
    ours = seconds[0] / np.array(networks[1:])  # members that stop train less than a whole network
    theirs = seconds[1] / plain_episodes
    return [
        setup.figure(
            "a generation of 64 members as one vectorised rollout: networks/s over those of plain torch",
            Spread.of(theirs / ours),
            goal=8,
            beside=f"{np.median(ours) * 1e3:.0f} against {np.median(theirs) * 1e3:.0f} ms a network",
        ),
        setup.figure(
            "share of a generation that is not episodes",
            Spread.of(np.array(shares[1:])),
            goal=0.05,
            at_least=False,
        ),
    ]


@dataclass
class Arguments:
    """Measure a generation of evolution against plain torch."""

    quick: bool = False
    """Few rounds: to see whether it runs, not how fast."""

    output: Path = Path("runs/bench/evolution.json")
    """File for all numbers."""


def main(arguments: Arguments) -> None:
    """Measure on the CPU, where members are evaluated."""
    console = make_console()
    found = machine()
    figures = generation(Setup(torch.device("cpu"), arguments.quick))
    console.print(table("Evolution's speed: ratios, the median of all rounds, lowest and highest", figures))
    write_json(arguments.output, found | {"quick": arguments.quick}, {"generation": figures})
    console.print(f"All numbers: {arguments.output}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
