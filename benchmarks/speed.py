"""Speed against plain torch and against this machine's limit.

Run by `make bench`, or `python -m benchmarks.speed --help`. Every figure is a ratio of things measured in
turn, in one run; absolute times stand beside it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import gymnasium
import numpy as np
import torch
import tyro
from threadpoolctl import threadpool_limits

from autotrain_env import CNN, MLP, SGD, AutoTrainCore, Dataset, load_dataset
from autotrain_env.data.split import split_dataset
from autotrain_env.training.architecture import Architecture
from autotrain_env.training.stack import LaneStack
from benchmarks import plain_torch
from benchmarks.measuring import Figure, Spread, alternate, finish, machine, make_console, table, write_json

SMALL, BIG = (64, 32, 10), (784, 200, 100, 50, 10)
BATCH_SIZE, INNER_STEPS, NUM_SNAPSHOTS = 64, 20, 4
LEARNING_RATE = 0.05  # one at which no network diverges, since lanes that have are skipped
GO_ON = 2  # the action that leaves the learning rate as it is, and trains
ENV_STEPS = 30  # in an episode of the default task


@dataclass(frozen=True)
class Setup:
    """How to measure.

    Args:
        device: Where the networks lie.
        quick: Whether few rounds are enough.
    """

    device: torch.device
    quick: bool

    def rounds(self, usual: int) -> int:
        """Rounds to measure."""
        return min(usual, 2) if self.quick else usual

    def figure(self, work: str, measured: Spread, **more: Any) -> Figure:
        """A figure that was measured here."""
        return Figure(work, measured, device=str(self.device), **more)


# --- inner updates ---------------------------------------------------------------------------------


class Training:
    """Networks of one shape, trained side by side and one alone, on the same random images.

    Args:
        sizes: Of the layers.
        num_lanes: Networks side by side (N).
        num_images: Images in memory.
        setup: How to measure.
        channels: Of the stages of a convolutional network, whose `sizes` are only pixels and classes.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        num_lanes: int,
        num_images: int,
        setup: Setup,
        channels: tuple[int, ...] = (),
    ) -> None:
        self.num_updates = num_lanes * INNER_STEPS
        generator = np.random.default_rng(0)
        side = int(sizes[0] ** 0.5)
        classifier = CNN(channels) if channels else MLP(sizes[1:-1])
        architecture = Architecture(classifier, (1, side, side), sizes[-1])
        self.stack = LaneStack(
            architecture, SGD(momentum=0.9), NUM_SNAPSHOTS, "auto", torch.float32, setup.device
        )
        self.slots = np.array([self.stack.acquire(num_lanes) for _ in range(num_lanes)])
        for slot in self.slots:
            self.stack.set_normalization(int(slot), torch.zeros(1), torch.ones(1))
        rows = [architecture.initial_row("kaiming_uniform", generator) for _ in range(num_lanes)]
        self.stack.set_network(self.slots, np.stack(rows))
        self.images = torch.randn(num_images, sizes[0], device=setup.device)
        labels = generator.integers(sizes[-1], size=num_images)
        self.labels = torch.from_numpy(labels).to(setup.device)
        indices = generator.integers(num_images, size=(num_lanes, INNER_STEPS, BATCH_SIZE))
        # As the environment has them.
        self.indices, self.batch_labels = indices.astype(np.int32), labels[indices].astype(np.int32)
        self.rates = np.full(num_lanes, LEARNING_RATE)
        self.device = setup.device
        self.plain_images: torch.Tensor = self.images
        if channels:
            self.plain_images = self.images.view(-1, 1, side, side)
            self.plain_network = plain_torch.make_cnn((1, *channels), side, sizes[-1], setup.device)
        else:
            self.plain_network = plain_torch.make_mlp(sizes, setup.device)

    def stacked(self) -> None:
        """Make T updates of every lane."""
        self.stack.train(self.images, self.slots, self.rates, self.indices, self.batch_labels)

    def plain(self, num_updates: int, **optimizer: Any) -> Callable[[], None]:
        """A function that makes updates of one network in plain torch."""
        images = self.plain_images
        positions = np.random.default_rng(1).integers(len(images), size=(num_updates, BATCH_SIZE))
        batches = torch.from_numpy(positions).to(self.device)
        sgd = torch.optim.SGD(
            self.plain_network.parameters(), lr=LEARNING_RATE, momentum=plain_torch.MOMENTUM, **optimizer
        )

        def run() -> None:
            plain_torch.train(self.plain_network, sgd, images, self.labels, batches)
            finish(self.device)

        return run

    def stacked_evaluation(self) -> None:
        """Evaluate every lane on all images."""
        indices = np.tile(np.arange(len(self.images), dtype=np.int32), (len(self.slots), 1))
        labels = np.zeros_like(indices)
        self.stack.evaluate(self.images, self.slots, indices, labels, losses=False)

    def plain_evaluation(self) -> None:
        """Evaluate one network on all images in plain torch."""
        with torch.no_grad():
            self.plain_network(self.plain_images).argmax(1)
        finish(self.device)


