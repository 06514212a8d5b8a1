"""What a policy is made of: the content of `policy.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from torch import nn

from autotrain_env.errors import check, check_whole, unknown_name
from autotrain_env.process.observations import NUM_METRICS

POLICY_FORMAT = 1
"""Version of the content of `policy.json`."""
HEADS = ("categorical", "values", "quantiles", "gaussian", "squashed_gaussian", "deterministic")
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "flatten": nn.Flatten}
LAYERS = ("linear", "lstm", "gru", "state_attention", "normalize", *ACTIVATIONS)
RECURRENT = {"lstm": 2, "gru": 1}
"""Kinds of recurrent layers, and how many arrays the state of each is made of."""


@dataclass(frozen=True)
class PolicySpec:
    """What a policy is, apart from its weights; the content of `policy.json`.

    Args:
        observation_space: Space of one lane's observation.
        action_space: Space of one lane's action: `Discrete`, or a `Box` of shape (d,).
        layers: The layers in their order, each `{"type": "linear", "in": …, "out": …}`,
            `{"type": "lstm" | "gru", "in": …, "hidden": …}` (one at most),
            `{"type": "state_attention", "rows": …, "windows": …, "width": …, "heads": …}`,
            `{"type": "normalize", "size": …}`, or `{"type": "tanh" | "relu" | "flatten"}`.
        head: How the last layer's numbers become actions. Discrete: `"categorical"` (logits), `"values"`,
            `"quantiles"` (of values, `num_quantiles` by actions). Box: `"gaussian"` (means; the weights
            hold `log_std`), `"squashed_gaussian"` (means and logarithms of deviations, and tanh of what is
            drawn), `"deterministic"`.
        masked: Whether it was trained with impossible actions masked out.
        exploration: Probability of a random action where actions of `"values"` or `"quantiles"` are drawn.
        environment: Id and keyword arguments that it was trained with, for the record.
        versions: Versions of the libraries it was trained with, by name, for the record.

    Raises:
        InvalidValueError: If a value is not allowed, or a layer does not fit what is before it.
        KeyError: If a layer lacks an entry.
    """

    observation_space: spaces.Box
    action_space: spaces.Discrete | spaces.Box
    layers: Sequence[Mapping[str, Any]]
    head: str
    masked: bool = False
    exploration: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that layers follow on each other and fit the spaces."""
        if self.head not in HEADS:
            raise unknown_name("head", self.head, HEADS)
        discrete = self.head in HEADS[:3]
        check(
            isinstance(self.action_space, spaces.Discrete) == discrete,
            "action_space",
            self.action_space,
            f"{'Discrete' if discrete else 'a Box'} where head={self.head!r}",
        )
        for name in ("environment", "versions"):
            check(isinstance(getattr(self, name), Mapping), name, getattr(self, name), "an object")
        check(isinstance(self.masked, bool), "masked", self.masked, "True or False")
        check(0 <= self.exploration <= 1, "exploration", self.exploration, "in [0, 1]")
        width = int(np.prod(self.observation_space.shape))
        for layer in self.layers:
            kind = layer.get("type")
            if kind == "normalize":
                check(layer["size"] == width, "normalize layer's size", layer["size"], f"{width}")
            elif kind == "linear" or kind in RECURRENT:
                check(layer["in"] == width, f"{kind} layer's input", layer["in"], f"{width}")
                width = layer["out" if kind == "linear" else "hidden"]
                check_whole(f"{kind} layer's output", width, 1)
            elif kind == "state_attention":
                check(
                    layer["rows"] * layer["windows"] * NUM_METRICS == width,
                    "state_attention layer's rows, windows",
                    (layer["rows"], layer["windows"]),
                    f"{width} numbers with {NUM_METRICS} metrics",
                )
                check_whole("state_attention layer's width", layer["width"], 1)
                check_whole("state_attention layer's heads", layer["heads"], 1)
                check(layer["width"] % layer["heads"] == 0, "heads", layer["heads"], "a divisor of width")
                width = layer["rows"] * layer["width"]
            elif kind not in ACTIVATIONS:
                raise unknown_name("layer", kind, LAYERS)
        recurrent = sum(layer["type"] in RECURRENT for layer in self.layers)
        check(recurrent <= 1, "layers", f"{recurrent} recurrent layers", "one recurrent layer at most")
        count = self.num_actions
        wanted = {"squashed_gaussian": 2 * count}.get(self.head, count)
        fits = width % count == 0 and width > 0 if self.head == "quantiles" else width == wanted
        check(
            fits, "last layer's output", width, f"{wanted}, as head={self.head!r} and the action space need"
        )

    @property
    def num_actions(self) -> int:
        """Returns the number of discrete actions, or of dimensions."""
        if isinstance(self.action_space, spaces.Discrete):
            return int(self.action_space.n)
        return int(np.prod(self.action_space.shape))

    def as_json(self) -> dict[str, Any]:
        """Returns the content of `policy.json`: plain numbers and names."""
        return {
            "format": POLICY_FORMAT,
            "observation_space": _space_as_json(self.observation_space),
            "action_space": _space_as_json(self.action_space),
            "layers": [dict(layer) for layer in self.layers],
            "head": self.head,
            "masked": self.masked,
            "exploration": self.exploration,
            "environment": dict(self.environment),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "PolicySpec":
        """Make a description of what `as_json` returned.

        Args:
            content: The content of `policy.json`.

        Raises:
            InvalidValueError: If the format is another, or a value is not allowed.
            KeyError: If an entry is missing.
        """
        check(content["format"] == POLICY_FORMAT, "format", content["format"], f"{POLICY_FORMAT}")
        known = ("format", *(entry.name for entry in fields(cls)))
        for name in content:
            if name not in known:
                raise unknown_name("entry", name, known)
        return cls(
            observation_space=cast(spaces.Box, _space_from_json(content["observation_space"])),
            action_space=_space_from_json(content["action_space"]),
            layers=content["layers"],
            head=content["head"],
            masked=content["masked"],
            exploration=content["exploration"],
            environment=content["environment"],
            versions=content["versions"],
        )


def _space_as_json(space: gymnasium.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    assert isinstance(space, spaces.Box)
    bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
    return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **bounds}


def _space_from_json(content: Mapping[str, Any]) -> Any:
    if content["type"] == "Discrete":
        return spaces.Discrete(content["n"], start=content["start"])
    if content["type"] != "Box":
        raise unknown_name("space", content["type"], ("Discrete", "Box"))
    dtype = np.dtype(content["dtype"])
    low, high = (np.array(content[name], dtype).reshape(content["shape"]) for name in ("low", "high"))
    return spaces.Box(low, high, dtype=dtype.type)
