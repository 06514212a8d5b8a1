"""Many policies of one kind at once, each in a lane of its own, as evolution strategies try them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from autotrain_env.errors import check, check_whole
from autotrain_env.evolution.noise import NormalNoise, UniformNoise, draw_noise
from autotrain_env.policies.layers import MAX_NORMALIZED, PolicyNetwork
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.protocol import EpisodeCounter
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.trained import TrainedPolicy
from autotrain_env.process.actions import Decisions
from autotrain_env.process.situation import Situation
from autotrain_env.training.layout import Layout

STACKABLE_HEADS = ("categorical", "gaussian", "deterministic")
ACTION_STREAM = 1
"""Stream of the noise that actions are drawn with, apart from the one that members are made with."""


def make_spec(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden: tuple[int, ...] = (),
    *,
    recurrent: int | None = None,
    normalize: bool = True,
    masked: bool = False,
    sampled: bool = False,
    environment: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
) -> PolicySpec:
    """Describe a linear policy, a multilayer perceptron, or one with a GRU.

    Args:
        observation_space: Space of one lane's observation, a Box.
        action_space: Space of one lane's action, `Discrete` or a Box of shape (d,).
        hidden: Widths of hidden layers with tanh; none for a linear policy.
        recurrent: Width of a GRU before them; `None` for none.
        normalize: Whether observations are normalised.
        masked: Whether impossible discrete actions are masked out.
        sampled: Whether continuous actions have a learned deviation.
        environment: Id and arguments of the environment, for the record.
        versions: Versions of libraries, by name, for the record.

    Returns:
        The description. Its last layer has an output for each action, or each dimension.

    Raises:
        InvalidValueError: If a width is no whole number above 0, or continuous actions are to be masked.
    """
    assert isinstance(observation_space, spaces.Box)
    assert isinstance(action_space, (spaces.Discrete, spaces.Box))
    discrete = isinstance(action_space, spaces.Discrete)
    check(discrete or not masked, "masked", masked, "False where actions are continuous")
    for width in (*hidden, *([] if recurrent is None else [recurrent])):
        check_whole("width of a layer", width, 1)
    width = int(np.prod(observation_space.shape))
    layers: list[dict[str, Any]] = [{"type": "flatten"}]
    if normalize:
        layers.append({"type": "normalize", "size": width})
    if recurrent is not None:
        layers.append({"type": "gru", "in": width, "hidden": recurrent})
        width = recurrent
    for out in hidden:
        layers += [{"type": "linear", "in": width, "out": out}, {"type": "tanh"}]
        width = out
    count = int(action_space.n) if isinstance(action_space, spaces.Discrete) else action_space.shape[0]
    layers.append({"type": "linear", "in": width, "out": count})
    return PolicySpec(
        observation_space=observation_space,
        action_space=action_space,
        layers=layers,
        head="categorical" if discrete else "gaussian" if sampled else "deterministic",
        masked=masked,
        environment=environment or {},
        versions=versions or {},
    )


def policy_layout(spec: PolicySpec) -> Layout:
    """Lay out what is learned of a policy: all its weights but those of moments of observations.

    Args:
        spec: Description of the policy.

    Returns:
        Names and shapes, and where each lies in a vector of shape (d,).
    """
    with torch.device("meta"):
        tensors = PolicyNetwork(spec).state_dict()
    normalizers = (f"layers.{i}." for i, layer in enumerate(spec.layers) if layer["type"] == "normalize")
    fixed = ("familiarity.", *normalizers)
    return Layout.of({name: tensor for name, tensor in tensors.items() if not name.startswith(fixed)})


def single_policy(spec: PolicySpec, parameters: Tensor, moments: Moments) -> TrainedPolicy:
    """Make a `TrainedPolicy`, which takes the likeliest actions, of one policy's parameters.

    Args:
        spec: Description of the policy.
        parameters: Its parameters as `policy_layout` lays them out, floats, shape (d,).
        moments: Moments of observations, which these are normalised with.

    Returns:
        The policy, its weights copied as float32.
    """
    weights = {name: part.float() for name, part in policy_layout(spec).split(parameters).items()}
    for number, layer in enumerate(spec.layers):
        if layer["type"] == "normalize":
            weights[f"layers.{number}.mean"] = torch.from_numpy(moments.mean).float()
            weights[f"layers.{number}.deviation"] = torch.from_numpy(moments.deviation()).float()
    return TrainedPolicy(spec, weights)


class StackedPolicies(EpisodeCounter):
    """Policies of one kind for `evaluate_policy`: policy i decides in lane i.

    They are evaluated in blocks of a fixed size, the last one padded, so that what a policy decides does
    not depend on how many others there are, to the last bit.

    Args:
        spec: Description of the policies.
        parameters: Parameters as `policy_layout` lays them out, float32, shape (n, d).
        moments: Moments of observations, which these are normalised with.
        block_size: Number of policies evaluated at once.
        deterministic: Whether the likeliest action is taken, or one is drawn. What is drawn is the same for
            all policies in the same episode and step: common random numbers.
        seed: Seed of the noise that actions are drawn with.
        generation: Generation that the noise belongs to: each has noise of its own.

    Raises:
        InvalidValueError: If parameters are of another shape, or the kind cannot be stacked.
    """

    def __init__(
        self,
        spec: PolicySpec,
        parameters: Tensor,
        moments: Moments,
        block_size: int = 32,
        *,
        deterministic: bool = True,
        seed: int = 0,
        generation: int = 0,
    ) -> None:
        super().__init__()
        check_whole("block_size", block_size, 1)
        check(
            spec.head in STACKABLE_HEADS, "spec.head", spec.head, f"one of {STACKABLE_HEADS}, to be stacked"
        )
        check(spec.abstention is None, "spec.abstention", spec.abstention, "None, to be stacked")
        known = ("flatten", "normalize", "linear", "gru", "tanh", "relu")
        for layer in spec.layers:
            check(layer["type"] in known, "layer", layer["type"], f"one of {known}, to be stacked")
        layout = policy_layout(spec)
        check(
            parameters.ndim == 2 and parameters.shape[1] == layout.size and len(parameters) > 0,
            "parameters",
            tuple(parameters.shape),
            f"of shape (n, {layout.size})",
        )
        self.spec = spec
        self.count = len(parameters)
        self.block_size = block_size
        self.deterministic = deterministic
        self.seed, self.generation = seed, generation
        self.mean = torch.from_numpy(moments.mean).float()
        self.deviation = torch.from_numpy(moments.deviation()).float()
        self.moments = [Moments.empty(len(moments.mean)) for _ in range(-(-self.count // block_size))]
        """Moments of the observations that each block has seen."""
        padding = parameters[-1:].expand(-self.count % block_size, -1)
        blocks = torch.cat((parameters, padding)).split(block_size)
        self._weights = [layout.split(block.contiguous()) for block in blocks]
        hidden = next((layer["hidden"] for layer in spec.layers if layer["type"] == "gru"), 0)
        self._state = torch.zeros(len(blocks) * block_size, hidden)
        self._step = np.zeros(self.count, np.int64)

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Forget the recurrent state of lanes in which a new episode has begun.

        Raises:
            InvalidValueError: If there is not one lane for each policy, or a space is another one.
        """
        check(
            situation.num_envs == self.count,
            "env.num_envs",
            situation.num_envs,
            f"{self.count}, one for each policy",
        )
        for name, found in (
            ("observation_space", situation.observation_space),
            ("action_space", situation.action_type.space()),
        ):
            wanted = getattr(self.spec, name)
            check(found == wanted, f"env.{name}", found, f"{wanted}, as the policies were made for")
        super().reset(situation, lanes)
        self._step[lanes] = 0
        self._state[: self.count][torch.from_numpy(lanes)] = 0

    @torch.no_grad()
    def decide(self, situation: Situation) -> Decisions:
        """Decide for one env step, and add what is observed in lanes that run to the moments.

        Args:
            situation: What is known of all lanes.

        Returns:
            Decisions for all lanes, arrays of shape (N,); policy i's are in lane i.
        """
        running = situation.running
        flat = situation.rows.reshape(self.count, -1)
        mask = situation.action_masks if self.spec.masked else None
        noise = None if self.deterministic else self._noise()
        actions = []
        for number, start in enumerate(range(0, self.count, self.block_size)):
            block = slice(start, start + self.block_size)
            self.moments[number] = self.moments[number].merge(Moments.of(flat[block][running[block]]))
            values = self._forward(number, flat[block])
            actions.append(self._act(number, values, _part(mask, block), _part(noise, block)))
        self._step += 1
        return situation.decode(np.concatenate(actions))

    def _forward(self, number: int, observation: np.ndarray) -> Tensor:
        """Returns numbers for the head of a block's policies, padded, shape (block_size, …)."""
        weights = self._weights[number]
        block = slice(number * self.block_size, (number + 1) * self.block_size)
        values = torch.zeros(self.block_size, observation.shape[1])
        values[: len(observation)] = torch.from_numpy(observation)
        for at, layer in enumerate(self.spec.layers):
            kind, name = layer["type"], f"layers.{at}"
            if kind == "normalize":
                values = ((values - self.mean) / self.deviation).clamp(-MAX_NORMALIZED, MAX_NORMALIZED)
            elif kind == "linear":
                values = _apply(weights[f"{name}.weight"], weights[f"{name}.bias"], values)
            elif kind == "gru":
                values = _gru(weights, name, values, self._state[block])
                self._state[block] = values
            elif kind != "flatten":
                values = values.tanh() if kind == "tanh" else values.relu()
        return values

    def _act(
        self, number: int, values: Tensor, mask: np.ndarray | None, noise: Tensor | None
    ) -> np.ndarray:
        count = min(self.block_size, self.count - number * self.block_size)
        values = values[:count]
        if self.spec.head == "categorical":
            if noise is not None:  # the largest of logits with Gumbel noise is a draw from the softmax
                values = values - torch.log(-torch.log(noise))
            if mask is not None:
                values = values.masked_fill(~torch.from_numpy(mask), -torch.inf)
            return values.argmax(1).numpy()
        if noise is not None and self.spec.head == "gaussian":
            values = values + self._weights[number]["log_std"][:count].exp() * noise
        space = self.spec.action_space
        assert isinstance(space, spaces.Box)
        return np.clip(values.numpy(), space.low, space.high).astype(np.float32)

    def _noise(self) -> Tensor:
        """Draw uniform numbers in (0, 1) for discrete actions, else normal ones, shape (n, actions)."""
        discrete = self.spec.head == "categorical"
        episode = self.episode // self.count
        drawn = torch.empty(self.count, self.spec.num_actions)
        for pair in np.unique(np.stack((episode, self._step)), axis=1).T.tolist():
            row = pair[0] << 32 | pair[1]
            kind = UniformNoise() if discrete else NormalNoise()
            rows, size = range(row, row + 1), drawn.shape[1]
            numbers = draw_noise(kind, self.seed, self.generation, rows, size, ACTION_STREAM)
            lanes = (episode == pair[0]) & (self._step == pair[1])
            drawn[torch.from_numpy(lanes)] = numbers / (2 * 3**0.5) + 0.5 if discrete else numbers
        return drawn


def _part(values: Any, block: slice) -> Any:
    return None if values is None else values[block]


def _apply(weight: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """Apply a layer of each policy to its own row: (n, out, in), (n, out), (n, in) to (n, out)."""
    return torch.baddbmm(bias.unsqueeze(2), weight, values.unsqueeze(2)).squeeze(2)


def _gru(weights: Mapping[str, Tensor], name: str, values: Tensor, state: Tensor) -> Tensor:
    """Make a step of each policy's `torch.nn.GRU`: its next states, shape (n, hidden)."""
    from_input, from_state = (
        _apply(weights[f"{name}.weight_{kind}_l0"], weights[f"{name}.bias_{kind}_l0"], of)
        for kind, of in (("ih", values), ("hh", state))
    )
    reset, update, new = from_input.chunk(3, 1)
    reset_state, update_state, new_state = from_state.chunk(3, 1)
    update = torch.sigmoid(update + update_state)
    new = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
    return (1 - update) * new + update * state