def repeat(function: Callable[[], Any], times: int) -> Callable[[], None]:
    """A function that calls another several times."""

    def run() -> None:
        for _ in range(times):
            function()

    return run


def train(setup: Setup) -> list[Figure]:
    """Updates/s of a small network, N = 128, against a loop of plain torch training."""
    training = Training(SMALL, 128, 400, setup)
    updates = 500
    seconds = alternate(
        repeat(training.stacked, 4),
        training.plain(updates),
        training.plain(updates, fused=True),
        rounds=setup.rounds(15),
    )
    stacked, plain, fused = seconds / np.array([[4 * training.num_updates], [updates], [updates]])
    return [
        setup.figure(
            "training, MLP 64-32-10, B 64, N = 128: updates/s over those of a plain torch loop",
            Spread.of(plain / stacked),
            goal=80,
            beside=f"{micro(stacked)} against {micro(plain)} per update",
            numbers={"us_per_update": micros(stacked=stacked, plain=plain)},
        ),
        setup.figure(
            "… with torch's fused SGD in the loop",
            Spread.of(fused / stacked),
            beside=f"{micro(fused)} per update",
            numbers={"us_per_update": micros(stacked=stacked, plain_fused=fused)},
        ),
    ]


def limit(setup: Setup) -> list[Figure]:
    """Share of the limit that the matrix-product rate sets to training a larger network.

    The rate is that of big square products, by torch or by numpy on a CPU, whichever is faster.
    """
    lanes = (8, 32) if setup.quick else (8, 32, 128, 256)
    trainings = [Training(BIG, n, 4000, setup) for n in lanes]
    flops = update_flops(BIG)
    multiply, multiply_flops = square_product(setup.device)
    plain_updates = 60
    seconds = alternate(
        multiply,
        numpy_product(setup.device),
        trainings[0].plain(plain_updates),
        *(training.stacked for training in trainings),
        rounds=setup.rounds(5),
    )
    products = seconds[:2] if setup.device.type == "cpu" else seconds[:1]
    rate = multiply_flops / products.min(0)  # [flop/s]
    plain = seconds[2] / plain_updates
    figures = []
    for n, training, total in zip(lanes, trainings, seconds[3:], strict=True):
        stacked = total / training.num_updates
        figures.append(
            setup.figure(
                f"training, MLP 784-200-100-50-10, B 64, N = {n}: share of the limit",
                Spread.of(flops / rate / stacked),
                goal=0.6,
                beside=f"{micro(stacked)} per update; limit {micro(flops / rate)} "
                f"({np.median(rate) / 1e9:.0f} Gflop/s), plain torch {micro(plain)}",
                numbers={
                    "us_per_update": micros(stacked=stacked, limit=flops / rate, plain=plain),
                    "flop_per_update": flops,
                    "flop_per_second": rate.tolist(),
                },
            )
        )
    return figures


