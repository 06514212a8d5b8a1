"""The vector environment: the batched core with N lanes."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import nn

from autotrain_env.envs.env import (
    RENDER_FPS,
    check_options,
    check_render_mode,
    check_task,
    draw_episode_seed,
    lane_history,
    render_lane,
    usable_render_modes,
)
from autotrain_env.envs.time_limit import with_time_limit
from autotrain_env.errors import InvalidTypeError, check, unknown_name
from autotrain_env.process.actions import Decisions, check_actions
from autotrain_env.process.config import make_config
from autotrain_env.process.core import AutoTrainCore
from autotrain_env.process.descriptions import check_same
from autotrain_env.process.observations import observation_space
from autotrain_env.process.record import History
from autotrain_env.process.situation import Situation
from autotrain_env.process.tasks import Task
from autotrain_env.viewing.window import Window, tile


class AutoTrainVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """N networks in training, side by side; lane i behaves as an `AutoTrainEnv` seeded `seed + i`.

    Made by `gymnasium.make_vec("AutoTrain-v0", num_envs=N)`. What a lane does and shows is specified by
    `AutoTrainEnv`; `info` has arrays of shape (N,), and beside each key a mask `_key` of the lanes it is
    true of.

    | `autoreset_mode` | when a lane's episode has ended |
    |---|---|
    | `NEXT_STEP` (default) | the next step resets it, whatever the action; the reward of that step is 0 |
    | `SAME_STEP` | it is reset in the same step; `final_obs` and `final_info` hold its end |
    | `DISABLED` | it idles (reward 0, flags and observation kept) until `reset` with a `reset_mask` |

    Args:
        num_envs: Number of lanes (N).
        autoreset_mode: An `AutoresetMode`, or its value.
        render_mode: `"ansi"` for text, `"rgb_array"` for pictures, `"human"` for a window that shows all
            lanes, `None` for none of them.
        max_episode_steps: Another name of `truncate_after`; of the two the smaller one counts.
        kwargs: Arguments of `AutoTrainConfig`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.config = make_config(with_time_limit(kwargs, max_episode_steps))
        self.num_envs = num_envs
        modes = {mode.value: mode for mode in AutoresetMode}
        if autoreset_mode not in (*modes, *AutoresetMode):
            raise unknown_name("autoreset_mode", autoreset_mode, modes)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = check_render_mode(render_mode)
        self._window = Window("AutoTrain", RENDER_FPS) if render_mode == "human" else None
        self.metadata = {
            "render_modes": usable_render_modes(),
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        self.core = AutoTrainCore(self.config, num_envs)
        self.single_observation_space = observation_space(
            self.config.num_snapshots,
            self.config.history_length,
            self.config.observation_layout,
            self.config.metrics,
        )
        self.single_action_space = self.core.action_type.space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs

    # --- seeds ---

    def _generator(self, lane: int) -> np.random.Generator:
        generator = self._generators[lane]
        if generator is None:
            generator, self._seeds[lane] = np_random()
            self._generators[lane] = generator
        return generator

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Returns the lanes' generators."""
        return tuple(self._generator(lane) for lane in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Returns the seeds of the lanes' generators."""
        return tuple(self._seeds) if self.np_random else ()

    def _lane_seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + lane for lane in range(self.num_envs)]
        check(len(seed) == self.num_envs, "seed", seed, f"one number, or a list of {self.num_envs}")
        return seed

    def _seeded(self, lane: int, seed: int | None) -> tuple[np.random.Generator, int]:
        """Returns the generator that a lane would go on with, not yet in its place, and its seed."""
        if seed is not None:
            return np_random(int(seed))
        return copy.deepcopy(self._generator(lane)), self._seeds[lane]

    # --- reset and step ---

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes.

        Args:
            seed: Seed of the first lane, where lane i is seeded `seed + i`; or a list of N seeds, `None`
                among them for lanes that go on with the stream they have; `None` for all of those.
            options: Options by name. `reset_mask`: which lanes to reset, bool array of shape (N,), all by
                default. `task`: a `Task` for them all, or a list of N (`None` for those to be drawn).

        Returns:
            Observations of all lanes, and information on those that were reset.

        Raises:
            InvalidTypeError: If the mask is no array of bool, or a task is no `Task`.
            InvalidValueError: If an option is unknown, a length or shape is not N, or a task does not fit;
                then nothing has changed.
        """
        options = check_options(options, ("reset_mask", "task"))
        lanes = np.flatnonzero(self._reset_mask(options.get("reset_mask")))
        tasks = self._tasks(options.get("task"))
        seeds = self._lane_seeds(seed)
        seeded = [self._seeded(lane, seeds[lane]) for lane in lanes.tolist()]
        drawn = [draw_episode_seed(generator) for generator, _ in seeded]
        info = self.core.reset(lanes, drawn, [tasks[lane] for lane in lanes])
        # Only now: a task that does not fit must leave everything as it was.
        for lane, (generator, lane_seed) in zip(lanes.tolist(), seeded, strict=True):
            self._generators[lane], self._seeds[lane] = generator, lane_seed
        self._show()
        return self.core.observation(), with_masks(info, _mask(self.num_envs, lanes))

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise InvalidTypeError(f"options['reset_mask']={mask!r} must be a numpy array of bool")
        check(
            mask.shape == (self.num_envs,) and bool(mask.any()),
            "options['reset_mask']",
            mask,
            f"of shape ({self.num_envs},), with at least one lane to reset",
        )
        return mask

    def _tasks(self, tasks: Any) -> list[Task | None]:
        if not isinstance(tasks, (list, tuple)):
            tasks = [tasks] * self.num_envs
        check(len(tasks) == self.num_envs, "options['task']", tasks, f"one task, or {self.num_envs}")
        return [check_task(task) for task in tasks]

    def _reset_lanes(self, lanes: np.ndarray) -> dict[str, Any]:
        seeds = [draw_episode_seed(self._generator(lane)) for lane in lanes.tolist()]
        return with_masks(self.core.reset(lanes, seeds), _mask(self.num_envs, lanes))

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Carry out one action in every lane that runs.

        Args:
            actions: Actions of `action_space`, shape (N, …); lanes that have ended ignore theirs.

        Returns:
            Observations, rewards (float64), terminated and truncated flags (bool), each with N as its
            leading dimension, and information.

        Raises:
            ResetNeeded: If a lane was never reset, or none is left that runs.
            InvalidTypeError: If the actions are of the wrong kind.
            InvalidValueError: If they have the wrong shape or lie outside the action space.
        """
        checked = check_actions(self.action_space, actions)
        self._check_started()
        return self.step_decisions(self.core.decode(checked))

    def step_decisions(
        self, decisions: Decisions
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Carry out decisions instead of actions, as schedules make them.

        Args:
            decisions: Arrays over all N lanes; lanes that have ended ignore theirs.

        Returns:
            What `step` returns.

        Raises:
            ResetNeeded: If a lane was never reset, or none is left that runs.
            InvalidValueError: If a decision cannot be carried out; see `Decisions.check`.
        """
        self._check_started()
        ended_before = ~self.core.lanes.running
        result = self.core.step(decisions)
        info = with_masks(result.info, result.ran)
        terminated, truncated = result.terminated, result.truncated
        ended = result.ran & (terminated | truncated)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            if ended.any():
                info = self._reset_in_same_step(ended, result.info, result.final, info)
        else:
            if result.final:
                info |= with_masks(result.final, ended)
            if self.autoreset_mode == AutoresetMode.NEXT_STEP and ended_before.any():
                reset_info = self._reset_lanes(np.flatnonzero(ended_before))
                info = _merge(info, reset_info, ended_before)
                terminated, truncated = terminated & ~ended_before, truncated & ~ended_before
        self._show()
        return self.core.observation(), result.reward, terminated, truncated, info

    def _check_started(self) -> None:
        if not self.core.lanes.begun.all():
            raise ResetNeeded("step() was called before every lane was reset")
        if self.autoreset_mode == AutoresetMode.DISABLED and not self.core.lanes.running.any():
            raise ResetNeeded("step() was called with all lanes ended; reset some of them first")

    def _reset_in_same_step(
        self,
        ended: np.ndarray,
        step_info: dict[str, Any],
        final: dict[str, Any],
        info: dict[str, Any],
    ) -> dict[str, Any]:
        final_obs = np.full(self.num_envs, None, dtype=object)
        observations = self.core.observation()
        for lane in np.flatnonzero(ended):
            final_obs[lane] = observations[lane].copy()
        reset_info = self._reset_lanes(np.flatnonzero(ended))
        return _merge(info, reset_info, ended) | {
            "final_obs": final_obs,
            "_final_obs": ended.copy(),
            "final_info": with_masks(copy.copy(step_info) | final, ended),
            "_final_info": ended.copy(),
        }

    # --- beyond Gymnasium ---

    def action_masks(self) -> np.ndarray:
        """Returns which discrete actions are possible now, bool, shape (N, number of actions).

        Raises:
            InvalidTypeError: If actions are continuous.
        """
        return self.core.action_masks()

    def situation(self) -> Situation:
        """Returns what policies decide on; every lane must have been reset."""
        return self.core.situation()

    def set_task_level(self, level: int) -> None:
        """Set the curriculum's level for episodes that begin from now on.

        Args:
            level: The level, from 0, the easiest.

        Raises:
            InvalidValueError: If there is no such level.
        """
        self.core.set_task_level(level)

    def history(self, lane: int) -> History:
        """Returns what a lane's episode was so far, as `AutoTrainEnv.history` does.

        A lane that has been reset has begun its next episode: where lanes reset by themselves,
        `history_in_info=True` hands the whole episode over at its end.

        Args:
            lane: Number of the lane.

        Raises:
            InvalidValueError: If there is no such lane.
            ResetNeeded: If it was never reset.
        """
        return lane_history(self.core, lane)

    @property
    def backends(self) -> tuple[str, ...]:
        """Returns how networks are computed, as `backend=` names it; nothing before the first reset."""
        return self.core.stacks.backends

    def __repr__(self) -> str:
        """Returns what the environment is, with the backends in use."""
        name = self.spec.id if self.spec is not None else "not registered"
        return f"<{type(self).__name__}<{name}>, num_envs={self.num_envs}, backends={self.backends}>"

    def network(self, lane: int, *, best: bool = False) -> nn.Module:
        """Returns the network of a lane as a module, with the normalisation of its images in front.

        A lane that has been reset holds the next episode's: for trained ones use the autoreset mode
        `DISABLED`, as `evaluate_policy` does.

        Args:
            lane: Number of the lane.
            best: Whether with the weights that were best on the guarded holdout, or the current ones.

        Returns:
            A copy; see `AutoTrainCore.network`.
        """
        return self.core.network(lane, best=best)

    def copy_lane(self, source: int, target: int) -> None:
        """Make lane `target` a twin of lane `source` for the rest of the episode.

        The target keeps the seed of its later episodes.

        Args:
            source: The lane to copy.
            target: The lane that becomes its twin.

        Raises:
            InvalidValueError: If there is no such lane.
        """
        self.core.copy_lane(source, target)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that changes while it runs, as a copy that can be pickled."""
        generators = copy.deepcopy(self._generators)
        return {
            "core": self.core.state_dict(),
            "generators": generators,
            "seeds": list(self._seeds),
            "autoreset_mode": self.autoreset_mode.value,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, bit for bit.

        Args:
            state: What `state_dict` of an environment with the same arguments returned.

        Raises:
            InvalidValueError: If it is of another number of lanes, of an environment with other arguments,
                or has other entries; then nothing has changed.
        """
        known = {"core", "generators", "seeds", "autoreset_mode"}
        check(set(state) == known, "state", sorted(state), "what state_dict() returned")
        modes = ({"autoreset_mode": mode} for mode in (state["autoreset_mode"], self.autoreset_mode.value))
        check_same(*modes)
        self.core.load_state_dict(state["core"])
        self._generators = copy.deepcopy(state["generators"])
        self._seeds = list(state["seeds"])

    def render(self) -> tuple[Any, ...] | None:
        """Draw the runs so far: a text or a picture for every lane; `None` where a window shows them."""
        if self.render_mode in ("ansi", "rgb_array"):
            return self._drawn(self.render_mode)
        self._show()
        return None

    def _drawn(self, render_mode: str) -> tuple[Any, ...]:
        return tuple(render_lane(self.core, lane, render_mode) for lane in range(self.num_envs))

    def _show(self) -> None:
        if self._window is not None and None not in self.core.episodes:
            self._window.show(tile(self._drawn("rgb_array")))

    def close_extras(self, **kwargs: Any) -> None:
        """Close the MDP log, and the window."""
        self.core.close()
        if self._window is not None:
            self._window.close()


def _mask(num_envs: int, lanes: np.ndarray) -> np.ndarray:
    mask = np.zeros(num_envs, bool)
    mask[lanes] = True
    return mask


def with_masks(info: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Put a mask `_key` beside every key, copied, so that nothing is shared with a later step.

    Args:
        info: Arrays of shape (N,), or dictionaries of such.
        mask: Lanes that the information is true of, bool, shape (N,).

    Returns:
        The information, with as many masks.
    """
    masked: dict[str, Any] = {}
    for key, value in info.items():
        masked[key] = with_masks(value, mask) if isinstance(value, dict) else value
        masked[f"_{key}"] = mask.copy()
    return masked


def _merge(info: dict[str, Any], newer: dict[str, Any], lanes: np.ndarray) -> dict[str, Any]:
    """Take the given lanes' entries from `newer`, the others from `info`; masks are joined."""
    merged = dict(info)
    for key, value in newer.items():
        old = info[key]
        if isinstance(value, dict):
            merged[key] = _merge(old, value, lanes)
        elif key.startswith("_"):
            merged[key] = old | value
        else:
            merged[key] = np.where(lanes, value, old)
    return merged
