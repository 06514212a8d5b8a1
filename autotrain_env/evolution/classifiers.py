"""Classifiers as members of a generation: their fitness on minibatches that all of them share.

    problem = ClassifierProblem("mnist", "mlp-200-50")
    state = init(EvolutionStrategy(rank=1, scaling="fan_in"), problem.initial_parameters(), seed=0)
    population, state = ask(state)
    state = tell(state, problem.fitness(population, state.generation))
    problem.measure(state.parameters, "validation")

Fitness looks at train images alone: validation chooses, test reports.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from autotrain_env.data.dataset import Dataset, SplitSizes
from autotrain_env.data.pool import image_pool
from autotrain_env.data.registry import load_dataset
from autotrain_env.data.split import split_dataset
from autotrain_env.errors import InvalidTypeError, InvalidValueError, check, check_whole, unknown_name
from autotrain_env.evolution.low_rank import Factors, LowRankPopulation, Population
from autotrain_env.evolution.noise import check_seed
from autotrain_env.training.architecture import Architecture
from autotrain_env.training.classifiers import MLP, Classifier, as_classifier
from autotrain_env.training.engine import BACKENDS
from autotrain_env.training.initialization import initialization_names
from autotrain_env.training.native.engine import why_not_native
from autotrain_env.training.native.members import MemberEngine, Perturbed
from autotrain_env.training.networks import log_loss, make_network

PARTS = ("train", "validation", "test")
VALIDATION_SHARE = 12  # of the pool: one part in so many, where no size is given
BATCH_SIZE = 256  # of minibatches, where no other is given
EVEN_SHARE = 0.2  # of the probability of candidates that does not depend on errors: weights are at most 5
_AT_ONCE = 1000  # images that a single network is measured on together

LogitsFitness = Callable[[Tensor, Tensor], Tensor]
"""A function of logits (n, B, C) and labels (B,) that gives each member's fitness, shape (n,)."""


def minus_log_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns minus the mean log loss [nats] of each member, shape (n,).

    Args:
        logits: Logits, shape (n, B, C).
        labels: Labels, int64, shape (B,).
        weights: Weights of the images' losses, shape (B,); by default 1 each.
    """
    log_probabilities = torch.log_softmax(logits.mT, 1)
    losses = log_loss(log_probabilities, labels.expand(len(logits), -1))
    return -(losses if weights is None else losses * weights).mean(1)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the share of images that each member classifies rightly, shape (n,).

    Args:
        logits: Logits, shape (n, B, C).
        labels: Labels, int64, shape (B,).
    """
    return (logits.argmax(2) == labels).to(logits.dtype).mean(1)


FITNESS: dict[str, LogitsFitness] = {"log_loss": minus_log_loss, "accuracy": accuracy}
"""Fitness of classifiers by name."""