def cnn(setup: Setup) -> list[Figure]:
    """Small convolutional networks on images of 28x28, N = 8, against a loop of plain torch."""
    figures = []
    for channels in ((8, 16), (16, 32)):
        ours, last = [Training((784, 10), 8, 1000, setup, channels) for _ in range(2)]
        last.plain_network.to(memory_format=torch.channels_last)
        last.plain_images = last.plain_images.contiguous(memory_format=torch.channels_last)
        updates = 40
        seconds = alternate(
            ours.stacked,
            ours.plain(updates),
            last.plain(updates),
            ours.stacked_evaluation,
            ours.plain_evaluation,
            last.plain_evaluation,
            rounds=setup.rounds(9),
        )
        counts = np.array([[ours.num_updates], [updates], [updates], [8], [1], [1]])
        update, plain, plain_last, evaluation, plain_evaluation, last_evaluation = seconds / counts
        figures += [
            setup.figure(
                f"training, CNN {channels[0]}-{channels[1]} on 1×28×28, B 64, N = 8: updates/s over those "
                "of a plain torch loop",
                Spread.of(plain / update),
                goal=4,
                beside=f"{micro(update)} against {micro(plain)} per update",
                numbers={"us_per_update": micros(stacked=update, plain=plain)},
            ),
            setup.figure(
                "… with images and weights in channels_last order in the loop",
                Spread.of(plain_last / update),
                beside=f"{micro(plain_last)} per update",
                numbers={"us_per_update": micros(stacked=update, plain_channels_last=plain_last)},
            ),
            setup.figure(
                "… evaluation of 1,000 images",
                Spread.of(plain_evaluation / evaluation),
                beside=f"{milli(evaluation)} against {milli(plain_evaluation)}; in channels_last order "
                f"{milli(last_evaluation)}",
                numbers={
                    "us": micros(ours=evaluation, plain=plain_evaluation, channels_last=last_evaluation)
                },
            ),
        ]
    return figures


def update_flops(sizes: tuple[int, ...]) -> int:
    """Operations in the matrix products of one update, a multiplication and an addition as two.

    Forward pass, gradients of the weights, gradients of every layer's input but the first's.
    """
    weights = [a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    return 2 * BATCH_SIZE * (3 * sum(weights) - weights[0])


def square_product(device: torch.device) -> tuple[Callable[[], None], int]:
    """A function that multiplies big float32 matrices, and the operations it takes."""
    size, times = (2048, 2) if device.type == "cpu" else (8192, 8)
    a, b = torch.randn(2, size, size, device=device)
    out = torch.empty_like(a)

    def run() -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)
        finish(device)

    return run, times * 2 * size**3


def numpy_product(device: torch.device) -> Callable[[], None]:
    """The product of `square_product` by numpy, with as many threads as torch has; nothing elsewhere."""
    if device.type != "cpu":
        return lambda: None
    size, times = 2048, 2
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    out = np.empty_like(a)

    def run() -> None:
        with threadpool_limits(torch.get_num_threads()):
            for _ in range(times):
                np.matmul(a, b, out=out)

    return run


# --- env steps -------------------------------------------------------------------------------------


def make_env(num_envs: int, setup: Setup, **kwargs: Any) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """The default task at a given initial rate, after its first reset."""
    kwargs = {"initial_learning_rate": LEARNING_RATE, "device": str(setup.device)} | kwargs
    if "vectorization_mode" not in kwargs:
        kwargs = {"autoreset_mode": "SameStep"} | kwargs  # an env step in every lane, at every step
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=num_envs, **kwargs)
    env.reset(seed=0)
    return env


def go_on(env: gymnasium.vector.VectorEnv[Any, Any, Any], env_steps: int) -> Callable[[], None]:
    """A function that makes env steps with unchanged learning rate in every lane."""
    device = torch.device(env.spec.kwargs["device"])
    actions = np.full(env.num_envs, GO_ON)

    def run() -> None:
        for _ in range(env_steps):
            env.step(actions)
        finish(device)

    return run


