"""Optimisers that need no schedule, on the very networks, data and minibatches of the environment.

They run one network after another in plain torch, since libraries know nothing of lanes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import schedulefree
import torch
from prodigyopt import Prodigy
from torch import Tensor, nn

from agents.comparing.schedule_tuning import GRID, Environment, Results
from agents.runs.progress import Reporter, portion
from agents.runs.seeds import TUNING_SEED
from autotrain_env.data.sampling import EpochSampler
from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import check
from autotrain_env.process.episodes import Episode, stream

MOMENTUM = 0.9


class HypergradientSGD(torch.optim.SGD):
    """SGD with Nesterov's momentum whose rate follows its own gradient (Baydin et al., arXiv:1703.04782).

    The multiplicative form: before each update the rate is multiplied by 1 + `sensitivity` times the cosine
    between the gradient and the direction of the update before.

    Args:
        parameters: Parameters to optimise.
        learning_rate: Learning rate at the start.
        sensitivity: Sensitivity of the rate.
    """

    def __init__(self, parameters: Any, learning_rate: float, sensitivity: float = 0.02) -> None:
        super().__init__(parameters, lr=learning_rate, momentum=MOMENTUM, nesterov=True)
        self.sensitivity = sensitivity
        self._direction: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Adapt the rate, and update."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        if self._direction:
            product = sum(float((g * d).sum()) for g, d in zip(gradients, self._direction, strict=True))
            norms = [
                sum(float(v.square().sum()) for v in vectors) ** 0.5
                for vectors in (gradients, self._direction)
            ]
            cosine = product / (norms[0] * norms[1]) if np.isfinite(norms).all() and min(norms) > 0 else 0.0
            for group in self.param_groups:
                group["lr"] *= 1 + self.sensitivity * cosine
        result = super().step(closure)
        momenta = [self.state[p]["momentum_buffer"] for p in parameters]
        self._direction = [g + MOMENTUM * m for g, m in zip(gradients, momenta, strict=True)]
        return result


@dataclass(frozen=True)
class TorchOptimizer:
    """A row of the table.

    Args:
        make: Function from parameters and a rate to an optimiser.
        rates: Rates to try; one alone is the optimiser's own default.
    """

    make: Callable[[Any, float], torch.optim.Optimizer]
    rates: tuple[float, ...]


TORCH_OPTIMIZERS = {
    "hypergradient": TorchOptimizer(HypergradientSGD, tuple(map(float, GRID))),
    "hypergradient_untuned": TorchOptimizer(HypergradientSGD, (1e-3,)),
    "schedulefree": TorchOptimizer(
        lambda parameters, rate: schedulefree.SGDScheduleFree(parameters, lr=rate, momentum=MOMENTUM),
        tuple(map(float, GRID)),
    ),
    "schedulefree_adamw": TorchOptimizer(
        lambda parameters, rate: schedulefree.AdamWScheduleFree(parameters, lr=rate), (0.0025,)
    ),
    "prodigy": TorchOptimizer(lambda parameters, rate: Prodigy(parameters, lr=rate), (1.0,)),
}


def run_optimizer(
    env: Environment, name: str, learning_rate: float, episodes: int, seed: int, report: Reporter
) -> Results:
    """Train the networks of some episodes with an optimiser of torch's interface.

    Args:
        env: Vector environment with one lane, in autoreset mode `DISABLED`; it gives the tasks, and is
            not stepped.
        name: One of `TORCH_OPTIMIZERS`.
        learning_rate: Learning rate that the optimiser is given.
        episodes: Number of episodes.
        seed: Seed of the first episode.
        report: Told how far it is.

    Returns:
        Columns as `evaluate_policy` gives them, histories with the columns of curves. The holdout is read
        unguarded.
    """
    vector_env: AutoTrainVectorEnv = env.unwrapped  # type: ignore[assignment]
    check(vector_env.num_envs == 1, "num_envs", vector_env.num_envs, "1")
    rows = []
    for k in range(episodes):
        vector_env.reset(seed=[seed + k])
        rows.append(_run(vector_env, TORCH_OPTIMIZERS[name], learning_rate))
        report((k + 1) / episodes)
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0] if key != "history"}
    columns["history"] = np.empty(len(rows), object)
    columns["history"][:] = [row["history"] for row in rows]
    return columns


def tune_optimizer(env: Environment, name: str, episodes: int, report: Reporter) -> tuple[float, int]:
    """Returns the rate that is best by validation on tuning seeds, and the updates that this took."""
    rates = TORCH_OPTIMIZERS[name].rates
    if len(rates) == 1:
        return rates[0], 0
    scores, updates = [], 0
    for i, rate in enumerate(rates):
        part = portion(report, i, 1, len(rates))
        results = run_optimizer(env, name, rate, episodes, TUNING_SEED, part)
        scores.append(float(results["score"].mean()))
        updates += int(results["updates"].sum())
    return rates[int(np.argmax(scores))], updates


class _Parts:
    """The images of an episode, normalised, by part, on a device."""

    def __init__(self, episode: Episode, device: torch.device) -> None:
        split, dataset = episode.split, episode.dataset
        self.split, self.dataset, self.device = split, dataset, device
        subset = split.train_subset
        self.train = self._part(split.train_index, split.train_labels)
        self.measured = {
            "train_score": self._part(split.train_index[subset], split.train_labels[subset]),
            "holdout_score": self._part(split.holdout_index, split.holdout_labels),
            "score": self._part(split.validation_index, split.validation_labels),
        }
        self.test = self._part(split.test_index, split.test_labels)

    def _part(self, index: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        images = (self.dataset.images[torch.from_numpy(index).long()] - self.split.mean) / self.split.std
        return images.to(self.device), torch.tensor(labels, device=self.device)


def _run(env: AutoTrainVectorEnv, kind: TorchOptimizer, learning_rate: float) -> dict[str, Any]:
    core = env.core
    episode = core.episodes[0]
    assert episode is not None
    device = torch.device(core.config.device)
    parts = _Parts(episode, device)
    architecture = episode.architecture
    network = architecture.classifier.build(architecture.image_shape, architecture.num_classes)
    network.load_state_dict(core.stacks.weights_of(0), strict=False)
    network.to(device)
    optimizer = kind.make(network.parameters(), learning_rate)
    images, labels = parts.train
    batch_size, inner_steps = episode.batch_size, episode.inner_steps
    sampler = EpochSampler(1)
    sampler.begin(0, stream(episode.seed, "minibatches"), np.arange(len(labels)))
    history: dict[str, list[float]] = {"updates": [0], "learning_rate": [learning_rate]}
    history |= {name: [_accuracy(network, *part)] for name, part in parts.measured.items()}
    best, best_test = -np.inf, 0.0
    for updates in range(inner_steps, episode.task.budget + 1, inner_steps):
        _mode(network, optimizer, training=True)
        drawn = torch.from_numpy(sampler.draw(np.array([0]), inner_steps * batch_size)[0]).to(device)
        for batch in drawn.view(inner_steps, batch_size):
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _mode(network, optimizer, training=False)
        history["updates"].append(updates)
        history["learning_rate"].append(optimizer.param_groups[0]["lr"])
        for name, part in parts.measured.items():
            history[name].append(_accuracy(network, *part))
        if history["holdout_score"][-1] > best:
            best, best_test = history["holdout_score"][-1], _accuracy(network, *parts.test)
    return {
        "test_accuracy": _accuracy(network, *parts.test),
        "best_holdout_test_accuracy": best_test,
        "score": history["score"][-1],
        "train_score": history["train_score"][-1],
        "initial_train_score": float(core.lineage.train_score[0]),
        "updates": episode.task.budget,
        "history": {name: np.array(values) for name, values in history.items()},
    }


def _mode(network: nn.Module, optimizer: torch.optim.Optimizer, *, training: bool) -> None:
    """Switch a network, and an optimiser that keeps other weights for training than for use."""
    network.train(training)
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


@torch.no_grad()
def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the accuracy; that of guessing where a logit is not finite."""
    network.eval()
    logits = torch.cat([network(part) for part in images.split(2000)])
    if not bool(torch.isfinite(logits).all()):
        return 1 / logits.shape[1]
    return float((logits.argmax(1) == labels).double().mean())
