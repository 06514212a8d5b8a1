"""When decisions are taken, by whom, and what losses and labels mean."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotrain_env import (
    Constant,
    Cosine,
    EarlyStopping,
    Mixture,
    RandomAgent,
    ReduceOnPlateau,
    TaskDistribution,
    load_policy,
)
from autotrain_env.control.measuring import Scale, as_classes, small
from autotrain_env.control.plan import as_policy, make_plan, needs_holdout, trained_decisions
from autotrain_env.errors import InvalidValueError


@given(total=st.integers(5, 100_000), decisions=st.integers(1, 200), windows=st.integers(1, 5))
def test_every_update_belongs_to_an_interval(total: int, decisions: int, windows: int):
    if total < decisions:
        return
    plan = make_plan(Constant(), total, decisions, {"history_length": windows})
    steps = plan.config.inner_steps
    assert steps % windows == 0 and 0 <= plan.rest < steps
    assert plan.decisions * steps + plan.rest == total and plan.decisions >= 1
    if total >= 20 * decisions * windows:  # as near as whole windows allow
        assert abs(plan.decisions - decisions) <= max(1, decisions * windows / (total / decisions))


def test_a_policy_brings_its_process_and_its_number_of_decisions(tmp_path: Path):
    plan = make_plan("many", 20_000, None, {})
    assert (plan.decisions, plan.config.inner_steps, plan.rest) == (30, 665, 50)
    assert plan.config.observation_layout == "flat" and plan.config.num_snapshots == 4
    policy = load_policy("many")
    kwargs = {
        **policy.spec.environment["kwargs"],
        "budget": 1_000,
        "inner_steps": 50,
        "thresholdout": False,
    }
    object.__setattr__(policy.spec, "environment", {"id": "AutoTrain-v0", "kwargs": kwargs})
    policy.save(tmp_path)
    plan = make_plan(tmp_path, 2_000, None, {})
    assert plan.decisions == 20 and not plan.config.thresholdout
    assert make_plan(tmp_path, 2_000, None, {"thresholdout": True}).config.thresholdout
    assert make_plan(Cosine(), 2_000, None, {}).config.num_snapshots == 1  # which never looks back


def test_a_file_that_names_the_number_of_decisions_is_followed(tmp_path: Path):
    policy = load_policy("many")
    for named in (45, "45", 0, 1.5):
        object.__setattr__(policy.spec, "environment", {**policy.spec.environment, "decisions": named})
        policy.save(tmp_path)
        if named == 45:
            assert make_plan(tmp_path, 2_000, None, {}).decisions == 44  # of 45 updates, whole windows
            assert make_plan(tmp_path, 2_000, 10, {}).decisions == 10
        else:
            with pytest.raises(InvalidValueError, match=f"decisions in the policy's file={named!r}"):
                make_plan(tmp_path, 2_000, None, {})


@pytest.mark.parametrize(
    ("tasks", "decisions"),
    [("many", 30), ("real_runs", 50), ("short_real_runs", 30), ("training_runs", 30)],
)
def test_decisions_of_tasks_that_last_differently(tasks: str, decisions: int):
    assert trained_decisions({"tasks": tasks}) == decisions


class Own:
    """A sampler whose values nobody can list."""

    def sample(self, generator: np.random.Generator) -> int:
        return 400


def test_decisions_of_a_mixture_are_the_median_of_its_tasks():
    unknown, short, long = (TaskDistribution(budget=budget) for budget in (Own(), 300, 600))
    for parts, weights, decisions in (
        ((short, long), (1, 2), 30),
        ((short, long), (2, 1), 15),
        ((unknown, long), (2, 1), 30),
        ((unknown, unknown), None, 30),
    ):
        given = {"tasks": Mixture(parts, weights), "inner_steps": 20}
        assert trained_decisions(given) == decisions


def test_policies_by_name():
    assert as_policy("many").spec.head == "categorical"  # type: ignore[union-attr]
    assert as_policy("cosine") == Cosine() and as_policy(Cosine(0.1)) == Cosine(0.1)
    for policy, needs in (
        (Cosine(), False),
        (RandomAgent(), False),
        (ReduceOnPlateau(), True),
        (EarlyStopping(), True),
        (load_policy("many"), True),
    ):
        assert needs_holdout(policy) is needs


@pytest.mark.parametrize(
    ("logits", "labels", "shape"),
    [
        ((6, 4), (6,), (6, 4)),
        ((2, 3, 4), (2, 3), (6, 4)),
        ((2, 4, 3), (2, 3), (6, 4)),
        ((2, 4, 3, 5), (2, 3, 5), (30, 4)),
        ((6,), (6,), (6, 2)),
        ((6, 1), (6,), (6, 2)),
        ((6, 1), (6, 1), (6, 2)),
    ],
)
def test_shapes_of_logits(logits: Any, labels: Any, shape: tuple[int, int]):
    found, targets = as_classes(torch.randn(logits), torch.zeros(labels).long())
    assert found.shape == shape and targets.shape == shape[:1]


def test_where_the_classes_are():
    logits = torch.randn(2, 4, 3)
    labels = logits.argmax(1)
    found, targets = as_classes(logits, labels)
    assert torch.equal(found.argmax(1), targets)
    shares = torch.randn(5, 4).softmax(1)  # labels that are probabilities
    found, targets = as_classes(shares, shares)
    assert torch.equal(found.argmax(1), targets)


def test_another_loss_has_a_scale_of_its_own():
    scale = Scale(chance_loss=0.5, num_classes=None)
    scale.see(None)
    np.testing.assert_allclose(scale.losses(np.array([0.5, 0.25, 0.0, -1.0])) / np.log(10), [1, 0.5, 0, 0])
    np.testing.assert_allclose(scale.accuracies(np.array([0.5, 0.0, 9.0, np.nan])), [0.1, 1, 0, 0])
    assert np.isnan(scale.losses(np.array([np.nan])))
    with pytest.raises(InvalidValueError, match="chance_loss="):
        Scale(None, None).see(None)


def test_batches_are_cut_into_small_ones():
    batch = (torch.arange(10), torch.arange(10, 20))
    assert [len(part[0]) for part in small([batch], 4)] == [4, 4, 2]
    strange: list[Any] = [
        {"a": torch.zeros(9)},
        (torch.zeros(9), "words"),
        (torch.zeros(9), torch.zeros(3)),
    ]
    assert [found is given for found, given in zip(small(strange, 4), strange, strict=True)] == [True] * 3