def plain_run(setup: Setup) -> plain_torch.PlainRun:
    """What `make_env` does with a lane, in plain torch."""
    digits = load_dataset("digits")
    split = split_dataset(digits, digits.default_sizes, seed=0, label_noise=0.2)
    return plain_torch.PlainRun(digits, split, SMALL, setup.device, LEARNING_RATE)


def vector(setup: Setup) -> list[Figure]:
    """Env steps/s of 64 lanes over whole episodes, against plain torch and `SyncVectorEnv`."""
    num_envs, plain_episodes = 64, 4
    ours = make_env(num_envs, setup)
    sync = make_env(num_envs, setup, vectorization_mode="sync")
    plain = plain_run(setup)
    seconds = alternate(
        go_on(ours, ENV_STEPS),  # the last of them also tests and resets
        repeat(lambda: plain.episode(ENV_STEPS), plain_episodes),
        go_on(sync, ENV_STEPS + 1),  # resets in a step of its own
        rounds=setup.rounds(4),
    )
    ours_s, plain_s, sync_s = seconds / (ENV_STEPS * np.array([[num_envs], [plain_episodes], [num_envs]]))
    return [
        setup.figure(
            'make_vec("AutoTrain-v0", num_envs=64): env steps/s over those of plain torch with the same '
            "updates and evaluations",
            Spread.of(plain_s / ours_s),
            goal=40,
            beside=f"{rate(ours_s)} against {rate(plain_s)} env steps/s",
            numbers={"us_per_env_step": micros(ours=ours_s, plain=plain_s)},
        ),
        setup.figure(
            "… over those of SyncVectorEnv",
            Spread.of(sync_s / ours_s),
            beside=f"{rate(sync_s)} env steps/s",
            numbers={"us_per_env_step": micros(ours=ours_s, sync=sync_s)},
        ),
    ]


def scalar(setup: Setup) -> list[Figure]:
    """Env steps/s of one scalar environment over whole episodes, against plain torch."""
    env = gymnasium.make("AutoTrain-v0", initial_learning_rate=LEARNING_RATE, device=str(setup.device))
    plain = plain_run(setup)

    def episode() -> None:
        env.reset(seed=0)
        ended = False
        while not ended:
            ended = env.step(GO_ON)[2]

    ours_s, plain_s = alternate(
        repeat(episode, 3), repeat(lambda: plain.episode(ENV_STEPS), 3), rounds=setup.rounds(15)
    ) / (3 * ENV_STEPS)
    return [
        setup.figure(
            'make("AutoTrain-v0"): the same over plain torch',
            Spread.of(plain_s / ours_s),
            goal=4,
            beside=f"{rate(ours_s)} against {rate(plain_s)} env steps/s",
            numbers={"us_per_env_step": micros(ours=ours_s, plain=plain_s)},
        )
    ]


