"""Low-rank noise: its moments, its estimates against exact gradients, members from their numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, InvalidValueError
from autotrain_env.evolution import EvolutionStrategy, LowRankPopulation, Novelty, ask, init, tell
from autotrain_env.evolution.estimates import even_weights, gradient_weights
from autotrain_env.evolution.low_rank import LowRank
from autotrain_env.evolution.noise import NormalNoise, draw_noise
from autotrain_env.evolution.strategy import EvolutionState
from autotrain_env.training.layout import Layout

SHAPES: dict[str, tuple[int, ...]] = {
    "a.weight": (4, 5),
    "a.bias": (4,),
    "c.weight": (3, 2, 2, 2),
    "scale": (),
}
LAYOUT = Layout.of({name: torch.zeros(shape) for name, shape in SHAPES.items()})
ROWS = 50_000  # mirrored: 10^5 members
STD = 0.4
ranks = pytest.mark.parametrize("rank", [1, 2, 3])


def named(value: float = 1.5) -> dict[str, Tensor]:
    return {name: torch.full(shape, value, dtype=torch.float64) for name, shape in SHAPES.items()}


def numbers_of(low_rank: LowRank, rows: int = ROWS) -> Tensor:
    return draw_noise(NormalNoise(), 5, 0, range(rows), low_rank.size).double()


def quadratic(points: Tensor) -> Tensor:
    """A quadratic with all mixed terms; its gradient at 0 is `slope()`."""
    return 2 + points @ slope() + 0.5 * ((points @ curvature()) * points).sum(-1)


def slope() -> Tensor:
    return torch.linspace(-1, 2, LAYOUT.size, dtype=torch.float64)


def curvature() -> Tensor:
    matrix = torch.randn(LAYOUT.size, LAYOUT.size, generator=torch.Generator().manual_seed(2)).double()
    return (matrix + matrix.T) / 4


def begun(**more: Any) -> EvolutionState:
    arguments: dict[str, Any] = {"population_size": 16, "rank": 2, "perturbation_std": 0.3, **more}
    state = init(EvolutionStrategy(**arguments), named(), 3)
    assert isinstance(state, EvolutionState)
    return state


@ranks
def test_every_number_has_variance_one_and_none_goes_with_another(rank: int):
    low_rank = LowRank(LAYOUT, rank)
    noise = low_rank.dense(numbers_of(low_rank))
    assert noise.shape == (ROWS, LAYOUT.size)
    identity = torch.eye(LAYOUT.size, dtype=torch.float64)
    products = noise[:, :, None] * noise[:, None]
    error = products.std(0) / ROWS**0.5
    assert ((products.mean(0) - identity).abs() <= 5 * error).all()
    for name, part in LAYOUT.split(noise).items():
        if len(SHAPES[name]) >= 2:
            assert int(torch.linalg.matrix_rank(part[0].flatten(1))) == rank


@ranks
def test_the_gradient_of_a_quadratic_is_the_exact_one_within_the_standard_error(rank: int):
    low_rank = LowRank(LAYOUT, rank)
    numbers = numbers_of(low_rank)
    noise = low_rank.dense(numbers)
    plus, minus = quadratic(STD * noise), quadratic(-STD * noise)
    weights = gradient_weights(torch.stack((plus, minus), 1).flatten(), ROWS, True)
    estimate = low_rank.weighted_sum(weights, numbers) / STD
    each = ((plus - minus) / 2)[:, None] * noise / STD
    torch.testing.assert_close(estimate, each.mean(0))  # the sum over factors is that over dense noise
    error = each.std(0) / ROWS**0.5
    assert ((estimate - slope()).abs() <= 4 * error).all()
    single = low_rank.weighted_sum(gradient_weights(plus, ROWS, False), numbers) / STD
    error = ((plus - plus.mean())[:, None] * noise / STD).std(0) / ROWS**0.5
    assert ((single - slope()).abs() <= 4 * error).all()


@ranks
def test_the_gradient_in_deviations_is_the_exact_one_within_the_standard_error(rank: int):
    low_rank = LowRank(LAYOUT, rank)
    numbers = numbers_of(low_rank)
    fitness = quadratic(STD * low_rank.dense(numbers))
    scores = low_rank.scale_scores(numbers)
    estimate = even_weights(fitness, False) @ scores
    exact = torch.zeros(len(SHAPES), dtype=torch.float64)
    exact.index_add_(0, LAYOUT.groups(), STD**2 * curvature().diagonal())
    error = ((fitness - fitness.mean())[:, None] * scores).std(0) / ROWS**0.5
    assert ((estimate - exact).abs() <= 4 * error).all(), (estimate, exact, error)


def test_a_large_rank_is_nearly_full_noise():
    """The fourth moment of A B^T / √r is 3 + 6 / r; a gradient scatters as with full noise."""
    layout = Layout.of({"weight": torch.zeros(3, 4)})
    slopes = torch.linspace(1, 2, layout.size, dtype=torch.float64)
    spreads = []
    for rank in (1, 4, 64):
        low_rank = LowRank(layout, rank)
        noise = low_rank.dense(numbers_of(low_rank))
        fourth = noise**4
        error = float(fourth.mean(1).std()) / ROWS**0.5
        assert abs(float(fourth.mean()) - (3 + 6 / rank)) <= 5 * error
        spreads.append(((noise @ slopes)[:, None] * noise).std(0))
    full = draw_noise(NormalNoise(), 6, 0, range(ROWS), layout.size).double()
    spread = ((full @ slopes)[:, None] * full).std(0)
    ratios = [float((low / spread).mean()) for low in spreads]
    assert ratios[0] > ratios[1] > ratios[2] and ratios[2] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    "more", [{}, {"mirrored": False}, {"look_ahead": 0.5, "scaling": "fan_in"}], ids=str
)
@pytest.mark.parametrize("centre", [False, True])
def test_members_come_back_by_their_numbers(more: dict[str, Any], centre: bool):
    state = begun(**more, novelty=Novelty("nsr") if centre else None)
    population, asked = state.ask()
    behaviors = torch.zeros(len(population), 2) if centre else None
    state = asked.tell(-population[:].square().sum(1), behaviors)  # so that movement and noise are others
    population, asked = state.ask()
    assert isinstance(population, LowRankPopulation) and len(population) == 16 + centre
    dense = population.dense()
    assert torch.equal(dense, asked.members(range(16 + centre)))
    assert torch.equal(dense[6:10], asked.members(range(6, 10)))
    assert torch.equal(dense, state.members(range(16 + centre)))
    assert torch.equal(dense[5:9], state.members(range(5, 9)))
    assert torch.equal(dense[-1], population[-1]) and torch.equal(dense[3:8:2], population[3:8:2])
    assert population[4:4].shape == (0, LAYOUT.size)
    part = state.population(range(8, 16 + centre))
    assert isinstance(part, LowRankPopulation) and torch.equal(part.dense(), dense[8:])
    offsets = (dense[:16] - state.around()) / state.std()
    for name, tensor in LAYOUT.split(offsets).items():
        if len(SHAPES[name]) >= 2:
            assert int(torch.linalg.matrix_rank(tensor[0].flatten(1))) == 2
    if state.strategy.mirrored:
        torch.testing.assert_close(offsets[0::2], -offsets[1::2])


def test_full_noise_comes_in_parts_too():
    state = begun(rank=None)
    assert torch.equal(state.population(range(3, 9)), state.members(range(3, 9)))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"learned_std": "tensor", "std_learning_rate": 0.002},
        *(
            pytest.param(more, marks=pytest.mark.slow)
            for more in (
                {"shaping": "z_score", "optimizer": "clipup"},
                {"shaping": "top_k", "optimizer": "momentum", "learning_rate": 0.01},
                {"shaping": "raw", "optimizer": "sgd", "learning_rate": 0.02, "mirrored": False},
                {"learned_std": "global", "std_learning_rate": 0.002},
                {"jump_every": 5},
            )
        ),
    ],
    ids=str,
)
def test_every_choice_climbs_and_is_repeated_bit_for_bit(more: dict[str, Any]):
    def run() -> EvolutionState:
        state = begun(rank=1, population_size=32, **more)
        for _ in range(200):
            population, asked = state.ask()
            state = asked.tell(-population[:].square().sum(1))
        return state

    first, second = run(), run()
    assert float(first.parameters.norm()) < 0.5 * 1.5 * LAYOUT.size**0.5
    assert torch.equal(first.parameters, second.parameters)
    assert torch.equal(first.log_std.values, second.log_std.values)
    if "learned_std" in more:
        assert not torch.equal(first.log_std.values, begun(rank=1, **more).log_std.values)


def test_constant_fitness_moves_nothing():
    for more in (
        {},
        {"mirrored": False},
        {"learned_std": "tensor"},
        {"optimizer": "sgd", "shaping": "raw"},
    ):
        state = begun(**more)
        _, asked = ask(state)
        after = tell(asked, torch.full((16,), 3.7))
        assert torch.equal(after.parameters, state.parameters)
        assert torch.equal(after.log_std.values, state.log_std.values)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rank": 0}, "rank=0 is not allowed: it must be a whole number, at least 1"),
        ({"rank": 1.5}, "rank=1.5"),
        ({"rank": True}, "rank=True"),
        ({"rank": 4}, "at most 3, the smaller side of 'c.weight' of shape"),
        ({"population_size": 15}, "population_size=15 is not allowed: it must be even"),
        ({"distribution": "laplace"}, "normal for low-rank noise"),
        ({"learned_std": "parameter"}, "at most one for each tensor"),
        ({"natural": True}, "natural=True"),
        ({"second_derivatives": True}, "second_derivatives=True"),
    ],
    ids=str,
)
def test_what_low_rank_noise_cannot_do_is_refused(more: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        begun(**more)


def test_parameters_without_shapes_and_torn_pairs_are_refused():
    with pytest.raises(InvalidValueError, match="rank=1 needs parameters with shapes"):
        init(EvolutionStrategy(rank=1), torch.zeros(10), 0)
    with pytest.raises(InvalidValueError, match="whole mirrored pairs"):
        begun().population(range(1, 4))
    population, _ = begun().ask()
    with pytest.raises(InvalidTypeError, match="a number or a slice"):
        population["first"]  # type: ignore[index]
    with pytest.raises(IndexError):
        population[16]