class Minibatch(NamedTuple):
    """What all members of a generation are measured on.

    Args:
        images: Normalised images, shape (B, features).
        labels: Labels, int64, shape (B,).
        weights: Weights of the images' losses, shape (B,); `None` for 1 each.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor | None = None


class ClassifierProblem:
    """Training a classifier, as a problem for evolution.

    Members of a generation share a minibatch of train images: the data are gone through in an order that is
    drawn anew for each epoch, from the seed and the generation's number alone.

    With several `candidates` for each image of the minibatch, the centre looks at all of them first, which
    costs little beside what the members look at. The minibatch is then drawn from them, an image the more
    likely the larger the centre's error on it, and each loss is weighed by one over its probability: the
    mean is that over the candidates, with less variance, since most images of a network that is nearly
    trained tell nothing (Katharopoulos and Fleuret, arXiv:1803.00942).

    Buffers of a network (running statistics of batch normalisation) stay as they are initialised.

    Args:
        dataset: Data, as for `load_dataset`.
        classifier: Architecture, as for `classifier=` of the environments.
        fitness: `"log_loss"` (minus the mean), `"accuracy"`, or a function of logits (n, B, C) and labels
            (B,) that gives numbers of shape (n,), higher for better members.
        batch_size: Images of a minibatch (B), at most those of the train part; by default 256, or all of
            them where there are fewer.
        candidates: Train images from which each image of a minibatch is drawn; 1 for none but itself.
        train_size: Images of the train part; by default all that validation leaves.
        validation_size: Images of the validation part; by default a twelfth of the pool.
        split_seed: Seed of the division of the pool.
        seed: Seed of the minibatches.
        block_size: Members that torch computes side by side, an even number.
        backend: How networks are computed, as for `make_engine`: `"native"` is compiled code, which
            multilayer perceptrons and the package's `CNN` in float32 on a CPU have for either fitness that
            has a name; everything else is torch's.
        engine_threads: Threads of the compiled code, which change no result; by default as many as torch
            has.
        data_root: Folder of torchvision's data sets, as for `load_dataset`.
        dtype: Dtype of images and parameters.
        device: Device that computes.

    Raises:
        InvalidValueError: If a value is not allowed, the minibatch is larger than the train part, or the
            architecture does not fit the images.
    """

    def __init__(
        self,
        dataset: Any,
        classifier: str | Classifier | Callable[[], nn.Module] = "mlp",
        *,
        fitness: str | LogitsFitness = "log_loss",
        batch_size: int | None = None,
        candidates: int = 1,
        train_size: int | None = None,
        validation_size: int | None = None,
        split_seed: int = 0,
        seed: int = 0,
        block_size: int = 16,
        backend: str = "auto",
        engine_threads: int | None = None,
        data_root: str | os.PathLike[str] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._fitness, self._fitness_name = _as_fitness(fitness), fitness
        check_seed(seed)
        if batch_size is not None:
            check_whole("batch_size", batch_size, 1)
        check_whole("candidates", candidates, 1)
        plain = candidates == 1 or fitness == "log_loss"
        check(plain, "candidates", candidates, "1, but for fitness='log_loss', whose images can be weighed")
        check_whole("block_size", block_size, 2)
        check(block_size % 2 == 0, "block_size", block_size, "even, as members may be mirrored")
        self.dataset: Dataset = load_dataset(dataset, data_root)
        sizes = _split_sizes(self.dataset, train_size, validation_size)
        self.split = split_dataset(self.dataset, sizes, split_seed).with_holdout_in_train()
        self.train_size, self.validation_size = len(self.split.train_index), sizes.validation
        batch_size = min(BATCH_SIZE, self.train_size // candidates) if batch_size is None else batch_size
        check(
            batch_size <= self.train_size,
            "batch_size",
            batch_size,
            f"at most the {self.train_size} train images",
        )
        enough = 0 < candidates * batch_size <= self.train_size
        allowed = f"at most {self.train_size} train images over batch_size={batch_size}"
        check(enough, "candidates", candidates, allowed)
        self.batch_size, self.candidates = batch_size, candidates
        self.seed, self.block_size = seed, block_size
        self.dtype, self.device = dtype, torch.device(device)
        self.architecture = Architecture(
            as_classifier(classifier), self.dataset.image_shape, self.dataset.num_classes
        )
        self.layout = self.architecture.parameter_layout
        if engine_threads is not None:
            check_whole("engine_threads", engine_threads, 1)
        self._engine = self._make_engine(backend, engine_threads)
        torch_backend = "auto" if backend == "native" else backend
        self._network = make_network(self.architecture, torch_backend, dtype, self.device)
        buffers = torch.from_numpy(self.architecture.template_row[self.layout.size :].copy())
        self._buffers = buffers.to(self.device, dtype)
        (self._images, _), mean, std = image_pool((self.dataset,), dtype, self.device), *self._moments()
        self._mean, self._std = mean, std
        self._order = functools.lru_cache(maxsize=1)(self._draw_order)
        self._last_drawn: tuple[int, Tensor, Minibatch] | None = None

    def _make_engine(self, backend: str, num_threads: int | None) -> MemberEngine | None:
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS)
        if backend not in ("auto", "native"):
            return None
        reason = why_not_native(self.architecture, None, self.dtype, self.device)
        if reason is None and not isinstance(self._fitness_name, str):
            reason = "it knows no function of logits and labels"
        if reason is not None and backend == "native":
            raise InvalidValueError(f"backend='native' cannot be used: {reason}")
        return MemberEngine(self.architecture, num_threads) if reason is None else None

    @property
    def backend(self) -> str:
        """Returns what computes fitness: `"native"`, or how torch does, `"stacked"` or `"looped"`."""
        return self._network.backend if self._engine is None else "native"

    def _moments(self) -> tuple[Tensor, Tensor]:
        shape = self.dataset.image_shape
        return tuple(  # type: ignore[return-value]
            moment.expand(shape).reshape(-1).to(self.device, self.dtype)
            for moment in (self.split.mean, self.split.std)
        )

    def initial_parameters(
        self, initialization: str = "kaiming_normal", seed: int = 0
    ) -> dict[str, Tensor]:
        """Draw a network.

        Args:
            initialization: One of `initialization_names()`; biases of layers begin at 0.
            seed: Seed of the weights.

        Returns:
            Its parameters by name.

        Raises:
            InvalidValueError: If there is no such scheme.
        """
        if initialization not in initialization_names():
            raise unknown_name("initialization", initialization, initialization_names())
        row = self.architecture.initial_row(initialization, np.random.default_rng(seed))
        parameters = torch.from_numpy(row[: self.layout.size]).to(self.device, self.dtype)
        return self.layout.split(parameters)

    # --- data ---

    def _draw_order(self, epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=(0, 0, epoch, 0)))
        return generator.permutation(self.train_size)

    def minibatch(self, generation: int, centre: Tensor | None = None) -> Minibatch:
        """Draw the minibatch of a generation.

        Args:
            generation: Number of the generation, from 0 on.
            centre: What the members are drawn around, shape (d,); needed where there are `candidates`.

        Raises:
            InvalidValueError: If there are candidates, but no centre.
        """
        if self.candidates == 1:
            return Minibatch(*self._looked_at(generation))
        check(centre is not None, "centre", centre, f"given, since candidates={self.candidates}")
        assert centre is not None
        last = self._last_drawn  # the same for all blocks of a generation
        if last is None or last[0] != generation or not torch.equal(last[1], centre):
            images, labels = self._looked_at(generation)
            places, weights = self._draw_by_error(images, labels, centre, generation)
            last = generation, centre.clone(), Minibatch(images[places], labels[places], weights)
            self._last_drawn = last
        return last[2]

    def _looked_at(self, generation: int) -> tuple[Tensor, Tensor]:
        """Returns the images and labels that a generation's minibatch is drawn from."""
        size = self.batch_size * self.candidates
        epoch, number = divmod(generation, self.train_size // size)
        chosen = self._order(epoch)[number * size :][:size]
        return self._take(self.split.train_index[chosen], self.split.train_labels[chosen])

    def forward_passes(self, members: int) -> int:
        """Returns how many forward passes of one image a generation of so many members takes."""
        return (members + (self.candidates if self.candidates > 1 else 0)) * self.batch_size

    @torch.no_grad()
    def _draw_by_error(
        self, images: Tensor, labels: Tensor, centre: Tensor, generation: int
    ) -> tuple[Tensor, Tensor]:
        """Returns places of the minibatch's images among the candidates, and their weights."""
        errors = torch.softmax(self._dense_logits(centre[None], images)[0], 1)
        errors[torch.arange(len(labels)), labels] -= 1  # the gradient of the loss in the logits
        norms = torch.linalg.vector_norm(errors.double(), dim=1).cpu().nan_to_num_(1.0).numpy()
        total = norms.sum()
        shares = np.full(len(norms), 1 / len(norms))
        if total > 0:
            shares = (1 - EVEN_SHARE) * norms / total + EVEN_SHARE * shares
        # Systematic sampling: one draw for the whole minibatch, which spreads evenly over the shares.
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=(0, 0, generation, 1)))
        points = (generator.random() + np.arange(self.batch_size)) / self.batch_size
        places = np.searchsorted(np.cumsum(shares), points * shares.sum()).clip(max=len(shares) - 1)
        weights = torch.from_numpy(1 / (len(shares) * shares[places]))
        return torch.from_numpy(places).to(self.device), weights.to(self.device, self.dtype)

    def part(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images and labels of a part, some at a time, as `minibatch` gives them.

        Args:
            name: `"train"`, `"validation"` or `"test"`.

        Raises:
            InvalidValueError: If there is no such part.
        """
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
        index, labels = getattr(self.split, f"{name}_index"), getattr(self.split, f"{name}_labels")
        for start in range(0, len(index), _AT_ONCE):
            yield self._take(index[start : start + _AT_ONCE], labels[start : start + _AT_ONCE])

    def _take(self, index: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        images = self._images[torch.from_numpy(index).long().to(self.device)]
        return (images - self._mean) / self._std, torch.from_numpy(labels.copy()).to(self.device)

    # --- networks ---

    @torch.no_grad()
    def fitness(self, population: Population, generation: int, centre: Tensor | None = None) -> Tensor:
        """Compute the fitness of members on the minibatch of their generation.

        Args:
            population: Members, as `ask` gives them.
            generation: Number of the generation, from 0 on.
            centre: What the members were drawn around, shape (d,): needed where there are `candidates` and
                the population does not say it.

        Returns:
            Fitness, shape (n,).

        Raises:
            InvalidValueError: If a fitness of the user's is of another shape.
        """
        around = population.around if isinstance(population, LowRankPopulation) else centre
        minibatch = self.minibatch(generation, around)
        images, labels, weights = minibatch
        if self._engine is not None:
            return self._native_fitness(self._engine, population, minibatch)
        found = []
        for logits in self._logits_of_blocks(population, images):
            if weights is None:
                fitness = self._fitness(logits, labels)
            else:
                fitness = minus_log_loss(logits, labels, weights)
            shape = tuple(fitness.shape) if isinstance(fitness, Tensor) else type(fitness)
            check(shape == (len(logits),), "fitness", f"of shape {shape}", f"of shape ({len(logits)},)")
            found.append(fitness)
        return torch.cat(found)

    def _native_fitness(self, engine: MemberEngine, population: Population, minibatch: Minibatch) -> Tensor:
        parts: list[Tensor | Perturbed] = []
        if isinstance(population, LowRankPopulation):
            parts.append(_perturbed(population))
            if population.with_centre:
                parts.append(population.around[None])
        else:
            parts.append(population)
        losses, accuracies = zip(*(engine.measure(part, *minibatch) for part in parts), strict=True)
        found = -np.concatenate(losses) if self._fitness_name == "log_loss" else np.concatenate(accuracies)
        return torch.from_numpy(found).to(self.dtype)

    @torch.no_grad()
    def logits(self, population: Population, images: Tensor) -> Tensor:
        """Compute the members' logits.

        Args:
            population: Members, as `ask` gives them.
            images: Normalised images, shape (B, features).

        Returns:
            Logits, shape (n, B, C).
        """
        return torch.cat(list(self._logits_of_blocks(population, images)))

    def _logits_of_blocks(self, population: Population, images: Tensor) -> Iterator[Tensor]:
        """Yields logits of some members at a time, each (members, B, C)."""
        if isinstance(population, LowRankPopulation) and isinstance(self.architecture.classifier, MLP):
            yield from _low_rank_logits(population, images, self.block_size)
            if population.with_centre:
                yield self._dense_logits(population.around[None], images)
            return
        for start in range(0, len(population), self.block_size):
            yield self._dense_logits(population[start : start + self.block_size], images)

    def _dense_logits(self, parameters: Tensor, images: Tensor) -> Tensor:
        count = len(parameters)
        shared = images.expand(count, *images.shape)
        return self._network.logits(parameters, self._buffers.expand(count, -1), shared).mT

    @torch.no_grad()
    def measure(self, parameters: Tensor, part: str) -> dict[str, float]:
        """Measure a network on all images of a part.

        Args:
            parameters: Parameters, shape (d,).
            part: `"train"`, `"validation"` or `"test"`.

        Returns:
            `accuracy`, and `log_loss` [nats].
        """
        right, losses, count = 0.0, 0.0, 0
        for images, labels in self.part(part):
            logits = self._dense_logits(parameters[None], images)
            right += float((logits.argmax(2) == labels).sum())
            losses -= float(minus_log_loss(logits, labels)) * len(labels)
            count += len(labels)
        return {"accuracy": right / count, "log_loss": losses / count}

    def state_dict(self, parameters: Tensor) -> dict[str, Tensor]:
        """Returns a network's parameters and buffers by name, as `load_state_dict` takes them, copied.

        Args:
            parameters: Parameters, shape (d,).
        """
        named = {**self.layout.split(parameters), **self.architecture.buffer_layout.split(self._buffers)}
        return {name: tensor.detach().cpu().clone() for name, tensor in named.items()}

    def network(self, parameters: Tensor) -> nn.Module:
        """Returns a network as a module of its own, which takes images that are not normalised.

        Args:
            parameters: Parameters, shape (d,).
        """
        weights, split = self.state_dict(parameters), self.split
        from_bytes = self.dataset.from_bytes
        return self.architecture.network(weights, split.mean, split.std, from_bytes=from_bytes)


def _as_fitness(fitness: str | LogitsFitness) -> LogitsFitness:
    if isinstance(fitness, str):
        if fitness not in FITNESS:
            raise unknown_name("fitness", fitness, FITNESS)
        return FITNESS[fitness]
    if not callable(fitness):
        raise InvalidTypeError(f"fitness={fitness!r} must be a name or a function of logits and labels")
    return fitness


def _split_sizes(dataset: Dataset, train_size: int | None, validation_size: int | None) -> SplitSizes:
    """Returns sizes of a split of which train and holdout together are the train part."""
    validation = (
        max(1, dataset.pool_size // VALIDATION_SHARE) if validation_size is None else validation_size
    )
    check_whole("validation_size", validation, 1)
    left = dataset.pool_size - validation
    check(left >= 2, "validation_size", validation, f"at most {dataset.pool_size - 2}")
    train = left if train_size is None else train_size
    check_whole("train_size", train, 2)
    check(train <= left, "train_size", train, f"at most the {left} images that validation leaves")
    return SplitSizes(train - 1, 1, validation)


def _perturbed(population: LowRankPopulation) -> Perturbed:
    std = torch.stack(list(population.tensor_std().values())).view(-1, 2)
    return Perturbed(population.around, population.numbers, std, population.noise.rank, population.mirrored)


# --- the low-rank way through multilayer perceptrons ---


def _low_rank_logits(population: LowRankPopulation, images: Tensor, block_size: int) -> Iterator[Tensor]:
    """Yields logits of some members at a time, without the centre, each (members, B, C)."""
    entries = population.noise.layout.entries
    layers = list(zip(entries[::2], entries[1::2], strict=True))
    std = population.tensor_std()
    centre = [(weight.view(population.around), bias.view(population.around)) for weight, bias in layers]
    shared = _SharedInput(images, *centre[0])
    # What the first layer's units get from the centre goes on to the second as an input that all share.
    second = _SharedInput(shared.product, *centre[1]) if len(centre) > 1 else None
    for numbers in population.numbers.split(block_size // len(population.signs)):
        noise = population.noise.split(numbers)
        deltas = [
            _Perturbation(noise[weight.name], noise[bias.name], std[weight.name], std[bias.name])  # type: ignore[arg-type]
            for weight, bias in layers
        ]
        first = shared.moved_by(deltas[0])
        second_delta = None if second is None else second.moved_by(deltas[1])
        by_sign = [
            _through_layers(sign, centre, deltas, shared.product, first, second, second_delta)
            for sign in population.signs
        ]
        yield torch.stack(by_sign, 1).flatten(0, 1)


class _Perturbation:
    """What one layer of m members differs by from the centre's, up to the sign.

    Args:
        weight: Factors of the weight's noise.
        bias: Noise of the bias, shape (m, out).
        weight_std: Standard deviation of the weight's, shape ().
        bias_std: Standard deviation of the bias', shape ().
    """

    def __init__(self, weight: Factors, bias: Tensor, weight_std: Tensor, bias_std: Tensor) -> None:
        self.left, self.right, self.bias = weight.left * weight_std, weight.right, bias * bias_std

    def weights(self, centre: Tensor, sign: int) -> Tensor:
        """Returns the members' weights, shape (m, out, in)."""
        shape = len(self.left), *centre.shape
        return torch.baddbmm(centre.expand(shape), self.left.mT, self.right, alpha=sign)


class _SharedInput:
    """An input of a layer that all members share.

    Args:
        inputs: The input, shape (B, in).
        weight: The centre's weight, shape (out, in).
        bias: The centre's bias, shape (out,).
    """

    def __init__(self, inputs: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.inputs = inputs
        self.product = torch.addmm(bias, inputs, weight.T)  # (B, out)

    def moved_by(self, delta: _Perturbation) -> Tensor:
        """Returns what a perturbation adds to the product, shape (m, B, out)."""
        members, rank, _ = delta.right.shape
        projected = (self.inputs @ delta.right.flatten(0, 1).T).view(-1, members, rank).transpose(0, 1)
        with_one = torch.cat((projected, projected.new_ones(members, len(self.inputs), 1)), 2)
        return torch.bmm(with_one, torch.cat((delta.left, delta.bias[:, None]), 1))


def _through_layers(
    sign: int,
    centre: list[tuple[Tensor, Tensor]],
    deltas: list[_Perturbation],
    product: Tensor,
    first: Tensor,
    second: _SharedInput | None,
    second_delta: Tensor | None,
) -> Tensor:
    """Returns the logits of the members of one sign, shape (m, B, C).

    The first hidden layer is relu(z ± d) with z shared, which is z + max(±d, -z): one pass over members,
    images and units, where relu of a sum is two; the z in front goes through the second layer once for all.
    """
    if second is None or second_delta is None:
        return torch.add(product, first, alpha=sign)
    # max(-d, -z) is -min(d, z)
    hidden = torch.maximum(first, -product) if sign > 0 else torch.minimum(first, product)
    weights = deltas[1].weights(centre[1][0], sign)
    inputs = torch.add(second.product, second_delta, alpha=sign)
    inputs = torch.baddbmm(inputs, hidden, weights.mT, alpha=sign)
    for (weight, bias), delta in zip(centre[2:], deltas[2:], strict=True):
        biases = torch.add(bias, delta.bias, alpha=sign).unsqueeze(1)
        inputs = torch.baddbmm(biases, inputs.relu_(), delta.weights(weight, sign).mT)
    return inputs