class MethodTimer:
    """Adds up the time spent in methods, by name.

    Args:
        device: What to wait for at the end of each.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def watching(self, methods: dict[str, list[tuple[type, str]]]) -> Iterator[None]:
        """Time methods of classes, given by the name under which they are added up."""
        with ExitStack() as stack:
            for name, places in methods.items():
                self.seconds[name] = 0.0
                for owner, method in places:
                    stack.enter_context(patch.object(owner, method, self._timed(name, owner, method)))
            yield

    def _timed(self, name: str, owner: type, method: str) -> Any:
        original = getattr(owner, method)
        static = isinstance(vars(owner).get(method), staticmethod)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = original(*args, **kwargs)
            finish(self.device)
            self.seconds[name] += time.perf_counter() - start
            return result

        return staticmethod(timed) if static else timed


def overhead(setup: Setup) -> list[Figure]:
    """Share of an env step that is neither training nor evaluation of the networks, N = 64."""
    within = make_env(64, setup, budget=INNER_STEPS * 10**6)
    whole = make_env(64, setup)
    figures = []
    for env, where in ((within, "within an episode"), (whole, "with resets and tests")):
        parts = step_parts(env, setup)
        step, training, evaluation = parts["step"], parts["training"], parts["evaluation"]
        rest = step - training - evaluation
        figures += [
            setup.figure(
                f"env step, N = 64, {where}: share that is neither training nor evaluation",
                Spread.of(rest / step),
                beside=f"step {milli(step)}: training {milli(training)}, "
                f"evaluation {milli(evaluation)}, rest {milli(rest)}",
                numbers={"us_per_env_step": micros(**parts, rest=rest)},
            ),
            setup.figure(
                "… evaluation alone",
                Spread.of(evaluation / step),
                beside=f"{micro(evaluation / 64)} per lane and env step",
            ),
        ]
    return figures


def step_parts(env: gymnasium.vector.VectorEnv[Any, Any, Any], setup: Setup) -> dict[str, np.ndarray]:
    """Seconds of an env step and of its parts, one value per round."""
    methods: dict[str, list[tuple[type, str]]] = {
        "training": [(LaneStack, "train")],
        "evaluation": [(LaneStack, "evaluate")],
    }
    run = go_on(env, ENV_STEPS)
    run()
    rounds = []
    for _ in range(setup.rounds(10)):
        watch = MethodTimer(setup.device)
        with watch.watching(methods):
            start = time.perf_counter()
            run()
            rounds.append(watch.seconds | {"step": time.perf_counter() - start})
    return {name: np.array([parts[name] for parts in rounds]) / ENV_STEPS for name in rounds[0]}


# --- memory and cost of a lane ---------------------------------------------------------------------


def memory(setup: Setup) -> list[Figure]:
    """Bytes held for a lane at the end of an episode, over (H + 4) x (parameters + optimiser state)."""
    images = torch.rand(8000, 1, 28, 28)
    labels = torch.arange(8000) % 10
    big = {
        "dataset": load_dataset((images, labels)),
        "classifier": MLP(BIG[1:-1]),
        "train_size": 4000,
        "holdout_size": 1000,
        "validation_size": 1000,
    }
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("default task", 32, {}),
        ("MLP 784-200-100-50-10, 4,000 images", 4, big),
    ]
    figures = []
    for name, num_envs, kwargs in cases:
        held = [lane_memory(n, setup, kwargs) for n in (num_envs, 2 * num_envs)]
        (small, state), (large, _) = held
        per_lane = (large - small) / num_envs  # what lanes share drops out
        share = per_lane / ((NUM_SNAPSHOTS + 4) * state)
        figures.append(
            setup.figure(
                f"memory per lane over (H + 4) × (parameters + optimiser state), {name}",
                Spread(share, share, share),
                goal=1,
                at_least=False,
                beside=f"{per_lane / 1024:.1f} KiB; parameters + optimiser state {state / 1024:.1f} KiB",
                numbers={"bytes_per_lane": per_lane, "bytes_of_parameters_and_optimizer_state": state},
            )
        )
    return figures


def lane_memory(num_envs: int, setup: Setup, kwargs: dict[str, Any]) -> tuple[int, int]:
    """Bytes held by the core after an episode; bytes of one lane's parameters and optimiser state."""
    env = make_env(num_envs, setup, autoreset_mode="Disabled", **kwargs)
    go_on(env, ENV_STEPS)()
    core = env.unwrapped.core
    (stack,) = core.stacks.stacks.values()
    return held_bytes(core), stack.buffers_start * stack.state.element_size()


def held_bytes(core: AutoTrainCore) -> int:
    """Bytes of all arrays and tensors that can be reached, each memory once; images excepted."""
    blocks: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [core]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, Dataset):
            continue
        seen.add(id(found))
        if isinstance(found, torch.Tensor):
            blocks[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
        elif isinstance(found, np.ndarray):
            while isinstance(found.base, np.ndarray):
                found = found.base
            blocks[found.ctypes.data] = found.nbytes
        elif isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, (list, tuple)):
            waiting += found
        elif type(found).__module__.startswith("autotrain_env"):
            waiting += vars(found).values()
    return sum(blocks.values())


