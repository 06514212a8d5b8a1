"""Seeds that lie apart: a lane of a vector environment seeded s is seeded s + its number."""

from autotrain_env.errors import check, check_whole

MAX_ENVS = 10_000  # between two training seeds
MAX_SEEDS = 50_000

TUNING_SEED, DEVELOPMENT_SEED, FINAL_SEED = 1_000_000_000, 1_200_000_000, 1_400_000_000
"""First episodes of tuning, of evaluations while developing, and of final evaluations."""

_SEEDS_EACH = 200_000_000

_EVOLUTION_SEED, _EVOLUTION_EPISODES = 10**13, 10**8


def check_development(seed: int, episodes: int) -> None:
    """Raise an `InvalidValueError` unless the seeds of some episodes are for evaluations while developing.

    Others belong to training, to tuning, or to final evaluations, which are counted.

    Args:
        seed: Seed of the first episode.
        episodes: Number of episodes.
    """
    end = DEVELOPMENT_SEED + _SEEDS_EACH
    check(
        DEVELOPMENT_SEED <= seed <= end - episodes,
        "seed",
        seed,
        f"in [{DEVELOPMENT_SEED}, {end - episodes}] for {episodes} episodes: other seeds are those of "
        f"training, tuning and final evaluations",
    )


def evolution_seed(seed: int, episode: int) -> int:
    """Returns the seed of an episode that all members of a generation play, apart from all other seeds.

    Args:
        seed: Training seed, below `MAX_SEEDS`.
        episode: Number of the episode in the run, from 0 on.
    """
    check_whole("seed", seed, 0)
    check(seed < MAX_SEEDS, "seed", seed, f"below {MAX_SEEDS}")
    check(0 <= episode < _EVOLUTION_EPISODES, "episode", episode, f"below {_EVOLUTION_EPISODES}")
    return _EVOLUTION_SEED + seed * _EVOLUTION_EPISODES + episode


def training_seed(seed: int, num_envs: int) -> int:
    """Returns the seed of a training run's environment, so that no two runs share a lane's seed.

    Args:
        seed: Training seed, below `MAX_SEEDS`.
        num_envs: Lanes, at most `MAX_ENVS`.
    """
    check_whole("seed", seed, 0)
    check(seed < MAX_SEEDS, "seed", seed, f"below {MAX_SEEDS}")
    check_whole("num_envs", num_envs, 1)
    check(num_envs <= MAX_ENVS, "num_envs", num_envs, f"at most {MAX_ENVS}")
    return seed * MAX_ENVS
