"""The compiled engine: it computes what torch does, and a lane's bits depend on nothing but the lane."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrain_env.training.native.build import BuildError, build, compiler, library_name
from autotrain_env.training.native.engine import NativeEngine
from autotrain_env.training.native.library import best_library, instructions_here, load, permute
from autotrain_env.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from tests.helpers.stacks import Setup, Sizes, assert_same_bits, of_lanes

pytestmark = pytest.mark.skipif(
    isinstance(best_library(), BuildError), reason=f"no compiled engine: {best_library()}"
)

# With a large eps: the steps of Adam and RMSprop are signs of gradients otherwise, which near 0 differ.
RULES: list[Optimizer] = [
    SGD(),
    SGD(momentum=0.9),
    SGD(momentum=0.8, nesterov=True),
    RMSprop(eps=1e-2),
    Adam(eps=1e-2),
    AdamW(eps=1e-2),
    Adam(beta1=0.3, beta2=0.6, eps=1e-2),
]
RULES += [replace(rule, weight_decay=0.05) for rule in RULES]
RULES += [replace(rule, max_grad_norm=0.7) for rule in RULES]
FEW_RULES = [RULES[1], RULES[5], replace(RULES[4], max_grad_norm=0.2, weight_decay=0.1)]
SHAPES: list[tuple[str, Sizes]] = [
    ("mlp-9", Sizes()),
    ("linear", Sizes()),
    ("linear", Sizes(image_shape=(5,), num_classes=2, batch_size=1)),
    ("mlp-200-100-50", Sizes(image_shape=(1, 28, 28), batch_size=64)),
    ("mlp-33-17-16-15", Sizes(image_shape=(129,), num_classes=3, batch_size=50, num_images=65)),
    ("mlp-130", Sizes(image_shape=(3, 32, 32), batch_size=3, num_images=1)),
    ("mlp-7", Sizes(image_shape=(1,), num_classes=1, num_updates=1)),
    ("mlp-20", Sizes(image_shape=(17,), num_classes=1000, batch_size=16)),
]


def against_torch(classifier: Any, rule: Optimizer, sizes: Sizes, steps: int = 3) -> None:
    """One env step after another from the same state, by float32 here and float64 there."""
    ours = Setup(classifier, rule, lanes=[1, 4], backend="native", sizes=sizes)
    theirs = Setup(classifier, rule, lanes=[1, 4], backend="stacked", sizes=sizes, dtype=torch.float64)
    assert ours.stack.engine.backend == "native" and theirs.stack.engine.backend == "stacked"
    for _ in range(steps):
        theirs.stack.state.copy_(ours.stack.state)
        found, expected = ours.train(), theirs.train()
        np.testing.assert_allclose(found.losses, expected.losses, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(found.accuracies, expected.accuracies, atol=1e-12)
        assert found.finite.all()
        # Weights, accumulators and the count of updates.
        torch.testing.assert_close(ours.rows().double(), theirs.rows(), rtol=1e-3, atol=2e-5)
    theirs.stack.state.copy_(ours.stack.state)
    evaluation, evaluated = ours.evaluate(), theirs.evaluate()
    assert evaluation.losses is not None and evaluated.losses is not None
    np.testing.assert_allclose(evaluation.losses, evaluated.losses, rtol=1e-4, atol=1e-5)
    assert np.array_equal(evaluation.correct, evaluated.correct) and evaluation.finite.all()
    without = ours.evaluate(losses=False)
    assert without.losses is None and np.array_equal(without.correct, evaluation.correct)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_is_that_of_torch(rule: Optimizer):
    against_torch("mlp-33-9", rule, Sizes(batch_size=20))


@pytest.mark.parametrize("classifier, sizes", SHAPES)
@pytest.mark.parametrize("rule", FEW_RULES, ids=str)
def test_every_shape_is_computed_as_torch_does(classifier: str, sizes: Sizes, rule: Optimizer):
    against_torch(classifier, rule, sizes)


@settings(deadline=None, max_examples=60)
@given(
    hidden=st.lists(st.integers(1, 70), max_size=3),
    sizes=st.builds(
        Sizes,
        image_shape=st.tuples(st.integers(1, 150)),
        num_classes=st.integers(1, 40),
        num_updates=st.integers(1, 3),
        batch_size=st.integers(1, 80),
        num_images=st.integers(1, 140),
    ),
    rule=st.sampled_from(RULES),
)
def test_any_shape_is_computed_as_torch_does(hidden: list[int], sizes: Sizes, rule: Optimizer):
    against_torch("-".join(["mlp", *map(str, hidden)]) if hidden else "linear", rule, sizes, steps=1)


# --- bits ---


def results(classifier: Any, rule: Optimizer, sizes: Sizes, lanes: list[int], instructions: str) -> Any:
    setup = Setup(classifier, rule, lanes=lanes, backend="native", sizes=sizes)
    engine = NativeEngine(setup.architecture, rule, load(instructions))
    setup.stack.engine = engine
    return setup.everything()


@pytest.mark.parametrize("classifier, sizes", SHAPES)
@pytest.mark.parametrize("rule", FEW_RULES, ids=str)
def test_bits_depend_neither_on_lanes_nor_threads_nor_vectors(
    classifier: str, sizes: Sizes, rule: Optimizer, set_num_threads: Callable[[int], None]
):
    lanes = [0, 1, 2, 3, 4]
    best = instructions_here()[0]
    set_num_threads(1)
    expected = results(classifier, rule, sizes, lanes, best)
    for threads, instructions in [(2, best), (4, best), *((1, name) for name in instructions_here())]:
        set_num_threads(threads)
        assert_same_bits(results(classifier, rule, sizes, lanes, instructions), expected)
        assert_same_bits(results(classifier, rule, sizes, [3], instructions), of_lanes(expected, [3]))
        assert_same_bits(results(classifier, rule, sizes, [4, 1], instructions), of_lanes(expected, [4, 1]))


def test_there_is_more_than_one_width_of_vectors_on_x86():
    if os.uname().machine == "x86_64" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert instructions_here() == ("avx512", "avx2")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("rule", [*FEW_RULES, RULES[0], RULES[3]], ids=str)
def test_a_lane_that_is_not_finite_leaves_the_others_alone(value: float, rule: Optimizer):
    """The lanes are computed by one thread, one after another, in the same room."""
    for place in ("weight", "image", "rate"):
        expected = Setup("mlp-33-9", rule, lanes=[0, 1, 2, 3], backend="native").everything()
        setup = Setup("mlp-33-9", rule, lanes=[0, 1, 2, 3], backend="native")
        if place == "weight":
            setup.stack.state[1, 40] = value
        elif place == "rate":
            setup.lanes[1].rate = value
        else:
            setup.pool = torch.cat((setup.pool, torch.full_like(setup.pool[:1], value)))
            setup.lanes[1].indices[2, 3] = len(setup.pool) - 1
        found = setup.everything()
        others = [0, 2, 3]
        assert_same_bits(of_lanes(found, others), of_lanes(expected, others))
        assert setup.train().finite[others].all()
        if not np.isfinite(value):
            assert not setup.train().finite[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_answered_as_torch_answers_it(value: float):
    setups = [Setup("mlp-9", "momentum", lanes=[0, 1], backend=name) for name in ("native", "stacked")]
    answers = []
    for setup in setups:
        setup.pool[7] = value
        for lane in setup.lanes:
            lane.test_indices[:3] = 7
        answers.append(setup.evaluate())
    for name in ("finite", "correct"):
        assert np.array_equal(getattr(answers[0], name), getattr(answers[1], name))
    assert not answers[0].finite[:, :3].any() and answers[0].finite[:, 3:].any()
    for setup in setups:
        setup.lanes[0].indices[1, 2] = 7
    ours, theirs = (setup.train() for setup in setups)
    assert ours.finite.tolist() == theirs.finite.tolist() == [False, True]
    assert np.array_equal(np.isnan(ours.losses), np.isnan(theirs.losses))


def test_a_rate_of_a_hundred_is_survived_as_by_torch():
    setups = [
        Setup("mlp-9", "sgd", lanes=[0, 1, 2], backend=name, sizes=Sizes(num_updates=3))
        for name in ("native", "stacked")
    ]
    for setup in setups:
        for lane in setup.lanes:
            lane.rate = 100.0
    ours, theirs = (setup.train() for setup in setups)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-4)


def test_denormal_numbers_count_as_zero_while_a_lane_is_computed_and_no_longer():
    setup = Setup("mlp-9", SGD(momentum=0.5), lanes=[0, 1], backend="native")
    setup.stack.state[0, : setup.stack.num_parameters] = 0  # no gradient but that of the last bias
    setup.stack.state[0, setup.stack.num_parameters :] = 2e-38
    setup.train()
    momentum = setup.rows()[0, setup.stack.num_parameters :].numpy()
    tiny = np.finfo(np.float32).tiny
    assert ((momentum == 0) | (np.abs(momentum) >= tiny)).all() and (momentum == 0).any()
    assert np.float32(1e-40) * np.float32(1) != 0
    assert (torch.full((4,), 2e-38) * 0.5 != 0).all()


def test_lanes_in_two_threads_at_once():
    alone = Setup("mlp-33-9", "adam", lanes=[0, 1, 2], backend="native").everything()
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        for _ in range(5):
            found[number] = Setup("mlp-33-9", "adam", lanes=[0, 1, 2], backend="native").everything()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert_same_bits(found[number], alone)


# --- processes ---

FORK = """
import os, sys, threading
import torch
from tests.helpers.stacks import Setup, assert_same_bits