def lanes(setup: Setup) -> list[Figure]:
    """Cost of a lane's env step, N = 1 ... 1,024; the rise is over the cheapest smaller N."""
    counts = [4**i for i in range(5)] if setup.quick else [2**i for i in range(11)]
    env_steps = [max(1, 64 // n) for n in counts]
    envs = [make_env(n, setup, budget=INNER_STEPS * 10**6) for n in counts]
    seconds = alternate(
        *(go_on(env, steps) for env, steps in zip(envs, env_steps, strict=True)),
        rounds=setup.rounds(9),
    )
    costs = seconds / (np.array(counts) * np.array(env_steps))[:, None]
    cheapest = np.minimum.accumulate(costs, axis=0)
    rises = costs[1:] / cheapest[:-1]
    worst = int(np.median(rises, axis=1).argmax())
    figures = [
        setup.figure(
            f"cost per lane, N = 1 … {counts[-1]:,}: largest rise over the cheapest smaller N",
            Spread.of(rises[worst]),
            goal=1.1,
            at_least=False,
            beside=f"at N = {counts[worst + 1]:,}; below: per lane and env step",
        )
    ]
    for n, cost in zip(counts, costs, strict=True):
        figures.append(
            setup.figure(
                f"… N = {n:,}: over N = 1",
                Spread.of(cost / costs[0]),
                beside=f"{micro(cost)}",
                numbers={"us_per_lane_and_env_step": micros(cost=cost)},
            )
        )
    return figures


# --- the whole -------------------------------------------------------------------------------------


def micro(seconds: np.ndarray) -> str:
    """Median in microseconds."""
    return f"{np.median(seconds) * 1e6:,.3g} µs"


def milli(seconds: np.ndarray) -> str:
    """Median in milliseconds."""
    return f"{np.median(seconds) * 1e3:.3g} ms"


def rate(seconds: np.ndarray) -> str:
    """Median per second."""
    return f"{1 / np.median(seconds):,.0f}"


def micros(**seconds: np.ndarray) -> dict[str, list[float]]:
    """Microseconds of every round, by name."""
    return {name: (values * 1e6).tolist() for name, values in seconds.items()}


ROWS: dict[str, Callable[[Setup], list[Figure]]] = {
    "train": train,
    "limit": limit,
    "cnn": cnn,
    "vector": vector,
    "overhead": overhead,
    "scalar": scalar,
    "memory": memory,
    "lanes": lanes,
}


@dataclass
class Arguments:
    """Measure AutoTrain's speed against plain torch and this machine's limit."""

    quick: bool = False
    """Few rounds and no large N: to see whether it runs, not how fast."""

    threads: int | None = None
    """Torch's threads, by default as many as it takes."""

    only: Literal["train", "limit", "cnn", "vector", "overhead", "scalar", "memory", "lanes"] | None = None
    """One row instead of all."""

    output: Path = Path("runs/bench/speed.json")
    """File for all numbers."""


def main(arguments: Arguments) -> None:
    """Measure on every device that is there."""
    console = make_console()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    found = machine()
    console.print(
        f"{found['cpu']}, {found['cpu_count']} cores, {found['torch_threads']} torch threads; "
        f"load before: {found['load_average_before'][0]:.1f}"
    )
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows: dict[str, list[Figure]] = {}
    start = time.perf_counter()
    for name in [arguments.only] if arguments.only else ROWS:
        for device in devices:
            setup = Setup(torch.device(device), arguments.quick)
            with console.status(f"{name} on {device}"):
                rows.setdefault(name, []).extend(ROWS[name](setup))
    found["minutes"] = (time.perf_counter() - start) / 60
    title = "AutoTrain's speed: ratios, the median of all rounds with the lowest and the highest"
    console.print(table(title, [figure for row in rows.values() for figure in row]))
    if "cuda" not in devices:
        console.print("No CUDA device here: measured on the CPU alone.")
    write_json(arguments.output, found | {"quick": arguments.quick}, rows)
    console.print(f"Took {found['minutes']:.1f} minutes. All numbers: {arguments.output}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
