"""What a policy is made of: the content of `policy.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from torch import nn

from autotrain_env.errors import check, check_name, check_number, check_whole, unknown_name
from autotrain_env.process.observations import NUM_METRICS
from autotrain_env.schemas import (
    Kind,
    anything,
    column,
    flag,
    listed,
    mapping,
    number,
    one_of,
    structure,
    text,
    whole,
)

POLICY_FORMAT = 1
"""Version of the content of `policy.json`."""
HEADS = ("categorical", "values", "quantiles", "gaussian", "squashed_gaussian", "deterministic")
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "flatten": nn.Flatten}
LAYERS = ("linear", "lstm", "gru", "state_attention", "normalize", *ACTIVATIONS)
RECURRENT = {"lstm": 2, "gru": 1}
"""Kinds of recurrent layers, and how many arrays the state of each is made of."""
WIDEST, MOST_LAYERS, MOST_DIMENSIONS = 2**16, 100, 8
"""Width of a layer, number of layers and dimensions of an observation at most."""
_OBSERVATION_BOUND = 1e9
_IN_WORDS = {"in": "input", "out": "output"}


@dataclass(frozen=True)
class PolicySpec:
    """What a policy is, apart from its weights; the content of `policy.json`.

    Args:
        observation_space: Space of one lane's observation.
        action_space: Space of one lane's action: `Discrete`, or a `Box` of shape (d,).
        layers: The layers in their order, each `{"type": "linear", "in": …, "out": …}`,
            `{"type": "lstm" | "gru", "in": …, "hidden": …}` (one at most),
            `{"type": "state_attention", "rows": …, "windows": …, "width": …, "heads": …}` (and `"metrics"`
            where they are not the basic ones),
            `{"type": "normalize", "size": …}`, or `{"type": "tanh" | "relu" | "flatten"}`.
        head: How the last layer's numbers become actions. Discrete: `"categorical"` (logits), `"values"`,
            `"quantiles"` (of values, `num_quantiles` by actions). Box: `"gaussian"` (means; the weights
            hold `log_std`), `"squashed_gaussian"` (means and logarithms of deviations, and tanh of what is
            drawn), `"deterministic"`.
        masked: Whether it was trained with impossible actions masked out.
        exploration: Probability of a random action where actions of `"values"` or `"quantiles"` are drawn.
        abstention: `{"distance": …, "action": …}`: where an observation lies farther than that from those
            of training (see `Familiarity`), the policy takes that discrete action, whatever it would do;
            `None` for nowhere. A normalising layer comes before all but `"flatten"`.
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
    abstention: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that layers follow on each other and fit the spaces."""
        check_name("head", self.head, HEADS)
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
        check_number("exploration", self.exploration, lambda share: 0 <= share <= 1, "in [0, 1]")
        if self.abstention is not None:
            _check_abstention(
                self.abstention, self.action_space, [layer.get("type") for layer in self.layers]
            )
        width = int(np.prod(self.observation_space.shape))
        for layer in self.layers:
            kind = layer.get("type")
            for name in ("size", "in", "out", "hidden", "rows", "windows", "width", "heads", "metrics"):
                if name in layer:
                    check_whole(f"{kind} layer's {_IN_WORDS.get(name, name)}", layer[name], 1, WIDEST)
            if kind == "normalize":
                check(layer["size"] == width, "normalize layer's size", layer["size"], f"{width}")
            elif kind == "linear" or kind in RECURRENT:
                check(layer["in"] == width, f"{kind} layer's input", layer["in"], f"{width}")
                width = layer["out" if kind == "linear" else "hidden"]
            elif kind == "state_attention":
                metrics = layer.get("metrics", NUM_METRICS)
                check(
                    layer["rows"] * layer["windows"] * metrics == width,
                    "state_attention layer's rows, windows",
                    (layer["rows"], layer["windows"]),
                    f"{width} numbers with {metrics} metrics",
                )
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
            **({} if self.abstention is None else {"abstention": dict(self.abstention)}),
            "environment": dict(self.environment),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "PolicySpec":
        """Make a description of what `as_json` returned.

        Args:
            content: The content of `policy.json`.

        Raises:
            InvalidValueError: If the format is another, an entry is missing, or a value is not allowed.
        """
        if isinstance(content, Mapping) and "format" in content:
            one_of(POLICY_FORMAT)("format", content["format"])
        checked = _CONTENT("content", content)
        return cls(
            observation_space=cast(spaces.Box, _space("observation_space", checked["observation_space"])),
            action_space=_space("action_space", checked["action_space"]),
            **{name: checked[name] for name in (*_CONTENT_OF_SPEC, *_OPTIONAL) if name in checked},
        )


def _check_abstention(
    abstention: Mapping[str, Any], action_space: gymnasium.Space[Any], kinds: Sequence[Any]
) -> None:
    names = sorted(abstention)
    check(names == ["action", "distance"], "abstention's entries", names, "action and distance")
    check_number("abstention's distance", abstention["distance"], lambda far: far > 0, "above 0")
    discrete = isinstance(action_space, spaces.Discrete)
    check(discrete, "abstention", abstention, "None where actions are continuous")
    assert isinstance(action_space, spaces.Discrete)
    check_whole("abstention's action", abstention["action"], 0, int(action_space.n) - 1)
    first = [kind for kind in kinds if kind != "flatten"][:1]
    check(first == ["normalize"], "first layer", first, "normalize, for abstention")


def _space_as_json(space: gymnasium.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    assert isinstance(space, spaces.Box)
    bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
    return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **bounds}


_BOX: Kind = structure(
    {
        "type": one_of("Box"),
        "dtype": one_of("float32", "float64"),
        "shape": listed(whole(1, WIDEST), MOST_DIMENSIONS, least=1),
        "low": anything,  # nested lists, as the shape says
        "high": anything,
    }
)
_DISCRETE: Kind = structure(
    {"type": one_of("Discrete"), "n": whole(1, WIDEST), "start": whole(-WIDEST, WIDEST)}
)


def _space(field: str, content: Any) -> Any:
    """Returns the space that a part of a `policy.json` stands for; as a `Kind`."""
    kinds = {"Box": _BOX, "Discrete": _DISCRETE}
    kind = content.get("type") if isinstance(content, Mapping) else None
    if not (isinstance(kind, str) and kind in kinds):
        raise unknown_name("space", kind, kinds)
    checked = kinds[kind](field, content)
    if kind == "Discrete":
        return spaces.Discrete(checked["n"], start=checked["start"])
    shape, dtype = tuple(checked["shape"]), np.dtype(checked["dtype"])
    check(int(np.prod(shape)) <= WIDEST, f"{field}.shape", shape, f"of at most {WIDEST:,} numbers")
    low, high = (_bound(f"{field}.{name}", checked[name], shape) for name in ("low", "high"))
    check(bool((low <= high).all()), f"{field}.low", checked["low"], "nowhere above high")
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)


def _bound(field: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns nested lists of numbers as an array of a shape."""
    flat = [values]
    for size in shape:
        fits = all(isinstance(part, list) and len(part) == size for part in flat)
        check(fits, field, values, f"numbers in lists of shape {shape}")
        flat = [entry for part in flat for entry in part]
    array = column()(field, flat).reshape(shape)
    check(
        bool((np.abs(array) <= _OBSERVATION_BOUND).all()), field, values, f"at most {_OBSERVATION_BOUND:g}"
    )
    return array