torch.set_num_threads(2)
lanes = [0, 1, 2]
twin = Setup("mlp-33-9", "adam", lanes=lanes, backend="native")
expected = [*twin.train(), *twin.train(), twin.evaluate().losses]
ours = Setup("mlp-33-9", "adam", lanes=lanes, backend="native")
busy = Setup("mlp-300-200", "adam", lanes=[*range(6)], backend="native")
stop = threading.Event()
def keep_busy():
    while not stop.is_set():
        busy.train()
thread = threading.Thread(target=keep_busy)  # so that the fork finds the pool at work
thread.start()
children = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        torch.set_num_threads(2)  # with which operations of torch's own hang here
        assert_same_bits([*ours.train(), *ours.train(), ours.evaluate().losses], expected)
        os._exit(0)
    children.append(child)
stop.set()
thread.join()
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
print("all came back")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_children_of_a_fork_compute_with_threads_of_their_own():
    done = run_python("-W", "ignore", "-c", FORK)
    assert done.stdout == "all came back\n", done.stdout + done.stderr


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- building ---

BACKEND = """
import autotrain_env
from tests.helpers import tiny
env = autotrain_env.AutoTrainEnv(**tiny(), backend="{}")
env.reset(seed=0)
print(env.core.stacks.stacks[0].engine.backend)
"""


