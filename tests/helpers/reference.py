"""An oracle for the decision process: one network, `nn.Module`, `torch.optim` and copies in a list.

Written from the design, not from the batched core: nothing here is batched over lanes, and from the
package come only the data (split and minibatch order), the initial weights and the random streams. It
is slow and plain on purpose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from torch import Tensor, nn
from torch.nn import functional as F

from autotrain_env import SplitSizes, Task, load_dataset
from autotrain_env.data.sampling import EpochSampler
from autotrain_env.data.split import split_dataset
from autotrain_env.process.episodes import stream
from autotrain_env.training.architecture import Architecture

NUM_METRICS = 9
SCHEMES = (  # rows of untrained networks: the task's own scheme, then the others in this order
    "kaiming_uniform",
    "xavier_uniform",
    "orthogonal",
    "lecun_normal",
    "kaiming_normal",
    "xavier_normal",
    "zero_last_layer",
)


# --- networks and optimisers as a user of torch writes them ---

NetworkMaker = Callable[[tuple[int, ...], int], nn.Module]
OptimizerMaker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def mlp(*hidden_sizes: int) -> NetworkMaker:
    """ReLU layers of these sizes, then one linear layer."""

    def make(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        network, size = nn.Sequential(nn.Flatten()), int(np.prod(image_shape))
        for hidden_size in hidden_sizes:
            network.extend([nn.Linear(size, hidden_size), nn.ReLU()])
            size = hidden_size
        return network.append(nn.Linear(size, num_classes))

    return make


def cnn(first: int, second: int) -> NetworkMaker:
    """Two stages of 3x3 convolution, ReLU and pooling, then one linear layer."""

    def make(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        depth, height, width = image_shape
        return nn.Sequential(
            nn.Conv2d(depth, first, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * (height // 2 // 2) * (width // 2 // 2), num_classes),
        )

    return make


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., arXiv:1512.03385, Figure 2)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != after:
            self.shortcut.append(nn.Conv2d(before, after, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet18(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """ResNet-18 with a 3x3 first layer and no first pooling."""
    layers: list[nn.Module] = [
        nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
    ]
    before = 64
    for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [ResidualBlock(before, after, stride), ResidualBlock(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))


def user(factory: Callable[[], nn.Module]) -> NetworkMaker:
    """A user's own network."""
    return lambda image_shape, num_classes: factory()


def held_by(network: nn.Module) -> list[Tensor]:
    """Everything that one network holds: what is trained, what is frozen, buffers."""
    parameters = list(network.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    return [*trained, *frozen, *network.buffers()]


# The learning rate is set before every env step.
OPTIMIZERS: dict[str, OptimizerMaker] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
    "momentum": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1.0),
    "adam": lambda p: torch.optim.Adam(p, lr=1.0),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1.0),
}


@dataclass
class Plan:
    """What a task means to somebody who has torch alone."""

    network: NetworkMaker = mlp(32)
    optimizer: OptimizerMaker = OPTIMIZERS["momentum"]
    max_grad_norm: float | None = None


# --- Thresholdout ---


class PublishedThresholdout:
    """Figure 1 of Dwork et al., arXiv:1506.02629, line by line; its answer "⊥" is `None`."""

    def __init__(
        self, generator: np.random.Generator, threshold: float, sigma: float, budget: float
    ) -> None:
        self.generator, self.T, self.sigma, self.B = generator, threshold, sigma, budget
        gamma = self.laplace(2 * sigma)
        self.T_hat = self.T + gamma

    def laplace(self, scale: float) -> float:
        return float(self.generator.laplace(0.0, scale))

    def __call__(self, mean_train: float, mean_holdout: float) -> float | None:
        if self.B < 1:
            return None
        eta = self.laplace(4 * self.sigma)
        if abs(mean_holdout - mean_train) > self.T_hat + eta:
            xi, gamma = self.laplace(self.sigma), self.laplace(2 * self.sigma)
            self.B -= 1
            self.T_hat = self.T + gamma
            return mean_holdout + xi
        return mean_train


# --- the decision process ---


@dataclass
class Row:
    """A state the agent sees, and what it takes to go back to it (`None` once it has diverged)."""

    metrics: np.ndarray  # float64, (K, M)
    lineage: int
    state: tuple[dict[str, Any], dict[str, Any]] | None  # of the network and of the optimiser


