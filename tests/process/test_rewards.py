"""Rewards: terms and presets against sums made by hand, and what cannot be earned by tricks."""

import itertools
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest

from autotrain_env import AutoTrainConfig, Decisions, Task
from autotrain_env.process.actions import ACTION_NUMBERS
from autotrain_env.process.rewards import Transition, baseline_at, check_curve, reward_terms
from tests.helpers import Actions, lane_of, tiny, tiny_data

# One episode of five env steps of 10 updates, budget 50, as a hand-written sequence:
# up, down (diverged), unchanged, up by a rewind, stop.
SCORES = [0.25, 0.5, 0.125, 0.125, 0.75, 0.75]  # exact in binary
UPDATES = [0, 10, 20, 30, 40, 40]
NEWLY_DIVERGED = [False, True, False, False, False]
BASELINE = ([0, 20, 30], [0.25, 0.75, 0.5])  # between its points by straight lines, held after 30
BASELINE_SCORES = [0.25, 0.5, 0.75, 0.5, 0.5, 0.5]
BUDGET = 50


def transitions() -> list[Transition]:
    """The sequence, one lane."""
    return [
        Transition(
            score_before=np.array([SCORES[i]]),
            score=np.array([SCORES[i + 1]]),
            updates=np.array([UPDATES[i + 1] - UPDATES[i]]),
            updates_used=np.array([UPDATES[i + 1]]),
            terminated=np.array([i == 4]),
            newly_diverged=np.array([NEWLY_DIVERGED[i]]),
            baseline_before=np.array([baseline_at(check_curve(BASELINE), UPDATES[i])]),
            baseline=np.array([baseline_at(check_curve(BASELINE), UPDATES[i + 1])]),
        )
        for i in range(5)
    ]


def rewards(**kwargs: Any) -> list[float]:
    """Reward of every step of the sequence."""
    weights = AutoTrainConfig(**kwargs).reward_settings().weights()
    found = []
    for transition in transitions():
        terms = reward_terms(transition, weights, np.array([BUDGET]))
        assert terms.keys() == weights.keys()
        found.append(float(sum(term[0] for term in terms.values())))
    return found


IMPROVEMENTS = [0.25, -0.375, 0.0, 0.625, 0.0]
SIGNS = [1, -1, 0, 1, 0]


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("improvement", IMPROVEMENTS),
        ("improvement_sign", SIGNS),
        ("time_cost", [-10, -10, -10, -10, 0]),
        ("elapsed_cost", [-10, -20, -30, -40, -40]),
        ("terminal_score", [0, 0, 0, 0, 0.75]),
        ("divergence", [0, -1, 0, 0, 0]),
        # improvement less the recorded run's: +0.25, +0.25, -0.25, 0, 0
        ("baseline_improvement", [0, -0.625, 0.25, 0.625, 0]),
    ],
)
def test_every_term_by_hand(term: str, expected: list[float]):
    assert rewards(reward={term: 1.0}, baseline=BASELINE) == expected
    assert rewards(reward={term: -2.0}, baseline=BASELINE) == [-2 * value for value in expected]


def test_the_recorded_run_is_held_after_its_end():
    curve = check_curve(BASELINE)
    assert [baseline_at(curve, updates) for updates in UPDATES] == BASELINE_SCORES
    assert baseline_at(curve, 1e9) == 0.5
    assert baseline_at(None, 20) == 0


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"reward": "delta"}, IMPROVEMENTS),
        # +-1 by the sign of the change; in the end 10 x 0.75
        ({"reward": "sign"}, [1, -1, 0, 1, 7.5]),
        (
            {"reward": "sign", "inter_reward": 0.5, "final_reward_scale": 2.0},
            [0.5, -0.5, 0, 0.5, 1.5],
        ),
        # sign - updates so far / 50
        ({"reward": "risa"}, [0.8, -1.4, -0.6, 0.2, -0.8]),
        # the literal cost of 1 per update
        ({"reward": "risa", "step_cost": 1.0}, [-9, -21, -30, -39, -40]),
        ({"reward": "risa", "step_cost": 0.0}, SIGNS),
        ({"reward": "terminal"}, [0, 0, 0, 0, 7.5]),
        ({"reward": "terminal", "final_reward_scale": 1.0}, [0, 0, 0, 0, 0.75]),
        ({"reward": "baseline", "baseline": BASELINE}, [0, -0.625, 0.25, 0.625, 0]),
        # what is added to every preset
        ({"reward": "delta", "divergence_penalty": 3.0}, [0.25, -3.375, 0, 0.625, 0]),
        ({"reward": "delta", "time_cost": 0.25}, [-2.25, -2.875, -2.5, -1.875, 0]),
        (
            {"reward": {"improvement": 4.0, "terminal_score": 2.0}, "divergence_penalty": 0.5},
            [1.0, -2.0, 0, 2.5, 1.5],
        ),
    ],
)
def test_every_preset_by_hand(kwargs: dict[str, Any], expected: list[float]):
    assert rewards(**kwargs) == pytest.approx(expected, abs=1e-12)


