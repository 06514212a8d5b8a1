"""What is to be compared: the kinds of methods, and the plan of a comparison."""

from dataclasses import dataclass, field
from typing import Any

from agents.comparing.schedule_tuning import VARIANTS
from agents.comparing.targets import DEVELOPMENT, SEEN, Target
from agents.comparing.torch_optimizers import TORCH_OPTIMIZERS
from autotrain_env.errors import check, unknown_name

AGENT, CONTROL, OTHER = "agent", "control", "no schedule"
OWN, ONE, CONFIGURATION, EPISODE, WITH_HOLDOUT = (
    "each task's own rate",
    "one for all training tasks",
    "tuned for this configuration",
    "best of 8 of each episode",
    "tuned, trained on train + holdout",
)
WAYS = {
    "own": OWN,
    "one": ONE,
    "configuration": CONFIGURATION,
    "episode": EPISODE,
    "holdout": WITH_HOLDOUT,
}
"""Ways to choose a schedule's rate and own parameters, as users write them, and as records name them."""
OTHERS = ("do_nothing", "random", "default_rate", *TORCH_OPTIMIZERS, "population", "search")
BASELINES = (*VARIANTS, *OTHERS)
OWN_TASKS = Target("own", DEVELOPMENT, SEEN)
"""The tasks that the first run was trained on."""


@dataclass(frozen=True)
class Plan:
    """What is to be compared.

    Args:
        targets: Targets on which they are compared.
        baselines: Names of baselines; see `BASELINES`.
        ways: Ways in which schedules are tuned; see `WAYS`.
        seed: Seed of the first episode.
        env: Arguments of the environment, in place of what runs and targets say.
        episodes: Episodes of every method; `None` for as many as the target says.
        configuration_episodes: Episodes of each trial when tuning for a configuration.
        one_episodes: Episodes of each trial when tuning for all training tasks.
        num_envs: Networks trained side by side; `None` for as many as the target says.
        controls: Whether every run is evaluated under all controls, too.
        search_updates: Updates of the random search; `None` for what training the first policy took.
    """

    targets: tuple[Target, ...]
    baselines: tuple[str, ...]
    ways: tuple[str, ...]
    seed: int
    env: dict[str, Any] = field(default_factory=dict)
    episodes: int | None = None
    configuration_episodes: int = 20
    one_episodes: int = 64
    num_envs: int | None = None
    controls: bool = False
    search_updates: int | None = None

    def __post_init__(self) -> None:
        """Check the names."""
        for argument in ("baselines", "ways"):
            names = getattr(self, argument)
            check(len(set(names)) == len(names), argument, names, "names that differ")
        check(len(self.ways) > 0, "ways", self.ways, f"one or more of {', '.join(WAYS)}")
        for name in self.baselines:
            if name not in BASELINES:
                raise unknown_name("baseline", name, BASELINES)
        for name in self.ways:
            if name not in WAYS:
                raise unknown_name("way", name, WAYS)