class Reference:
    """One environment with discrete actions; arguments as those of `AutoTrainEnv`.

    `observation()` and `info()` say what the environment should after `reset` and `step`; `final` holds
    the test results after the end.
    """

    def __init__(
        self,
        seed: int,
        *,
        inner_steps: int = 20,
        history_length: int = 5,
        num_snapshots: int = 4,
        score: str = "accuracy",
        lr_bounds: tuple[float, float] = (1e-4, 100.0),
        lr_factors: tuple[float, ...] = (0.2, 0.8, 1.0, 1.2, 1.8),
        reinit_learning_rate: str | float = "keep",
        initial_states: str = "random_inits",
        keep_before_divergence: bool = False,
        observation_layout: str = "stacked",
        thresholdout: bool = True,
        thresholdout_threshold: float = 0.04,
        thresholdout_sigma: float = 0.01,
        thresholdout_budget: int | None = None,
        reward_split: str = "validation",
        terminal_state: str = "last",
        truncate_after: int | None = None,
        dtype: str = "float32",
    ) -> None:
        self.np_random = seeding.np_random(seed)[0]
        self.T, self.K, self.H = inner_steps, history_length, num_snapshots
        self.score_name = score
        self.lr_bounds, self.lr_factors = lr_bounds, lr_factors
        self.reinit_learning_rate = reinit_learning_rate
        self.keep_before_divergence = keep_before_divergence
        self.initial_rows = {"random_inits": self.H, "zeros": 1}[initial_states]
        self.flat = observation_layout == "flat"
        self.thresholdout = (
            (thresholdout_threshold, thresholdout_sigma, thresholdout_budget) if thresholdout else None
        )
        self.reward_split, self.terminal_state = reward_split, terminal_state
        self.truncate_after = truncate_after
        self.dtype = getattr(torch, dtype)

    # --- reset ---

    def draw_seed(self) -> int:
        """The one number that decides everything random in an episode."""
        return int(self.np_random.integers(2**63))

    def reset(
        self, task: Task | Callable[[np.random.Generator], Task], plan: Plan | Callable[[Task], Plan]
    ) -> None:
        """Begin an episode with a task, or with one drawn from the task stream."""
        self.seed = self.draw_seed()
        self.task = task if isinstance(task, Task) else task(stream(self.seed, "task"))
        self.plan = plan if isinstance(plan, Plan) else plan(self.task)
        self._load_data()
        self.sampler = EpochSampler(1)
        self.sampler.begin(0, stream(self.seed, "minibatches"), np.arange(len(self.train_labels)))
        if self.thresholdout is not None:
            threshold, sigma, budget = self.thresholdout
            self.guard = PublishedThresholdout(
                stream(self.seed, "thresholdout"), threshold, sigma, np.inf if budget is None else budget
            )
        self.queries = self.attempts = self.updates = self.steps = 0
        self.learning_rate = self._bounded(self.task.initial_learning_rate)
        self.terminated = self.truncated = False
        self.rewound, self.rewind_impossible = 0, False
        self.best_answer = -np.inf
        self.improvement = 0.0
        self.final: dict[str, float] = {}
        self._new_networks(self.initial_rows, shown=self.initial_rows)
        self._keep_best()

    def _load_data(self) -> None:
        task, dataset = self.task, load_dataset(self.task.dataset)
        default = dataset.default_sizes
        sizes = SplitSizes(
            task.train_size or default.train,
            task.holdout_size or default.holdout,
            task.validation_size or default.validation,
        )
        split = split_dataset(dataset, sizes, task.split_seed, task.label_noise)
        self.C = dataset.num_classes
        mean, std = split.mean.to(self.dtype), split.std.to(self.dtype)

        def images(index: np.ndarray) -> Tensor:
            return (dataset.images[torch.from_numpy(index).long()].to(self.dtype) - mean) / std

        self.train_images = images(split.train_index)
        self.train_labels = torch.from_numpy(split.train_labels)
        subset = min(sizes.train, sizes.holdout)
        self.parts = {
            "train": (self.train_images[:subset], self.train_labels[:subset]),
            "holdout": (images(split.holdout_index), torch.from_numpy(split.holdout_labels)),
            "validation": (images(split.validation_index), torch.from_numpy(split.validation_labels)),
            "test": (images(split.test_index), torch.from_numpy(split.test_labels.copy())),
        }
        self.architecture = Architecture(task.classifier, dataset.image_shape, self.C)

    def _new_networks(self, count: int, shown: int) -> None:
        """Draw networks by different schemes; the last one drawn is the oldest row."""
        generator = stream(self.seed, "initialization", self.attempts)
        self.attempts += 1
        others = [scheme for scheme in SCHEMES if scheme != self.task.initialization]
        schemes = [self.task.initialization, *(others * count)[: count - 1]]
        drawn = [self.architecture.initial_row(scheme, generator) for scheme in schemes]
        self.rows: list[Row] = []
        self.lineage, self.diverged = 0, False
        for numbers in reversed(drawn):
            self._load_network(torch.from_numpy(numbers).to(self.dtype))
            if shown:
                train, *_ = evaluations = [self._evaluate(part) for part in self.parts if part != "test"]
                self._take_scores(evaluations)
                ones = np.ones(self.K)
                self._set_windows(train[1] * ones, train[0] * ones)
                self._push(self.updates * ones, 0 * ones)

    def _load_network(self, numbers: Tensor) -> None:
        self.network = self.plan.network(self.architecture.image_shape, self.C).to(self.dtype)
        start = 0
        with torch.no_grad():
            for tensor in held_by(self.network):
                stop = start + tensor.numel()
                tensor.copy_(numbers[start:stop].view_as(tensor))
                start = stop
        assert start == len(numbers)
        self.optimizer = self.plan.optimizer(self.network.parameters())

    # --- one env step ---

    def step(self, action: int) -> float:
        """Carry out a discrete action and return the improvement of the score."""
        factors, table = len(self.lr_factors), len(self.lr_factors) * self.H
        before = self.score
        self.rewound, self.rewind_impossible = 0, False
        self.steps += 1
        self.stopped = action == table + 1
        if not self.stopped:
            if action == table:
                if self.reinit_learning_rate == "initial":
                    self.learning_rate = self.task.initial_learning_rate
                elif self.reinit_learning_rate != "keep":
                    self.learning_rate = self.reinit_learning_rate
                self.learning_rate = self._bounded(self.learning_rate)
                # The step's own row will be row 0, so that H - 1 untrained ones are left to show.
                count = min(self.initial_rows, self.H - 1)
                self._new_networks(max(1, count), shown=count)
            else:
                self._rewind(action // factors)
                self.learning_rate = self._bounded(self.learning_rate * self.lr_factors[action % factors])
            self._train()
        self.terminated = self.stopped or self.updates >= self.task.budget
        self.truncated = not self.terminated and self.steps == self.truncate_after
        if self.terminated or self.truncated:
            self._finish()
        at_best = self.terminated and self.terminal_state == "best_holdout"
        self.improvement = (self.best_score if at_best else self.score) - before
        return self.improvement

    def _rewind(self, distance: int) -> None:
        if distance == 0:
            return
        finite = [i for i, row in enumerate(self.rows) if row.state is not None]
        self.rewound = distance if distance in finite else max(finite, default=0)
        self.rewind_impossible = self.rewound != distance
        if self.rewound:
            del self.rows[: self.rewound]
            network, optimizer = copy.deepcopy(self.rows[0].state)
            self.network.load_state_dict(network)
            self.optimizer.load_state_dict(optimizer)
            self.lineage, self.diverged = self.rows[0].lineage, False

    def _train(self) -> None:
        since = np.arange(1, self.K + 1) * (self.T // self.K)
        updates, lineage = self.updates + since, self.lineage + since
        self.updates += self.T
        self.lineage += self.T
        evaluations = None
        if not self.diverged:
            losses, hits = self._update()
            if np.isfinite(losses).all() and self._state_is_finite():
                evaluations = [self._evaluate(part) for part in self.parts if part != "test"]
        # What only the validation part shows must not be seen.
        if evaluations is None or not all(evaluation[2] for evaluation in evaluations[:2]):
            if self.diverged or not self.keep_before_divergence:
                del self.rows[:1]
            self._set_chance_level()
            self._push(updates, lineage)
            return
        self._set_windows(losses.reshape(self.K, -1).mean(1), hits.reshape(self.K, -1).mean(1))
        self._take_scores(evaluations)
        self._push(updates, lineage)
        self._keep_best()

    def _update(self) -> tuple[np.ndarray, np.ndarray]:
        """T updates of the optimiser; loss and accuracy of every minibatch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        size = self.task.batch_size or min(64, len(self.train_labels) // 4)
        order = torch.from_numpy(self.sampler.draw(np.array([0]), self.T * size)[0])
        losses, accuracies = [], []
        self.network.train()
        for batch in order.view(self.T, size):
            labels = self.train_labels[batch]
            logits = self.network(self.train_images[batch])
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            if self.plan.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.max_grad_norm)
            self.optimizer.step()
            losses.append(loss.item())
            accuracies.append((logits.max(1).indices == labels).double().mean().item())
        return np.array(losses), np.array(accuracies)

    def _state_is_finite(self) -> bool:
        tensors = list(self.network.state_dict().values())
        for state in self.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    # --- measuring ---

    def _evaluate(self, part: str) -> tuple[float, float, bool, float]:
        """Accuracy, log loss [nats], whether every image has a finite largest logit, balanced accuracy."""
        images, labels = self.parts[part]
        self.network.eval()
        with torch.no_grad():
            logits = self.network(images)
        losses = F.cross_entropy(logits, labels, reduction="none").double()
        accuracy = (logits.max(1).indices == labels).double().mean()
        recalls = [
            (logits.max(1).indices == labels)[labels == number].double().mean().item()
            for number in range(self.C)
            if (labels == number).any()
        ]
        finite = bool(logits.max(1).values.isfinite().all())
        return accuracy.item(), losses.mean().item(), finite, float(np.mean(recalls))

    def _score(self, evaluation: tuple[float, float, bool, float]) -> float:
        accuracy, loss, _, balanced = evaluation
        if self.score_name != "neg_log_loss":
            return balanced if self.score_name == "balanced_accuracy" else accuracy
        return -min(max(loss, 0.0), 4 * np.log(self.C))

    def _unit(self, score: float) -> float:
        """A score mapped to [0, 1]."""
        return score if self.score_name != "neg_log_loss" else 1 + score / (4 * np.log(self.C))

    def _take_scores(self, evaluations: list[tuple[float, float, bool, float]]) -> None:
        train, holdout, validation = (self._score(evaluation) for evaluation in evaluations)
        self.score = holdout if self.reward_split == "holdout" else validation
        self.train_score = self._unit(train)
        self.queries += 1
        answer: float | None = self._unit(holdout)
        if self.thresholdout is not None:
            answer = self.guard(self.train_score, self._unit(holdout))
            answer = self.train_score if answer is None else answer
        self.answer = min(max(answer, 0.0), 1.0)

    def _set_windows(self, losses: np.ndarray, accuracies: np.ndarray) -> None:
        self.losses, self.accuracies = losses, accuracies

    def _set_chance_level(self) -> None:
        self.diverged = True
        self.score = 1 / self.C if self.score_name != "neg_log_loss" else -np.log(self.C)
        self.train_score = self.answer = self._unit(self.score)
        self._set_windows(np.full(self.K, np.log(self.C)), np.full(self.K, 1 / self.C))

    def _push(self, updates: np.ndarray, lineage: np.ndarray) -> None:
        """Put the current state's row before the others."""
        metrics = np.zeros((self.K, NUM_METRICS))
        low, high = np.log10(self.lr_bounds)
        with np.errstate(divide="ignore"):
            metrics[:, 0] = np.clip(np.log(self.losses / np.log(self.C)), -8, 8)
        metrics[:, 1] = self.accuracies
        metrics[:, 2] = -1 + 2 * (np.log10(self.learning_rate) - low) / (high - low)
        metrics[:, 3] = self.answer
        metrics[:, 4] = self.train_score - self.answer
        metrics[:, 5] = updates / self.task.budget
        metrics[:, 6] = lineage / self.task.budget
        metrics[:, 7] = self.diverged
        metrics[:, 8] = 1
        state = None
        if not self.diverged:
            state = copy.deepcopy((self.network.state_dict(), self.optimizer.state_dict()))
        self.rows = [Row(metrics, self.lineage, state), *self.rows][: self.H]

    def _keep_best(self) -> None:
        if self.answer > self.best_answer:
            self.best_answer, self.best_score = self.answer, self.score
            self.best = copy.deepcopy(self.network.state_dict())

    def _finish(self) -> None:
        current = copy.deepcopy(self.network.state_dict())
        for prefix in ("", "best_holdout_"):
            if prefix:
                self.network.load_state_dict(self.best)
            accuracy, loss, finite, balanced = self._evaluate("test")
            if not finite or (self.diverged and not prefix):
                accuracy, loss, balanced = 1 / self.C, np.log(self.C), 1 / self.C
            self.final |= {f"{prefix}test_accuracy": accuracy, f"{prefix}test_loss": loss}
            self.final[f"{prefix}test_balanced_accuracy"] = balanced
        self.network.load_state_dict(current)

    def _bounded(self, rate: float) -> float:
        return min(max(rate, self.lr_bounds[0]), self.lr_bounds[1])

    # --- what the agent should see ---

    def observation(self) -> np.ndarray:
        """Rows as an array, missing ones zero; float32."""
        observation = np.zeros((self.H, self.K, NUM_METRICS))
        for i, row in enumerate(self.rows):
            observation[i] = row.metrics
        return observation.reshape(-1 if self.flat else observation.shape).astype(np.float32)

    def info(self) -> dict[str, Any]:
        """Numbers and flags by name."""
        budget = self.thresholdout[2] if self.thresholdout is not None else None
        return {
            "score": self.score,
            "train_score": self.train_score,
            "holdout_answer": self.answer,
            "learning_rate": self.learning_rate,
            "updates": self.updates,
            "holdout_queries": self.queries,
            "holdout_exhausted": budget is not None and self.guard.B < 1,
            "diverged": self.diverged,
            "rewind": self.rewound,
            "rewind_impossible": self.rewind_impossible,
        } | self.final