_SIZE = whole(1, WIDEST)
_LAYERS_FIELDS: dict[str, dict[str, Kind]] = {
    "linear": {"in": _SIZE, "out": _SIZE},
    "lstm": {"in": _SIZE, "hidden": _SIZE},
    "gru": {"in": _SIZE, "hidden": _SIZE},
    "state_attention": {"rows": _SIZE, "windows": _SIZE, "width": _SIZE, "heads": _SIZE},
    "normalize": {"size": _SIZE},
    **{name: {} for name in ACTIVATIONS},
}


def _layer(field: str, content: Any) -> Any:
    """Returns a layer of a `policy.json`, checked; as a `Kind`."""
    check(isinstance(content, Mapping), field, content, "an object")
    check_name("layer", content.get("type"), LAYERS)
    kind = content["type"]
    optional = {"metrics": _SIZE} if kind == "state_attention" else {}
    return structure({"type": one_of(kind), **_LAYERS_FIELDS[kind]}, optional)(field, content)


_CONTENT_OF_SPEC: dict[str, Kind] = {
    "layers": listed(_layer, MOST_LAYERS),
    "head": one_of(*HEADS),
    "masked": flag,
    "exploration": number(0, 1),
    "environment": mapping(anything),
    "versions": mapping(text(200)),
}
_OPTIONAL: dict[str, Kind] = {
    "abstention": structure({"distance": number(0, WIDEST), "action": whole(0, WIDEST)})
}
_CONTENT: Kind = structure(
    {
        "format": one_of(POLICY_FORMAT),
        "observation_space": anything,
        "action_space": anything,
        **_CONTENT_OF_SPEC,
    },
    _OPTIONAL,
)
