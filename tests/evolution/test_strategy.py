"""Evolution strategies: ask and tell."""

import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from autotrain_env.evolution import (
    ClipUp,
    Decay,
    EvolutionStrategy,
    LaplaceNoise,
    Novelty,
    Shaping,
    StudentTNoise,
    ask,
    init,
    tell,
)
from autotrain_env.evolution.landscapes import rastrigin, rosenbrock, sphere
from autotrain_env.evolution.strategy import EvolutionState

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "single": {"mirrored": False},
    "laplace": {"distribution": "laplace"},
    "student_t": {"distribution": StudentTNoise(5)},
    "uniform": {"distribution": "uniform"},
    "z_score": {"shaping": "z_score"},
    "raw": {"shaping": "raw", "learning_rate": 0.02},
    "top_k": {"shaping": Shaping("top_k", 8)},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.02},
    "momentum": {"optimizer": "momentum", "learning_rate": 0.005},
    "nesterov": {"optimizer": "nesterov", "learning_rate": 0.005},
    "look_ahead": {"optimizer": "momentum", "learning_rate": 0.005, "look_ahead": 0.9},
    "rmsprop": {"optimizer": "rmsprop", "learning_rate": 0.02},
    "clipup": {"optimizer": ClipUp(), "learning_rate": 0.05},
    "decay": {"learning_rate": Decay(0.1, 50), "perturbation_std": Decay(0.2, 100, 0.05)},
    "global_std": {"learned_std": "global", "std_learning_rate": 0.02},
    "tensor_std": {"learned_std": "tensor", "std_learning_rate": 0.02},
    "parameter_std": {"learned_std": "parameter", "std_learning_rate": 0.05},
    "natural": {
        "learned_std": "parameter",
        "natural": True,
        "optimizer": "sgd",
        "learning_rate": 3.0,
        "std_learning_rate": 0.2,
        "distribution": "laplace",
    },
    "jump": {"jump_every": 10},
    "second": {"second_derivatives": True},
    "nsr": {"novelty": Novelty("nsr")},
    "nsra": {"novelty": Novelty("nsra")},
}
everywhere = pytest.mark.parametrize("variant", VARIANTS)
# What does not depend on the optimiser is shown for each kind of noise, deviation and search.
kinds = pytest.mark.parametrize(
    "variant", ["plain", "single", "uniform", "look_ahead", "natural", "jump", "second", "nsr", "nsra"]
)