def test_a_users_mapping_is_not_changed():
    weights = {"improvement": 1.0}
    config = AutoTrainConfig(reward=weights, divergence_penalty=1.0)
    assert config.reward_settings().weights() == {"improvement": 1.0, "divergence": 1.0}
    assert weights == {"improvement": 1.0}


def test_terms_of_several_lanes_are_independent():
    parts = transitions()
    joined = Transition(
        **{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    )
    weights = dict.fromkeys(
        ("improvement", "improvement_sign", "elapsed_cost", "terminal_score", "divergence"), 1.0
    )
    together = reward_terms(joined, weights, np.full(5, BUDGET))
    for i, part in enumerate(parts):
        alone = reward_terms(part, weights, np.array([BUDGET]))
        assert {name: term[i] for name, term in together.items()} == {
            name: term[0] for name, term in alone.items()
        }


def test_risas_cost_is_one_over_the_budget_of_the_lanes_own_task():
    both = Transition(*(np.repeat(value, 2) for value in vars(transitions()[0]).values()))
    terms = reward_terms(both, {"elapsed_cost": None}, np.array([50, 100]))
    assert terms["elapsed_cost"].tolist() == [-0.2, -0.1]


def test_curves_must_be_curves():
    for curve in (
        ([0, 1], [0.5]),
        ([], []),
        ([0, 0], [1, 1]),
        ([1, 0], [1, 1]),
        ([0, 1], [1, np.nan]),
        ([0, np.inf], [1, 1]),
        ([[0, 1]], [[0, 1]]),
    ):
        with pytest.raises(ValueError, match=r"baseline=.*equal lengths, finite, updates rising"):
            check_curve(curve)


# In the environment ---------------------------------------------------------------------------------


def episode(env: Any, actions: list[Any], seed: int = 0, **options: Any) -> tuple[list[float], list[dict]]:
    """Rewards and infos, the reset's first, of a scripted episode."""
    _, info = env.reset(seed=seed, options=options or None)
    infos, found = [info], []
    for action in actions:
        _, reward, terminated, truncated, info = env.step(action)
        found.append(reward)
        infos.append(info)
        if terminated or truncated:
            break
    return found, infos


SCRIPT = [2, 4, 7, 2, 15, 16]  # train, train faster, rewind 1, train, re-init, stop


@pytest.mark.parametrize(
    ("kwargs", "rewards_of"),
    [
        ({}, lambda d, s: d),
        ({"reward_split": "holdout", "thresholdout": False}, lambda d, s: d),
        ({"score": "neg_log_loss"}, lambda d, s: d),
        (
            {"reward": "sign", "final_reward_scale": 3.0},
            lambda d, s: [*np.sign(d[:-1]), np.sign(d[-1]) + 3 * s[-1]],
        ),
        (
            {"reward": "risa"},
            lambda d, s: np.sign(d) - np.array([4, 8, 12, 16, 20, 20]) / 24,
        ),
        ({"reward": "terminal"}, lambda d, s: [0] * 5 + [10 * s[-1]]),
        ({"time_cost": 0.1}, lambda d, s: np.array(d) - 0.1 * np.array([4, 4, 4, 4, 4, 0])),
        (
            {"reward": "baseline", "baseline": ((0, 8), (0.2, 0.6))},
            lambda d, s: np.array(d) - [0.2, 0.2, 0, 0, 0, 0],
        ),
    ],
)
def test_rewards_of_an_episode_follow_from_its_scores(
    tiny_env: Any, kwargs: dict[str, Any], rewards_of: Any
):
    found, infos = episode(tiny_env(**kwargs), SCRIPT)
    scores = [info["score"] for info in infos]
    changes = np.diff(scores).tolist()
    assert len(found) == 6 and max(map(abs, changes)) > 0.1
    assert found == pytest.approx(list(rewards_of(changes, scores)), abs=1e-12)


@pytest.mark.parametrize(("split", "part"), [("validation", 2), ("holdout", 1)])
@pytest.mark.parametrize("score", ["accuracy", "neg_log_loss"])
def test_the_score_is_that_of_the_named_split(tiny_env: Any, split: str, part: int, score: str):
    """Computed here from the weights and the split."""
    env = tiny_env(reward_split=split, score=score, label_noise=0.3)
    _, infos = episode(env, [2, 2])
    made = env.core.episodes[0].split
    index = (made.train_index, made.holdout_index, made.validation_index)[part]
    labels = (made.train_labels, made.holdout_labels, made.validation_labels)[part]
    named = env.core.stacks.weights_of(0)
    images = (env.core.episodes[0].dataset.images[index] - made.mean) / made.std
    hidden = (images @ named["1.weight"].T + named["1.bias"]).clip(min=0)
    logits = (hidden @ named["3.weight"].T + named["3.bias"]).double().numpy()
    if score == "accuracy":
        assert infos[-1]["score"] == (logits.argmax(1) == labels).mean()
    else:
        loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
        assert infos[-1]["score"] == pytest.approx(-loss.mean(), rel=1e-5)


def test_log_loss_is_clipped_to_four_times_that_of_guessing(tiny_env: Any):
    env = tiny_env(score="neg_log_loss", action_type="learning_rate", lr_bounds=(1e-3, 1e4))
    scores = [info["score"] for info in episode(env, [np.float32([1.0])] * 6)[1]]
    lowest = -4 * np.log(4)
    assert min(scores) == pytest.approx(lowest) and min(scores) >= lowest - 1e-12
    assert max(scores) <= 0


def test_learning_is_rewarded_and_unlearning_is_punished(tiny_env: Any):
    """The sign of each preset's reward, on a run that plainly learns and one that plainly forgets."""
    arguments = {"action_type": "learning_rate", "lr_bounds": (1e-3, 1e3)}
    learns, forgets = [np.float32([-0.4])], [np.float32([1.0])]  # rates of 0.016 and 1,000
    for kwargs, sign_of_learning in (
        ({}, 0.1),
        ({"reward": "sign"}, 1.0),
        ({"reward": "risa"}, 0.8),
        ({"reward": "baseline", "baseline": ((0,), (0.0,))}, 0.1),
    ):
        env = tiny_env(inner_steps=24, budget=72, **arguments, **kwargs)
        found, infos = episode(env, learns + forgets)
        assert infos[1]["score"] > infos[0]["score"] + 0.1, "the run does not learn"
        assert infos[2]["score"] < infos[1]["score"] - 0.1, "the run does not forget"
        assert found[0] >= min(sign_of_learning, 0.6) and found[1] <= -0.1


def test_improvement_telescopes_over_everything(tiny_vec: Any):
    """Rewinds, re-inits and divergence at random: the return is the last score less the first."""
    env = tiny_vec(
        40,
        action_type="continuous",
        lr_bounds=(1e-4, 1e30),
        max_lr_factor=1e12,
        budget=48,
        autoreset_mode="Disabled",
    )
    _, info = env.reset(seed=0)
    first = info["score"].copy()
    total = np.zeros(40)
    seen = {"rewind": 0, "reinit": 0, "diverged": 0, "recovered": 0, "stop": 0}
    draws = [Actions(env, lane, stop=lane % 2 == 0) for lane in range(40)]
    last = first.copy()
    was_diverged = np.zeros(40, bool)
    while env.core.lanes.running.any():
        _, reward, _, _, info = env.step(np.stack([draw() for draw in draws]))
        ran = info["_score"]
        total += reward
        last[ran] = info["score"][ran]
        seen["rewind"] += (info["rewind"] > 0)[ran].sum()
        seen["reinit"] += (info["action"] == ACTION_NUMBERS["reinit"])[ran].sum()
        seen["stop"] += (info["action"] == ACTION_NUMBERS["stop"])[ran].sum()
        seen["diverged"] += info["diverged"][ran].sum()
        seen["recovered"] += (was_diverged & ~info["diverged"] & ran).sum()
        was_diverged[ran] = info["diverged"][ran]
    assert all(count > 0 for count in seen.values()), seen
    assert total == pytest.approx(last - first, abs=1e-12)


def test_divergence_costs_its_penalty_once_each_time(tiny_env: Any):
    env = tiny_env(
        action_type="learning_rate", lr_bounds=(1e-4, 1e30), reward={}, divergence_penalty=2.0, budget=40
    )
    huge, small = np.float32([1.0]), np.float32([-0.9])
    found, infos = episode(env, [huge, huge, small, huge])
    assert found == [-2, 0, 0, 0]  # it stays diverged
    env = tiny_env(
        lr_bounds=(1e-4, 1e30),
        lr_factors=(1e-30, 1.0, 1e30),
        reward={},
        divergence_penalty=2.0,
        budget=40,
        initial_learning_rate=1.0,
    )
    # diverge; stay; out by rewind; diverge; re-init and diverge again in one step; out by re-init
    found, infos = episode(env, [2, 1, 3, 2, 9, 0, 9])
    assert [info["diverged"] for info in infos[1:]] == [True, True, False, True, True, True, False]
    assert found == [-2, 0, 0, -2, -2, 0, 0]


def test_best_holdout_lets_the_reward_look_at_the_best_weights_in_the_end(tiny_env: Any):
    for reward, expected in (
        ("delta", lambda scores, best: [*np.diff(scores[:-1]), best - scores[-2]]),
        ("terminal", lambda scores, best: [0] * (len(scores) - 2) + [10 * best]),
    ):
        env = tiny_env(
            reward=reward, terminal_state="best_holdout", thresholdout=False, initial_learning_rate=0.5
        )
        seen = 0
        for seed in range(4):
            found, infos = episode(env, [2, 2, 2, 15, 16], seed=seed)
            scores = [info["score"] for info in infos]
            best = max(infos[:-1], key=lambda info: info["holdout_answer"])["score"]
            seen += best != scores[-1]
            assert found == pytest.approx(expected(scores, best), abs=1e-12)
        assert seen >= 2


def test_a_truncated_episode_earns_no_terminal_score(tiny_env: Any):
    found, _ = episode(tiny_env(reward="terminal", truncate_after=2), [2, 2])
    assert found == [0, 0]
    found, _ = episode(tiny_env(reward="terminal", budget=8), [2, 2])
    assert found[0] == 0 and found[1] > 0


def test_baselines_may_be_given_by_task(tiny_env: Any):
    task = Task(
        dataset=tiny_data(),
        train_size=48,
        holdout_size=40,
        validation_size=40,
        batch_size=8,
        classifier="mlp-6",
        budget=24,
    )
    curve = ((0, 24), (0.0, 1.0))
    seen = []

    def curve_of(met: Task) -> Any:
        seen.append(met)
        return curve

    plain, infos = episode(tiny_env(), [2, 2], task=task)
    for baseline in (curve, {task: curve}, curve_of):
        env = tiny_env(reward="baseline", baseline=baseline)
        found, _ = episode(env, [2, 2], task=task)
        assert found == pytest.approx(np.array(plain) - 4 / 24, abs=1e-12)
    assert seen == [task]
    env = tiny_env(reward="baseline", baseline={task: curve})
    with pytest.raises(ValueError, match=r"baseline=.a mapping without Task\("):
        env.reset(seed=0)


def test_running_a_recorded_run_again_earns_nothing(tiny_env: Any):
    _, infos = episode(tiny_env(), [2] * 6)
    curve = ([info["updates"] for info in infos], [info["score"] for info in infos])
    found, _ = episode(tiny_env(reward="baseline", baseline=curve), [2] * 6)
    assert found == pytest.approx([0] * 6, abs=1e-12)


# Exploits ------------------------------------------------------------------------------------------

PROGRAM_ACTIONS = ("train", "rewind 1", "rewind 2", "reinit", "stop")


def cyclic_programs(longest: int) -> list[tuple[str, ...]]:
    return [
        program
        for length in range(1, longest + 1)
        for program in itertools.product(PROGRAM_ACTIONS, repeat=length)
        # no cycle goes on after a stop, and a program that only repeats a shorter one was met before
        if "stop" not in program[:-1]
        and not any(
            program == program[:part] * (length // part) for part in range(1, length) if length % part == 0
        )
    ]


class Outcome(NamedTuple):
    """Means over the episodes of each program, shape (programs,)."""

    total: np.ndarray  # undiscounted return
    gained: np.ndarray  # score at the end less the first
    last: np.ndarray  # score at the end
    updates: np.ndarray


def play(programs: list[tuple[str, ...]], rates: list[float], seeds: range, **kwargs: Any) -> Outcome:
    """Play cyclic programs at constant rates.

    Args:
        programs: Cycles of actions.
        rates: Learning rate of each.
        seeds: Episodes; the same for every program.
        kwargs: Arguments of the environment.
    """
    count, steps = len(programs) * len(seeds), 12
    env = gymnasium.make_vec(
        "AutoTrain-v0",
        num_envs=count,
        autoreset_mode="Disabled",
        **tiny(
            inner_steps=8,
            budget=8 * steps,
            lr_bounds=(1e-4, 10.0),
            label_noise=0.2,
            validation_size=60,
            **kwargs,
        ),
    ).unwrapped
    _, info = env.reset(seed=list(seeds) * len(programs))
    first, total = info["score"].copy(), np.zeros(count)
    for step in range(steps):
        words = np.repeat([program[step % len(program)] for program in programs], len(seeds))
        decisions = Decisions(
            lr_factor=np.ones(count),
            learning_rate=np.repeat(rates, len(seeds)),
            rewind=np.select([words == "rewind 1", words == "rewind 2"], [1, 2], 0),
            reinit=words == "reinit",
            stop=words == "stop",
        )
        if env.core.lanes.running.any():
            _, reward, _, _, info = env.step_decisions(decisions)
            total += reward
    assert not env.core.lanes.running.any()
    columns = (total, info["score"] - first, info["score"], info["updates"])  # idle lanes keep theirs
    return Outcome(*(column.reshape(len(programs), len(seeds)).mean(1) for column in columns))


RATES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]


@pytest.fixture(scope="module")
def best_rate() -> float:
    """The constant rate with the best mean score at the end."""
    last = play([("train",)] * len(RATES), RATES, range(1000, 1024)).last
    assert last.max() - last.min() > 0.1  # rates matter
    return RATES[int(last.argmax())]


SLOW_CURVE = ((0, 48), (0.25, 0.75))  # of a run that learns half as fast as this problem allows


@pytest.mark.xdist_group("best rate")
@pytest.mark.parametrize("longest", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kwargs", "earned"),
    [
        ({}, lambda outcome: outcome.gained),
        ({"reward": "terminal"}, lambda outcome: 10 * outcome.last),
        (
            {"reward": "baseline", "baseline": SLOW_CURVE},
            lambda outcome: outcome.gained - min(outcome.updates.max() / 96, 0.5),  # of the whole budget
        ),
    ],
    ids=["delta", "terminal", "baseline"],
)
def test_no_short_cyclic_program_earns_more_than_honest_training(
    kwargs: dict[str, Any], earned: Any, longest: int, best_rate: float
):
    """All cycles of up to two (slow: four) actions of train, rewind 1, rewind 2, re-init and stop.

    They are searched on some episodes; the best are compared with honest training at the best constant rate
    on others, so that the luckiest of many does not count as the best.
    """
    programs = cyclic_programs(longest)
    assert programs[0] == ("train",) and len(programs) == {2: 21, 4: 401}[longest]
    searched = play(programs, [best_rate] * len(programs), range(2), **kwargs)
    # Nothing but the end counts, whatever was done on the way.
    assert searched.total == pytest.approx(earned(searched), abs=1e-9)
    finalists = [programs[i] for i in np.argsort(searched.total)[-4:]]
    contest = [("train",), *finalists]
    fair = play(contest, [best_rate] * 5, range(100, 148), **kwargs).total
    margin = 0.02 * (10 if kwargs.get("reward") == "terminal" else 1)  # of the mean of 48 paired episodes
    assert fair[1:].max() <= fair[0] + margin, dict(zip(contest, fair, strict=True))


EARLY_STOPS = [("stop",), ("train", "stop"), ("train", "train", "stop"), ("train",)]


@pytest.mark.xdist_group("best rate")
def test_stopping_early_forfeits_what_training_would_bring(best_rate: float):
    total = play(EARLY_STOPS, [best_rate] * 4, range(24)).total
    assert total[0] == 0
    assert np.all(np.diff(total) > 0)


@pytest.mark.xdist_group("best rate")
def test_only_the_literal_cost_of_risa_makes_stopping_at_once_optimal(best_rate: float):
    literal = play(EARLY_STOPS, [best_rate] * 4, range(24), reward="risa", step_cost=1.0).total
    default = play(EARLY_STOPS, [best_rate] * 4, range(24), reward="risa").total
    assert literal.argmax() == 0
    assert default.argmax() != 0


def test_scores_of_lanes_are_their_own(tiny_vec: Any, tiny_env: Any):
    env = tiny_vec(3, reward="sign")
    env.reset(seed=0)
    *_, info = env.step(np.array([2, 5, 16]))
    for lane, action in enumerate((2, 5, 16)):
        single = tiny_env(reward="sign")
        single.reset(seed=lane)
        _, reward, *_, expected = single.step(action)
        assert lane_of(info, lane)["reward_terms"] == expected["reward_terms"]
        assert sum(expected["reward_terms"].values()) == reward
