"""Trained agents without the library that trained them.

A saved policy is a folder with two files, neither of which can run code when it is read: `policy.json`
(spaces, environment, layers, versions) and `policy.safetensors` (weights).
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import safetensors.torch
import torch
from gymnasium import spaces
from torch import Tensor

from autotrain_env.errors import InvalidValueError, check
from autotrain_env.files import replace_file
from autotrain_env.policies.layers import PolicyNetwork
from autotrain_env.policies.spec import RECURRENT, PolicySpec
from autotrain_env.process.actions import ACTION_TYPES, ActionType, Decisions
from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.observations import METRICS
from autotrain_env.process.situation import Situation
from autotrain_env.schemas import MIB, parse_json, read_limited, read_tensors

JSON_NAME, WEIGHTS_NAME = "policy.json", "policy.safetensors"
LARGEST_JSON, LARGEST_WEIGHTS = 4 * MIB, 1024 * MIB
"""Bytes of the two files at most."""
DIVERGED = [*METRICS].index("diverged")
RecurrentState = tuple[np.ndarray, ...]
"""State of a recurrent layer: hidden state, and for an lstm its cell, each of shape (n, hidden)."""
PRETRAINED = {name: Path(__file__).parent / "pretrained" / name for name in ("many", "real_runs")}
"""Folders of the policies that come with the package, by name."""


class TrainedPolicy:
    """A trained agent: chooses actions, and serves as a policy of `evaluate_policy`.

    Args:
        spec: Description of the policy.
        weights: Its weights, float32 tensors by name; see `PolicyNetwork`.
        deterministic: Whether `decide` takes the likeliest action, or draws.

    Raises:
        InvalidValueError: If a weight is missing, unknown or of another shape or type.
    """

    def __init__(self, spec: PolicySpec, weights: Mapping[str, Tensor], deterministic: bool = True) -> None:
        self.spec = spec
        self.deterministic = deterministic
        self.network = _make_network(spec)
        _check_weights(self.network.state_dict(), weights)
        self.network.load_state_dict(
            {name: tensor.clone() for name, tensor in weights.items()}, assign=True
        )
        self.network.eval()
        self.generator = torch.Generator().manual_seed(0)
        self._last: tuple[Tensor, Tensor | None] | None = None  # numbers for the head, and the mask
        self._state: RecurrentState | None = None
        self._starts: np.ndarray | None = None

    def seed(self, seed: int) -> None:
        """Seed the generator that draws actions where they are not deterministic.

        Args:
            seed: Seed of all draws from now on.
        """
        self.generator.manual_seed(seed)

    @property
    def hidden_size(self) -> int | None:
        """Returns the width of the recurrent layer, `None` where there is none."""
        sizes = [int(layer["hidden"]) for layer in self.spec.layers if layer["type"] in RECURRENT]
        return sizes[0] if sizes else None

    @property
    def state_parts(self) -> int:
        """Returns how many arrays the recurrent layer's state is made of, 0 where there is none."""
        return sum(RECURRENT.get(layer["type"], 0) for layer in self.spec.layers)

    @torch.no_grad()
    def predict(
        self,
        observation: np.ndarray,
        mask: np.ndarray | None = None,
        state: RecurrentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, RecurrentState | None]:
        """Choose actions.

        Args:
            observation: Observation of one lane, or of n lanes with a leading dimension.
            mask: Which discrete actions are possible, bool, shape (n, actions) or (actions,);
                `None` for all.
            state: What the last call returned, for a recurrent policy; `None` at the beginning.
            episode_start: Lanes whose state is to be forgotten first, bool, shape (n,); `None` for none.
            deterministic: Whether to take the likeliest action, or to draw.

        Returns:
            Actions, int64 of shape (n,) or float32 of shape (n, d) (without n for one lane), and the next
            state, `None` where the policy has none.

        Raises:
            InvalidValueError: If a shape does not fit.
        """
        shape = self.spec.observation_space.shape
        single = observation.shape == shape
        batch = observation[None] if single else observation
        check(
            batch.shape[1:] == shape, "observation", observation.shape, f"of shape {shape} or (n, *{shape})"
        )
        values, state = self._forward(batch, state, episode_start)
        if self.spec.head in ("categorical", "values", "quantiles"):
            possible = self._mask(mask, len(batch))
            self._last = values, possible
            actions = self._choose(values, possible, deterministic)
        else:
            check(mask is None, "mask", mask, "None where actions are continuous")
            actions = self._continuous(values, deterministic)
        return (actions[0] if single else actions), state

    def _forward(
        self, batch: np.ndarray, state: RecurrentState | None, episode_start: np.ndarray | None
    ) -> tuple[Tensor, RecurrentState | None]:
        observation = torch.from_numpy(np.ascontiguousarray(batch, np.float32))
        size = self.hidden_size
        if size is None:
            return self.network(observation, None)[0], None
        if state is None:
            state = (np.zeros((len(batch), size), np.float32),) * self.state_parts
        shapes = [part.shape for part in state]
        wanted = [(len(batch), size)] * self.state_parts
        check(shapes == wanted, "state", shapes, f"arrays of shapes {wanted}")
        if episode_start is not None:
            starts = np.atleast_1d(np.asarray(episode_start, bool))
            check(starts.shape == (len(batch),), "episode_start", starts.shape, f"of shape {(len(batch),)}")
            state = tuple(part * ~starts[:, None] for part in state)
        before = tuple(torch.from_numpy(part.astype(np.float32)) for part in state)
        values, after = self.network(observation, before)
        return values, tuple(part.numpy() for part in after)

    @property
    def last_probabilities(self) -> np.ndarray | None:
        """Returns the probability of each action at the last choice, shape (n, actions).

        It is `None` before the first one, and where the head gives no probabilities.
        """
        if self._last is None or self.spec.head != "categorical":
            return None
        values, possible = self._last
        if possible is not None:
            values = values.masked_fill(~possible, -torch.inf)
        return values.softmax(1).numpy()

    def _mask(self, mask: np.ndarray | None, count: int) -> Tensor | None:
        if mask is None:
            return None
        mask = np.atleast_2d(np.asarray(mask, bool))
        wanted = (count, self.spec.num_actions)
        check(mask.shape == wanted, "mask", mask.shape, f"of shape {wanted}")
        check(bool(mask.any(1).all()), "mask", mask, "with a possible action in every lane")
        return torch.from_numpy(mask)

    def _choose(self, values: Tensor, mask: Tensor | None, deterministic: bool) -> np.ndarray:
        if self.spec.head == "quantiles":
            values = values.view(len(values), -1, self.spec.num_actions).mean(1)
        if mask is not None:
            values = values.masked_fill(~mask, -torch.inf)
        best = values.argmax(1)
        if deterministic:
            return best.numpy()
        if self.spec.head == "categorical":
            return torch.multinomial(values.softmax(1), 1, generator=self.generator)[:, 0].numpy()
        possible = torch.ones_like(values) if mask is None else mask.float()
        drawn = torch.multinomial(possible, 1, generator=self.generator)[:, 0]
        explores = torch.rand(len(values), generator=self.generator) < self.spec.exploration
        return torch.where(explores, drawn, best).numpy()

    def _continuous(self, values: Tensor, deterministic: bool) -> np.ndarray:
        log_std: Tensor | None = None
        if self.spec.head == "gaussian":
            log_std = self.network.log_std
        elif self.spec.head == "squashed_gaussian":
            values, log_std = values.chunk(2, 1)
            log_std = log_std.clamp(-20, 2)  # as Soft Actor-Critic is trained with
        if log_std is not None and not deterministic:
            noise = torch.randn(values.shape, generator=self.generator)
            values = values + log_std.exp() * noise
        if self.spec.head == "squashed_gaussian":
            values = values.tanh()
        space = cast(spaces.Box, self.spec.action_space)
        return np.clip(values.numpy(), space.low, space.high).astype(np.float32)

    # --- as a policy of `evaluate_policy` ---

    def check_fits(self, observation_space: spaces.Space[Any], action_type: ActionType) -> None:
        """Check that this policy was trained for what it is to see and to do.

        Args:
            observation_space: Space of one lane's observation.
            action_type: What actions there are, and what they mean.

        Raises:
            InvalidValueError: If a space is another one, or actions of the same space mean something else.
        """
        for name, found in (
            ("observation_space", observation_space),
            ("action_space", action_type.space()),
        ):
            wanted = getattr(self.spec, name)
            described, allowed = _in_words(found), _in_words(wanted)
            if described == allowed:
                allowed += ", with the same bounds"
            check(found == wanted, f"env.{name}", described, f"{allowed}: the policy was trained for that")
        self.check_meaning(action_type)

    def environment_arguments(self) -> dict[str, Any] | None:
        """Returns arguments of the environment that it was trained in; `None` where it does not say."""
        environment = self.spec.environment
        registered = gymnasium.registry.get(str(environment.get("id")))
        if registered is None or not isinstance(environment.get("kwargs"), Mapping):
            return None
        return {**registered.kwargs, **environment["kwargs"]}

    def check_meaning(self, action_type: ActionType) -> None:
        """Check that actions mean what they meant in training.

        Args:
            action_type: What actions there are. Nothing is checked where the policy does not say which
                environment it was trained in.

        Raises:
            InvalidValueError: If they mean something else.
        """
        given = self.environment_arguments()
        if given is None:
            return
        names = {entry.name for kind in ACTION_TYPES.values() for entry in fields(kind)}  # type: ignore[arg-type]
        names |= {"action_type", "num_snapshots"}
        trained = AutoTrainConfig(
            **{name: given[name] for name in names if name in given}
        ).make_action_type()
        for name in ("name", *trained.meaning):
            found, wanted = getattr(action_type, name, None), getattr(trained, name)
            argument = "action_type" if name == "name" else name
            check(found == wanted, f"env.{argument}", found, f"{wanted}: the policy was trained for that")

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Forget the recurrent state of lanes in which a new episode has begun.

        Raises:
            InvalidValueError: If the policy was trained for another space or meaning of actions.
        """
        self.check_fits(situation.observation_space, situation.action_type)
        if self._starts is None or len(self._starts) != len(lanes):
            self._state, self._starts = None, np.zeros(len(lanes), bool)
        self._starts |= lanes

    def decide(self, situation: Situation) -> Decisions:
        """Decide for one env step, by the likeliest actions or by drawn ones; see `Policy.decide`.

        Where the policy `abstains`, it takes the action that its description names.
        """
        mask = situation.action_masks if self.spec.masked else None
        actions, self._state = self.predict(
            situation.observation, mask, self._state, self._starts, deterministic=self.deterministic
        )
        self._starts = np.zeros(situation.num_envs, bool)
        if self.spec.abstention is not None:
            actions = np.where(self.abstains(situation), self.spec.abstention["action"], actions)
        return situation.decode(actions)

    @torch.no_grad()
    def abstains(self, situation: Situation) -> np.ndarray:
        """Returns in which lanes the policy leaves the decision to one action, bool, shape (N,).

        It does where what it sees lies far from what it was trained on. A network that has diverged is its
        own business all the same, since nothing else would bring it back.

        Args:
            situation: What is known of all lanes.
        """
        if self.spec.abstention is None:
            return np.zeros(situation.num_envs, bool)
        observation = torch.from_numpy(np.ascontiguousarray(situation.observation, np.float32))
        distances = self.network.distances(observation).numpy()
        diverged = situation.rows[:, 0, -1, DIVERGED] > 0
        return (distances > self.spec.abstention["distance"]) & ~diverged

    # --- files ---

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `policy.json` and `policy.safetensors`; each appears whole or not at all.

        Args:
            folder: Folder to write them in; made if it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        replace_file(folder / WEIGHTS_NAME, safetensors.torch.save(weights))
        replace_file(folder / JSON_NAME, (json.dumps(self.spec.as_json(), indent=1) + "\n").encode())


def load_policy(folder: str | PathLike[str], *, deterministic: bool = True) -> TrainedPolicy:
    """Load a policy that `TrainedPolicy.save` wrote. No code is run by reading it.

    Two come with the package, both for `observation_layout="flat"`:

    * `"many"`, trained by PPO on digits and synthetic sets (the tasks `"many"`, an earlier form of them at
      first) with gradient descent, acts in `AutoTrain-v0`;
    * `"real_runs"`, trained by imitation on the tasks `"training_runs"` with six update rules, dense and
      convolutional networks, acts in `AutoTrainRuns-v0`, and does without a holdout, too.

    Args:
        folder: Folder with `policy.json` and `policy.safetensors`; or the name of one that comes with the
            package, where there is no such folder.
        deterministic: Whether its `decide` takes the likeliest action, or draws.

    Returns:
        The policy, on the CPU.

    Raises:
        FileNotFoundError: If a file is missing.
        InvalidValueError: If a file is damaged, of another format, or the two do not belong together; the
            message names the file.
    """
    folder = Path(folder)
    if str(folder) in PRETRAINED and not folder.exists():
        folder = PRETRAINED[str(folder)]
    json_path, weights_path = folder / JSON_NAME, folder / WEIGHTS_NAME
    for path in (json_path, weights_path):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: a policy is a folder with {JSON_NAME} and {WEIGHTS_NAME}, or one of "
                f"{', '.join(map(repr, PRETRAINED))}, which come with the package"
            )
    content = parse_json(read_limited(json_path, LARGEST_JSON), str(json_path))
    try:
        spec = PolicySpec.from_json(content)
    except InvalidValueError as error:
        raise InvalidValueError(f"{json_path} is no description of a policy: {error}") from error

    def fits(found: Mapping[str, Tensor]) -> None:
        try:
            _check_weights(_make_network(spec).state_dict(), found)
        except InvalidValueError as error:
            raise InvalidValueError(f"{weights_path} does not fit {json_path}: {error}") from error

    weights = read_tensors(weights_path, LARGEST_WEIGHTS, fits)
    for name, tensor in weights.items():
        finite = bool(tensor.isfinite().all())
        check(finite, f"{weights_path} does not fit: weights[{name!r}]", "NaN or infinite", "finite")
    return TrainedPolicy(spec, weights, deterministic)


def _make_network(spec: PolicySpec) -> PolicyNetwork:
    """Returns a network without memory: a description may ask for any amount."""
    with torch.device("meta"):
        return PolicyNetwork(spec)


def _check_weights(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    names = sorted(set(wanted) ^ set(found))
    check(not names, "weights", names, "those of the layers, no more and no less")
    for name, tensor in wanted.items():
        same = found[name].shape == tensor.shape and found[name].dtype == tensor.dtype
        described = f"{found[name].dtype} {tuple(found[name].shape)}"
        check(same, f"weights[{name!r}]", described, f"{tensor.dtype} {tuple(tensor.shape)}")


def _in_words(space: gymnasium.Space[Any]) -> str:
    return f"Box of shape {space.shape}" if isinstance(space, spaces.Box) else str(space)