def test_without_a_compiler_torch_computes(tmp_path: Path):
    """Neither the package nor the cache has a library, and there is nothing to build one with."""
    nothing = {
        "PATH": "",
        "AUTOTRAIN_CACHE": str(tmp_path),
        "AUTOTRAIN_CXXFLAGS": "-DNONE_IS_BUILT_WITH_THIS",
    }
    done = run_python("-c", BACKEND.format("auto"), **nothing)
    assert (done.stdout, done.returncode) == ("stacked\n", 0), done.stderr
    refused = run_python("-c", BACKEND.format("native"), **nothing)
    assert refused.returncode != 0
    assert "backend='native' cannot be used: there is no C++ compiler" in refused.stderr
    said = run_python("-m", "autotrain_env.training.native", **nothing)
    assert said.returncode == 1 and "no compiled engine: there is no C++ compiler" in said.stdout


def test_a_compiler_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BuildError, match="false .* failed"):
        build("avx2", tmp_path / "new")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="CXX='no-such-compiler' is no program"):
        compiler()
    assert not list((tmp_path / "new").iterdir())  # nothing half-made


def test_a_library_of_other_sources_or_flags_is_another(monkeypatch: pytest.MonkeyPatch):
    before = library_name("avx2")
    monkeypatch.setenv("AUTOTRAIN_CXXFLAGS", "-g")
    assert library_name("avx2") != before


def test_copies_share_the_library():
    setup = Setup("mlp-9", "adam", lanes=[0, 1], backend="native")
    twin = copy.deepcopy(setup)
    assert twin.stack.engine is not setup.stack.engine
    assert_same_bits(twin.everything(), setup.everything())


# Permutations --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 4),
    size=st.integers(1, 600) | st.sampled_from([1023, 1024, 1025, 70_000]),
    kind=st.sampled_from([np.random.PCG64, np.random.MT19937, np.random.SFC64]),
    seed=st.integers(0, 2**32),
    before=st.integers(0, 3),
)
def test_permutations_are_those_of_numpy(num_rows: int, size: int, kind: Any, seed: int, before: int):
    """To the last bit, for every generator, and so that it goes on alike."""
    ours, theirs = (np.random.Generator(kind(seed)) for _ in range(2))
    for generator in (ours, theirs):
        generator.integers(2**32, size=before, dtype=np.uint32)  # half a number of 64 bits may be left
    rows = np.random.default_rng(1).integers(-(2**62), 2**62, (num_rows, size))
    expected = theirs.permuted(rows, axis=1)
    permute(ours, rows)
    np.testing.assert_array_equal(rows, expected)
    assert ours.random() == theirs.random()
    np.testing.assert_array_equal(ours.permutation(9), theirs.permutation(9))
