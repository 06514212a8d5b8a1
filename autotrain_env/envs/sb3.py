"""Stable-Baselines3 on the batched core: one `VecEnv` instead of N processes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import MissingPackageError, check, check_whole

try:
    from stable_baselines3.common.vec_env import VecEnv, VecMonitor
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
except ImportError as error:
    raise MissingPackageError(
        "make_sb3_env needs Stable-Baselines3: install it with `pip install stable-baselines3`, or "
        "this package with its extra `agents`"
    ) from error


class AutoTrainVecEnv(VecEnv):
    """The vector environment behind Stable-Baselines3's interface.

    Lanes are reset in the step in which they end; `infos` then holds the end of the old episode, with
    `terminal_observation` and `TimeLimit.truncated`, and `reset_infos` the beginning of the new one.

    Args:
        env: A vector environment with `autoreset_mode` `SAME_STEP`.
        group_size: Lanes that begin every episode with the same seed: lanes 0 … G-1 are seeded alike, and
            so on.

    Raises:
        InvalidValueError: If it is no divisor of the number of lanes.
    """

    def __init__(self, env: AutoTrainVectorEnv, group_size: int = 1) -> None:
        check_whole("group_size", group_size, 1)
        allowed = f"a divisor of num_envs={env.num_envs}"
        check(env.num_envs % group_size == 0, "group_size", group_size, allowed)
        self.env = env
        self.group_size = group_size
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata |= {name: value for name, value in env.metadata.items() if name != "render_modes"}

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the lanes for the next `reset`: group g with `seed + g`; see `VecEnv.seed`."""
        super().seed(seed)
        first = self._seeds[0]
        assert first is not None
        self._seeds = [first + lane // self.group_size for lane in range(self.num_envs)]
        return self._seeds

    def reset(self) -> np.ndarray:
        """Begin new episodes in all lanes, and return their observations, float32, shape (N, …)."""
        tasks = [(options or {}).get("task") for options in self._options]
        observations, info = self.env.reset(seed=self._seeds, options={"task": tasks})
        self.reset_infos = per_lane(info, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions of the coming step, shape (N, …)."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Carry the actions out.

        Returns:
            Observations, shape (N, …), rewards, float32, shape (N,), dones, bool, shape (N,), and one
            dictionary of information for each lane; see the class.
        """
        observations, rewards, terminated, truncated, info = self.env.step(self._actions)
        final_obs, final_info = info.pop("final_obs", None), info.pop("final_info", {})
        del_masks = ("_final_obs", "_final_info")
        infos = per_lane({key: value for key, value in info.items() if key not in del_masks}, self.num_envs)
        dones = terminated | truncated
        if dones.any():
            finals = per_lane(final_info, self.num_envs)
            for lane in np.flatnonzero(dones).tolist():
                self.reset_infos[lane] = infos[lane]
                infos[lane] = finals[lane] | {"terminal_observation": final_obs[lane]}
        for lane_info, over in zip(infos, (truncated & ~terminated).tolist(), strict=True):
            lane_info["TimeLimit.truncated"] = over
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute for every lane asked for; of a method, what gives that lane's share."""
        lanes = list(self._get_indices(indices))
        value = getattr(self.env, attr_name)
        return (
            [partial(self._call, value, lane) for lane in lanes]
            if callable(value)
            else [value] * len(lanes)
        )

    def _call(self, method: Callable[..., Any], lane: int, *args: Any, **kwargs: Any) -> Any:
        return self._shares(method(*args, **kwargs))[lane]

    def _shares(self, result: Any) -> Sequence[Any]:
        """Returns each lane's share: its entry of a result with one per lane, else the whole result."""
        shared = isinstance(result, (np.ndarray, tuple, list)) and len(result) == self.num_envs
        return result if shared else [result] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse, since lanes share one environment.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"set_attr({attr_name!r}): lanes share one environment; set what you need on `.env`"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment once, and give each lane its share of the result.

        Args:
            method_name: Name of the method.
            *method_args: Arguments of the method.
            indices: The lanes whose shares are wanted; `None` for all.
            **method_kwargs: Keyword arguments of the method.

        Returns:
            For each lane its entry of a result with one per lane, else the whole result.
        """
        shares = self._shares(getattr(self.env, method_name)(*method_args, **method_kwargs))
        return [shares[lane] for lane in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Returns `False` for every lane asked for: none has a wrapper of its own."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw every lane's run so far (`render_mode="rgb_array"`), or return `None` for each."""
        return list(self.env.render() or [None] * self.num_envs)


def per_lane(info: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Split a vector environment's information into one dictionary per lane.

    Args:
        info: Arrays of shape (N,) with masks `_key` beside them, or dictionaries of such.
        num_envs: Number of lanes (N).

    Returns:
        A dictionary for each lane, with the keys that its masks mark.
    """
    lanes: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, value in info.items():
        if key.startswith("_"):
            continue
        nested = isinstance(value, dict)
        values = per_lane(value, num_envs) if nested else value.tolist()
        for lane in np.flatnonzero(info[f"_{key}"]).tolist():
            lanes[lane][key] = values[lane]
    return lanes


def make_sb3_env(
    env_id: str = "AutoTrain-v0", num_envs: int = 64, *, group_size: int = 1, **kwargs: Any
) -> VecMonitor:
    """Make a Stable-Baselines3 environment on the batched core, with episode statistics.

    Args:
        env_id: Id of a registered environment.
        num_envs: Number of lanes (N).
        group_size: Lanes that meet the same tasks; see `AutoTrainVecEnv`.
        kwargs: Arguments of the environment; see `AutoTrainConfig`.

    Returns:
        A `VecMonitor` around an `AutoTrainVecEnv`.
    """
    env = gymnasium.make_vec(
        env_id,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        **kwargs,
    )
    assert isinstance(env, AutoTrainVectorEnv)
    monitored = VecMonitor(AutoTrainVecEnv(env, group_size))
    monitored.metadata = monitored.venv.metadata  # of which VecEnvs around others keep the modes alone
    return monitored