def start(variant: str = "plain", size: int = 6, seed: int = 1, **more: Any) -> EvolutionState:
    arguments: dict[str, Any] = {"population_size": 32, **VARIANTS[variant], **more}
    named = {"weight": torch.full((size // 2, 2), 1.5, dtype=torch.float64)}
    state = init(EvolutionStrategy(**arguments), named, seed)
    assert isinstance(state, EvolutionState)
    return state


def generation(state: EvolutionState, function: Any = sphere) -> EvolutionState:
    population, state = state.ask()
    behaviors = population[:, :2] if state.novelty is not None else None
    return state.tell(-function(population), behaviors)


def run(state: EvolutionState, generations: int, function: Any = sphere) -> EvolutionState:
    for _ in range(generations):
        state = generation(state, function)
    return state


def tensors(state: EvolutionState) -> list[Tensor]:
    kept = [
        state.centre.values,
        *state.centre.accumulators,
        state.log_std.values,
        *state.log_std.accumulators,
    ]
    archived = state.novelty.behaviors if state.novelty is not None else None
    return [*kept, state.movement] + ([] if archived is None else [archived])


def same(first: EvolutionState, second: EvolutionState) -> bool:
    return all(
        torch.equal(mine, other) for mine, other in zip(tensors(first), tensors(second), strict=True)
    )


@everywhere
def test_every_variant_climbs(variant: str):
    state = run(start(variant), 250)
    assert float(sphere(state.parameters)) < 0.2 < float(sphere(start(variant).parameters))
    report = state.report
    assert report["worst"] <= report["mean"] <= report["best"] <= 0
    assert report["update_norm"] > 0 and -1 <= report["cosine"] <= 1 and report["std"] > 0


@everywhere
def test_the_same_seed_gives_the_same_search_and_states_are_left_as_they_were(variant: str):
    first = run(start(variant), 5)
    kept = pickle.loads(pickle.dumps(first))
    second = run(start(variant), 5)
    assert same(first, second)
    assert same(run(first, 6), run(second, 6))
    assert same(run(pickle.loads(pickle.dumps(second)), 6), run(first, 6))  # gone on with from a file
    assert same(first, kept) and first.generation == 5
    assert not same(run(start(variant, seed=2), 5), first)


@kinds
def test_members_are_known_from_the_state_and_their_numbers_alone(variant: str):
    state = run(start(variant), 3)
    population, asked = ask(state)
    count = state.population_size
    assert population.shape == (count, 6) == (asked.population_size, 6)
    for members in (range(0, count), range(3, 4), range(0, 1), range(5, 12), range(count - 1, count)):
        assert torch.equal(state.members(members), population[members.start : members.stop])
    with pytest.raises(ValueError, match=r"members=range\(0, 99\)"):
        state.members(range(99))


@pytest.mark.parametrize(
    ("shaping", "mirrored", "optimizer"),
    [
        ("ranks", True, "sgd"),
        ("ranks", False, "adam"),
        ("z_score", True, "adam"),
        ("z_score", False, "clipup"),
        ("raw", True, "clipup"),
        ("raw", False, "sgd"),
        ("top_k", True, "adam"),
        ("top_k", False, "sgd"),
    ],
)
def test_constant_fitness_moves_nothing(shaping: str, mirrored: bool, optimizer: str):
    more = {"shaping": shaping, "mirrored": mirrored, "optimizer": optimizer}
    before = start(**more, learned_std="tensor")
    after = run(before, 3, lambda points: torch.full((len(points),), 0.3))
    assert torch.equal(after.parameters, before.parameters)
    assert torch.equal(after.log_std.values, before.log_std.values)


@kinds
def test_scaled_or_shifted_fitness_gives_the_same_update_under_ranks(variant: str):
    state = run(start(variant), 2)
    assert state.strategy.shaping == Shaping("ranks")
    population, asked = ask(state)
    behaviors = population[:, :2] if state.novelty is not None else None
    fitness = sphere(population)
    assert same(
        asked.tell(fitness, behaviors), asked.tell(fitness * 4 - 1024, behaviors)
    )  # both exact in binary, so that no ties arise


def test_a_member_without_a_number_is_the_worst():
    state = start(shaping="ranks")
    population, asked = ask(state)
    fitness = -sphere(population)
    for missing in (math.nan, -math.inf):
        with_gap, with_worst = fitness.clone(), fitness.clone()
        with_gap[7], with_worst[7] = missing, -1e9
        assert same(asked.tell(with_gap), asked.tell(with_worst))
        assert asked.tell(with_gap).report["not_finite"] == 1
    raw = start(shaping="raw")
    population, asked = ask(raw)
    fitness[7] = math.nan
    filled = fitness.clone()
    filled[7] = fitness[fitness.isfinite()].min()
    assert same(asked.tell(fitness), asked.tell(filled))


@kinds
def test_a_generation_without_any_number_moves_nothing_and_says_so(variant: str):
    state = run(start(variant), 4)
    population, asked = ask(state)
    behaviors = population[:, :2] if state.novelty is not None else None
    after = tell(asked, torch.full((state.population_size,), math.nan), behaviors)
    assert isinstance(after, EvolutionState)
    assert same(after, state) and after.report["skipped"]
    assert after.generation == 5
    following, _ = ask(after)
    assert not torch.isclose(following, population).all(1)[: state.strategy.population_size].any()


def test_the_first_step_by_hand():
    state = start(
        population_size=4, optimizer="sgd", learning_rate=0.1, shaping="raw", perturbation_std=0.5
    )
    population, asked = ask(state)
    noise = state.noise(range(2))
    assert torch.allclose(population[0::2], state.parameters + 0.5 * noise)
    assert torch.allclose(population[1::2], state.parameters - 0.5 * noise)
    fitness = torch.tensor([3.0, 1.0, 0.0, 4.0])
    gradient = (noise[0] * (3 - 1) / 2 + noise[1] * (0 - 4) / 2) / 2 / 0.5
    after = asked.tell(fitness)
    assert torch.allclose(after.parameters, state.parameters + 0.1 * gradient)
    assert torch.allclose(after.movement, 0.1 * gradient)
    assert after.report["update_norm"] == pytest.approx(0.1 * float(gradient.norm()))


def test_the_natural_gradient_of_both_is_the_one_of_separable_strategies():
    """Of normal noise: mu += rate * s * mean(u e), log s += rate / 2 * mean(u (e^2 - 1)), one s each."""
    arguments: dict[str, Any] = {
        "population_size": 5,
        "mirrored": False,
        "natural": True,
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "std_learning_rate": 0.3,
        "shaping": "raw",
    }
    utility = torch.tensor([1.0, 2.0, -3.0, 0.5, -0.5], dtype=torch.float64)
    state = start(learned_std="parameter", perturbation_std=0.5, **arguments)
    noise = state.noise(range(5))
    after = ask(state)[1].tell(utility)
    assert isinstance(after, EvolutionState)
    moved = 0.5 * (utility @ noise) / 4
    assert torch.allclose(after.parameters, state.parameters + moved)
    log_std = math.log(0.5) + 0.3 / 2 * (utility @ (noise**2 - 1)) / 4
    assert torch.allclose(after.log_std.values[0], log_std)
    shared = ask(start(learned_std="global", perturbation_std=0.5, **arguments))[1].tell(utility)
    assert isinstance(shared, EvolutionState)
    assert torch.allclose(shared.log_std.values[0], log_std.mean())


def test_learned_deviations_differ_by_tensor_and_shrink_where_it_is_steep():
    named = {"steep": torch.zeros(4, dtype=torch.float64), "flat": torch.zeros(4, dtype=torch.float64)}
    strategy = EvolutionStrategy(
        population_size=64,
        learned_std="tensor",
        natural=True,
        std_learning_rate=0.2,
        std_floor=0.01,
        optimizer="sgd",
        learning_rate=1.0,
    )
    state = init(strategy, named, 0)
    assert isinstance(state, EvolutionState)
    state = run(state, 150, lambda points: points[:, :4].square().sum(1))
    steep, flat = state.log_std.values[0].exp().tolist()
    assert steep == pytest.approx(0.01) and flat > 5 * steep  # down to the floor, and drifting
    assert state.std()[0] == steep and state.std()[-1] == flat


def test_scaling_and_factors_apply_to_the_perturbation():
    named = {"a.weight": torch.zeros(2, 4), "a.bias": torch.zeros(2)}
    strategy = EvolutionStrategy(scaling="fan_in", tensor_scales={"a.bias": 3.0}, perturbation_std=0.2)
    state = init(strategy, named, 0)
    assert isinstance(state, EvolutionState)
    assert state.std().tolist() == pytest.approx([0.1] * 8 + [0.3] * 2)
    population, _ = ask(state)
    assert torch.allclose(population[0], 1.0 * state.noise(range(1))[0] * state.std())


@pytest.mark.parametrize("variant", ["sgd", "momentum", "plain", "clipup", "natural", "look_ahead", "nsr"])
def test_scaling_is_a_change_of_coordinates(variant: str):
    """The search of f with scales is the search of f(scale * x) without any, in x."""
    arguments: dict[str, Any] = {"population_size": 32, **VARIANTS[variant], "learned_std": "fixed"}
    named = {"weight": torch.full((2, 4), 1.5, dtype=torch.float64)}
    scaled = init(EvolutionStrategy(scaling="fan_in", **arguments), named, 1)
    plain = init(EvolutionStrategy(**arguments), named["weight"].flatten() * 2, 1)
    for _ in range(5):
        (members, scaled), (others, plain) = ask(scaled), ask(plain)
        assert torch.allclose(members * 2, others)
        behaviors = None if variant != "nsr" else members[:, :2]
        scaled, plain = (tell(state, -rosenbrock(members), behaviors) for state in (scaled, plain))
    assert torch.allclose(scaled.parameters * 2, plain.parameters)


def test_looking_ahead_moves_what_members_are_drawn_around():
    state = run(start("look_ahead"), 3)
    population, _ = ask(state)
    around = (population[0] + population[1]) / 2
    assert torch.allclose(around, state.parameters + 0.9 * state.movement)
    assert state.movement.norm() > 0


def test_jumps_go_to_the_best_member():
    state = run(start("jump"), 9)
    population, asked = ask(state)
    fitness = -sphere(population)
    after = asked.tell(fitness)
    assert after.report["jumped"] and not state.report["jumped"]
    assert torch.equal(after.parameters, population[fitness.argmax()])


def test_the_centre_is_the_last_member_where_it_is_needed():
    state = run(start("nsr"), 2)
    population, _ = ask(state)
    assert len(population) == 33 and torch.equal(population[-1], state.parameters)
    assert len(ask(start())[0]) == 32


def test_second_derivatives_are_reported_with_their_error():
    state = generation(start("second", population_size=20_000))
    found = state.report["second_derivatives"]
    assert ((found.value + 2).abs() < 4 * found.error).all() and (found.error < 0.5).all()
    narrow = start("second", size=2, distribution="normal", population_size=64)
    population, asked = ask(narrow)
    gap = -sphere(population)
    gap[0] = math.nan
    assert asked.tell(gap).report["second_derivatives"] is None


def test_laplace_noise_has_second_derivatives_in_one_dimension_only():
    strategy = EvolutionStrategy(
        2000, distribution="laplace", second_derivatives=True, perturbation_std=0.3
    )
    state = init(strategy, torch.ones(1, dtype=torch.float64), 0)
    assert isinstance(state, EvolutionState)
    found = generation(state).report["second_derivatives"]
    assert abs(float(found.value + 2)) < 4 * float(found.error) < 2
    with pytest.raises(ValueError, match="second_derivatives=True.*Laplace"):
        init(strategy, torch.ones(2), 0)


def test_variational_optimisation_leaves_a_bad_start_of_a_bumpy_bowl():
    """Rastrigin's dents hold a centre with a small fixed deviation; a learned one begins wide."""
    begin = torch.full((4,), 3.0, dtype=torch.float64)
    arguments: dict[str, Any] = {"population_size": 64, "optimizer": "adam", "learning_rate": 0.05}
    narrow = init(EvolutionStrategy(**arguments, perturbation_std=0.1), begin, 0)
    wide = init(
        EvolutionStrategy(
            **arguments, perturbation_std=2.0, learned_std="global", natural=True, std_learning_rate=0.2
        ),
        begin,
        0,
    )
    assert isinstance(narrow, EvolutionState) and isinstance(wide, EvolutionState)
    found = [float(rastrigin(run(state, 400, rastrigin).parameters)) for state in (narrow, wide)]
    assert found[0] > 20 and found[1] < 5


def test_a_curved_valley():
    strategy = EvolutionStrategy(population_size=64, perturbation_std=0.05, learning_rate=0.03)
    state = init(strategy, torch.zeros(2, dtype=torch.float64), 0)
    assert isinstance(state, EvolutionState)
    assert float(rosenbrock(run(state, 600, rosenbrock).parameters)) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype):
    state = init(EvolutionStrategy(8, learned_std="tensor"), torch.zeros(3, dtype=dtype), 0)
    assert isinstance(state, EvolutionState)
    population, _ = ask(state)
    assert population.dtype == generation(state).parameters.dtype == dtype


@pytest.mark.gpu
def test_on_a_gpu_members_are_the_same():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    strategy = EvolutionStrategy(8)
    here, there = init(strategy, torch.zeros(3), 0), init(strategy, torch.zeros(3, device="cuda"), 0)
    population, asked = ask(there)
    assert population.is_cuda and torch.allclose(ask(here)[0], population.cpu())
    assert tell(asked, -sphere(population)).parameters.is_cuda


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population_size": 7}, "population_size=7.*even"),
        ({"population_size": 1, "mirrored": False}, "population_size=1.*at least 2"),
        ({"population_size": 2.0}, "population_size=2.0"),
        ({"perturbation_std": 0}, "perturbation_std=0"),
        ({"perturbation_std": -1}, "perturbation_std=-1"),
        ({"perturbation_std": math.nan}, "perturbation_std=nan"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"distribution": "gauss"}, "distribution='gauss'"),
        ({"distribution": "uniform", "learned_std": "global"}, "distribution=Uniform.*score"),
        ({"distribution": "uniform", "natural": True}, "distribution=Uniform.*natural"),
        ({"distribution": "uniform", "second_derivatives": True}, "distribution=Uniform.*score"),
        ({"population_size": 2, "learned_std": "global"}, "population_size=2.*at least 4"),
        ({"learned_std": "layer"}, "learned_std='layer'"),
        ({"learned_std": "global", "perturbation_std": Decay(1, 1)}, "perturbation_std=Decay.*learned"),
        ({"learned_std": "global", "std_learning_rate": 0}, "std_learning_rate=0"),
        ({"std_floor": 0}, "std_floor=0"),
        ({"scaling": "fan"}, "scaling='fan'"),
        ({"look_ahead": -1}, "look_ahead=-1"),
        ({"jump_every": 0}, "jump_every=0"),
        ({"shaping": "rank"}, "shaping='rank'"),
        ({"optimizer": "adan"}, "optimizer='adan'"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        EvolutionStrategy(**arguments)


def test_mistakes_in_what_is_searched():
    strategy = EvolutionStrategy(4)
    with pytest.raises(TypeError, match="parameters must be a tensor of floats"):
        init(strategy, torch.zeros(3, dtype=torch.int64), 0)
    with pytest.raises(ValueError, match="finite"):
        init(strategy, torch.tensor([math.nan]), 0)
    with pytest.raises(ValueError, match="at least one number"):
        init(strategy, torch.zeros(0), 0)
    for seed in (-1, 2**63, 0.5):
        with pytest.raises(ValueError, match="seed="):
            init(strategy, torch.zeros(1), seed)  # type: ignore[arg-type]


def test_ask_and_tell_take_turns():
    state = start()
    with pytest.raises(ValueError, match=r"tell\(\) was called without ask\(\)"):
        tell(state, [0.0] * 32)
    population, asked = ask(state)
    with pytest.raises(ValueError, match=r"ask\(\).*called twice"):
        ask(asked)
    after = tell(asked, -sphere(population))
    with pytest.raises(ValueError, match=r"tell\(\) was called without ask\(\)"):
        tell(after, [0.0] * 32)
    with pytest.raises(ValueError, match=r"shape \(31,\).*shape \(32,\)"):
        tell(asked, [0.0] * 31)
    with pytest.raises(ValueError, match="behaviors"):
        tell(asked, [0.0] * 32, [[0.0]] * 32)
    assert dataclasses.replace(asked, asked=None) == dataclasses.replace(asked, asked=None)


def test_kinks_count_for_laplace_noise_alone():
    assert isinstance(EvolutionStrategy(4, distribution="laplace").noise, LaplaceNoise)


# Fitness in float64 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_offset_of_the_fitness_changes_nothing(variant: str):
    """Differences far below what float32 parameters could tell apart decide."""
    paths = []
    for offset in (0.0, 1e9):
        state = init(EvolutionStrategy(16, **VARIANTS[variant]), torch.ones(3), 0)
        for _ in range(6):
            members, state = ask(state)
            exact = members.double().square().sum(1)
            fitness = offset - torch.round(exact * 2**22) / 2**22  # of which the offset rounds nothing
            behaviors = members.numpy() if EvolutionStrategy(16, **VARIANTS[variant]).novelty else None
            state = tell(state, fitness, behaviors)
        assert isinstance(state, EvolutionState)
        paths.append((state.parameters, state.std()))
    for found, expected in zip(*paths, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(paths[0][0], torch.ones(3))


def test_a_fitness_near_a_billion_is_climbed():
    state = init(EvolutionStrategy(32, learning_rate=0.05), torch.ones(5), 0)
    for _ in range(100):
        members, state = ask(state)
        state = tell(state, 1e9 - members.double().square().sum(1))
    assert state.parameters.abs().max() < 0.2
    assert state.report["best"] != state.report["worst"]
