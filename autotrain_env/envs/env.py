"""The scalar environment: the batched core with one lane."""

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils.seeding import np_random
from torch import nn

from autotrain_env.envs.keyboard import keys_to_action
from autotrain_env.envs.time_limit import truncation_within, with_time_limit
from autotrain_env.errors import InvalidTypeError, unknown_name
from autotrain_env.process.actions import check_actions
from autotrain_env.process.config import make_config
from autotrain_env.process.core import AutoTrainCore
from autotrain_env.process.observations import observation_space
from autotrain_env.process.record import History
from autotrain_env.process.situation import Situation
from autotrain_env.process.tasks import Task
from autotrain_env.viewing.text import render_ansi
from autotrain_env.viewing.window import Window, can_open_window

RENDER_MODES = ("ansi", "human", "rgb_array")
RENDER_FPS = 4


class AutoTrainEnv(gymnasium.Env[np.ndarray, Any]):
    """An agent trains a neural network so that it generalises.

    ## Description
    In every env step the agent sees the training run (loss, accuracy, learning rate, a guarded look at
    held-out data) and decides whether to scale the learning rate, rewind the weights, start again from
    new random weights, or stop. Then the network gets T optimiser updates. Data are split four ways:
    *train* gives gradients, *holdout* is what the agent sees (through Thresholdout, arXiv:1506.02629),
    *validation* gives the reward, and *test* is reported in `info` at the end and used nowhere else. Label
    noise is on train and holdout alone. The task (split, initial rate, …) differs from episode to episode.

    ## Action space
    `Discrete(5 * H + 2)`: index = rewind * 5 + factor.

    | index | action |
    |---|---|
    | 0 … 4 | multiply the learning rate by 0.2, 0.8, 1, 1.2, 1.8 and train |
    | 5 i … 5 i + 4 | rewind to row i (i env steps back), then the same |
    | 5 H | re-initialise: new networks in all rows, same learning rate, then train |
    | 5 H + 1 | stop: the episode ends before any update |

    `action_masks()` says which rewinds exist now; an impossible one goes to the oldest finite row. With
    `action_type=` there are also:

    | `action_type` | space | meaning |
    |---|---|---|
    | `"multi_discrete"` | `MultiDiscrete([5, H, 3])` | factor; rewind; go on, re-init or stop |
    | `"continuous"` | `Box(-1, 1, (H + 3,))` | factor `max_lr_factor**a`; rewind logits; re-init; stop |
    | `"learning_rate"` | `Box(-1, 1, (1,))` | the learning rate itself, on a log scale between its bounds |

    With `annealing="linear"` a factor of 1 keeps to a line on which the rate falls to 0 at the end of the
    budget: each env step multiplies it by (L - 1/2) / (L + 1/2) besides, with L env steps left.

    A continuous rewind follows softmax(10 * logits) over the rows that exist (`rewind_sampling="argmax"`
    takes the likeliest); re-init happens above 0.9, stop above 0.95.

    ## Observation space
    `Box` of shape (H, K, M), float32, or flat with `observation_layout="flat"`. Row 0 is the current state,
    row i the state i env steps back along the lineage of the current weights. At reset rows 1 … H-1 are
    untrained networks of other initialisation schemes, to which the agent may rewind. The K samples of a
    row are windows of T / K updates, the newest last. Missing rows are zero.

    | index | metric | bounds |
    |---|---|---|
    | 0 | log of (mean minibatch log loss of the window / log C) for C classes | [-8, 8] |
    | 1 | mean minibatch accuracy of the window | [0, 1] |
    | 2 | log10 of the learning rate, mapped from its bounds | [-1, 1] |
    | 3 | guarded holdout score; one query per env step, repeated over K | [0, 1] |
    | 4 | score on the train subset minus the same answer | [-1, 1] |
    | 5 | share of the budget used | [0, 1] |
    | 6 | updates in the current lineage, over the budget | [0, 1] |
    | 7 | diverged | {0, 1} |
    | 8 | row exists | {0, 1} |

    Losses and accuracies of untrained networks are measured on the train subset. With
    `score="neg_log_loss"` metrics 3 and 4 are of 1 - (log loss) / (4 log C).

    With `metrics="extended"` there are two more, since a task can say that the agent has less than that
    (`measured=`): metric 9 is 1 where there is no holdout, so that metric 3 is the train score, and metric
    10 where there is no train score, so that the accuracy in the last window stands in for it (loss and
    accuracy of untrained networks then read as those of guessing). Where a task says that no other network
    can be drawn (`can_reinit=False`), rows 1 … H-1 are missing at reset, and re-init does nothing and is
    masked out. `metrics="movement"` adds metric 11: log10 of how far parameters have moved in the env step,
    over their norm, mapped from 1e-6 to 100 to [-1, 1]. `metrics="epochs"` adds metric 12: log10 of how
    often the whole budget goes through the train part, mapped from 1e-4 to 10,000 to [-1, 1]; and metric
    13, which is 1 where the agent is not told (`epochs_known=False`), so that metric 12 is 0.

    ## Rewards
    The improvement of the validation score in this step. Undiscounted, it sums to the final score minus
    the first, over rewinds, re-inits and divergence alike. Other presets (`reward=`):

    | preset | reward |
    |---|---|
    | `"delta"` | improvement (default) |
    | `"sign"` | `inter_reward` times its sign; in the end also score times `final_reward_scale` |
    | `"risa"` | sign of the improvement minus `step_cost` (default 1 / budget) times updates so far |
    | `"terminal"` | in the end, score times `final_reward_scale`; else 0 |
    | `"baseline"` | improvement minus a recorded run's at equal updates; a stop pays for its rest |

    Any mapping of `improvement`, `improvement_sign`, `time_cost`, `elapsed_cost`, `terminal_score`,
    `divergence` and `baseline_improvement` to weights works, too; `divergence_penalty` and `time_cost` add
    to every preset.

    ## Order within a step
    Stop ends the episode. Otherwise: rewind or re-init; the rate is multiplied and clipped to its bounds;
    T updates; measurement; rows move down by one and the new state becomes row 0. A rewind restores
    weights, optimiser state and normalisation buffers, keeps the learning rate and draws fresh minibatches;
    the budget is not given back.

    **Divergence.** When loss or weights stop being finite, row 0 reads as chance level with its flag set,
    in the place of the state before; rows 1 … H-1 stay as they were. Further updates are skipped but
    counted, until the agent rewinds or re-initialises. Diverged states are not asked about on the holdout.
    With `keep_before_divergence=True` the state before is row 1 instead, and the others move down.

    ## Starting state
    A task is drawn from `tasks=`, or given with `reset(options={"task": Task(...)})` for that one episode.
    Row 0 is a network of the task's own initialisation scheme. `reset` makes no update.

    ## Episode end
    Terminated by stop, or when the budget is spent. Truncated only where `truncate_after=` is given, or
    `max_episode_steps=`, which is the same.

    ## Information
    `info` holds at every step: `score` (on the reward's split), `train_score`, `holdout_answer` (what
    Thresholdout said, 0 to 1), `learning_rate`, `lr_factor` (what it changed by), `updates`,
    `holdout_queries`, `holdout_exhausted`, `diverged`, `rewind` (distance really rewound),
    `rewind_impossible`, `reinit`, `stop`, `action` as a number (-1 reset, 0 go on, 1 rewind, 2 re-init,
    3 stop), `reward_terms`. At the end also `test_accuracy`, `test_balanced_accuracy` (the mean over the
    classes of the share that is classified rightly) and `test_loss` of the last weights,
    `best_holdout_test_accuracy`, `best_holdout_test_balanced_accuracy` and `best_holdout_test_loss` of
    those with the best guarded holdout answer.

    `env.unwrapped.history()` returns the episode so far: arrays with one entry per decision, the reset
    first, with actions in words. `history_in_info=True` puts it into the last `info`, too.

    ## Arguments
    Those of `autotrain_env.AutoTrainConfig`, as keywords of `gymnasium.make`.

    | id | differs from `AutoTrain-v0` in | actions |
    |---|---|---|
    | `AutoTrainPrototype-v0` | factors 0.9, 1, 1.1; `sign` reward on holdout; no Thresholdout | 3 H + 2 |
    | `AutoTrainRISA-v0` | no rewind; `risa` reward | 7 |
    | `AutoTrainContinuous-v0` | continuous actions | Box of H + 3 |
    | `AutoTrainRuns-v0` | metrics up to movement; rates that fall to 0; other factors | 7 H + 2 |
    | `AutoTrainFlat-v0` | flat observations | 5 H + 2 |
    | `AutoTrainContinuousFlat-v0` | continuous actions, flat observations | Box of H + 3 |

    The last two are for software that takes an id and no arguments.

    ## Version history
    * v0: first version.

    Args:
        render_mode: `"ansi"` for text, `"rgb_array"` for a picture of the run so far, `"human"` for a
            window that shows it after every reset and step (with pygame), `None` for none of them.
        max_episode_steps: Another name of `truncate_after`; of the two the smaller one counts.
        kwargs: Arguments of `AutoTrainConfig`.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}

    def __init__(
        self, render_mode: str | None = None, max_episode_steps: int | None = None, **kwargs: Any
    ) -> None:
        self.config = make_config(with_time_limit(kwargs, max_episode_steps))
        self.render_mode = check_render_mode(render_mode)
        self._window = Window("AutoTrain", RENDER_FPS) if render_mode == "human" else None
        self.metadata = self.metadata | {"render_modes": usable_render_modes()}
        self.core = AutoTrainCore(self.config, num_envs=1)
        self.observation_space = observation_space(
            self.config.num_snapshots,
            self.config.history_length,
            self.config.observation_layout,
            self.config.metrics,
        )
        self.action_space = self.core.action_type.space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new episode.

        Args:
            seed: Seed of all episodes from here on; `None` to go on with the stream there is.
            options: `{"task": Task(...)}` fixes the task of this one episode.

        Returns:
            The observation and the information.

        Raises:
            InvalidTypeError: If the task is no `Task`.
            InvalidValueError: If an option is unknown or the task does not fit; then nothing has changed.
        """
        options = check_options(options, ("task",))
        task = check_task(options.get("task"))
        self.core.truncate_after = truncation_within(self, self.config.truncate_after)
        ahead = copy.deepcopy(self.np_random) if seed is None else np_random(seed)[0]
        info = self.core.reset(np.array([0]), [draw_episode_seed(ahead)], [task])
        super().reset(seed=seed)  # only now: a task that does not fit must leave everything as it was
        draw_episode_seed(self.np_random)  # the same number
        self._show()
        return self.core.observation()[0], first_lane(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Carry out one action.

        Args:
            action: An action of `action_space`.

        Returns:
            Observation, reward, whether the episode has terminated, whether it was truncated, and
            information; see the class.

        Raises:
            ResetNeeded: Before the first `reset` and after the end of an episode.
            InvalidTypeError: If the action is of the wrong kind.
            InvalidValueError: If it has the wrong shape or lies outside the action space.
        """
        if not self.core.lanes.running[0]:
            raise ResetNeeded("step() was called before reset(), or after the end of the episode")
        checked = check_actions(self.action_space, action)
        result = self.core.step(self.core.decode(checked[None]))
        self._show()
        return (
            self.core.observation()[0],
            float(result.reward[0]),
            bool(result.terminated[0]),
            bool(result.truncated[0]),
            first_lane(result.info | result.final),
        )

    def action_masks(self) -> np.ndarray:
        """Returns which discrete actions are possible now, bool, shape (number of actions,).

        Raises:
            InvalidTypeError: If actions are continuous.
        """
        return self.core.action_masks()[0]

    def get_keys_to_action(self) -> dict[str, Any]:
        """Returns the action of every key, for `gymnasium.utils.play`.

        The digits choose a factor of the learning rate; `q`, `w`, `e`, … rewind by one env step, two,
        three, …, also together with a digit; `n` re-initialises, `x` stops. No key trains on at the same
        rate.

        Raises:
            InvalidTypeError: If actions set the rate itself.
        """
        return keys_to_action(self.core.action_type)

    def situation(self) -> Situation:
        """Returns what policies decide on, arrays over one lane; the environment must have been reset."""
        return self.core.situation()

    def history(self) -> History:
        """Returns what the episode was so far: arrays by name, one entry per decision, the reset first.

        What there is, is said in `autotrain_env.process.record.COLUMNS`: `action` in words, `updates`,
        `learning_rate`, `loss` (shape (rows, K)), `score` and others. It is there until the next `reset`.

        Raises:
            ResetNeeded: If no episode has begun.
        """
        return lane_history(self.core, 0)

    @property
    def backends(self) -> tuple[str, ...]:
        """Returns how networks are computed, as `backend=` names it; nothing before the first reset."""
        return self.core.stacks.backends

    def __repr__(self) -> str:
        """Returns what the environment is, with the backends in use."""
        name = self.spec.id if self.spec is not None else "not registered"
        return f"<{type(self).__name__}<{name}>, backends={self.backends}>"

    def network(self, *, best: bool = False) -> nn.Module:
        """Returns the network in training as a module, with the normalisation of its images in front.

        Args:
            best: Whether with the weights that were best on the guarded holdout, or the current ones.

        Returns:
            A copy; see `AutoTrainCore.network`.
        """
        return self.core.network(0, best=best)

    def set_task_level(self, level: int) -> None:
        """Set the curriculum's level for episodes that begin from now on.

        Args:
            level: The level, from 0, the easiest.

        Raises:
            InvalidValueError: If there is no such level.
        """
        self.core.set_task_level(level)

    def render(self) -> Any:
        """Draw the run so far.

        Returns:
            Text (`"ansi"`), or a picture, uint8, shape (height, width, 3); `None` for a window, and without
            a render mode.

        Raises:
            ResetNeeded: If no episode has begun.
        """
        if self.render_mode in ("ansi", "rgb_array"):
            return render_lane(self.core, 0, self.render_mode)
        self._show()
        return None

    def _show(self) -> None:
        if self._window is not None:
            self._window.show(render_lane(self.core, 0, "rgb_array"))

    def close(self) -> None:
        """Close the MDP log, and the window."""
        self.core.close()
        if self._window is not None:
            self._window.close()


def render_lane(core: AutoTrainCore, lane: int, render_mode: str) -> Any:
    """Draw one lane's episode so far.

    Args:
        core: The core that plays it.
        lane: Number of the lane.
        render_mode: `"ansi"` for text, `"rgb_array"` for a picture.

    Returns:
        A text, or a picture, uint8, shape (height, width, 3).

    Raises:
        ResetNeeded: If no episode has begun.
    """
    history = lane_history(core, lane)
    if render_mode == "ansi":
        return render_ansi(history)
    from autotrain_env.viewing.frames import Scales, render_rgb  # matplotlib takes a second to import

    scales = Scales(
        int(core.lineage.budget[lane]),
        core.config.lr_bounds,
        core.config.num_snapshots,
        int(core.lineage.num_classes[lane]),
        core.config.score,
        core.config.reward_split,
    )
    return render_rgb(history, scales)


def lane_history(core: AutoTrainCore, lane: int) -> History:
    """Returns what a lane's episode was so far.

    Args:
        core: The core that plays it.
        lane: Number of the lane.

    Raises:
        InvalidValueError: If there is no such lane.
        ResetNeeded: If no episode has begun.
    """
    history = core.history_of(lane)
    if core.episodes[lane] is None:
        raise ResetNeeded("there is no run before reset()")
    return history


def check_render_mode(render_mode: str | None) -> str | None:
    """Check a render mode, and return it.

    Raises:
        InvalidValueError: If it is not known.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise unknown_name("render_mode", render_mode, RENDER_MODES)
    return render_mode


def usable_render_modes() -> list[str]:
    """Returns the render modes that can be used here, which Gymnasium's checker tries; see `Window`."""
    return [mode for mode in RENDER_MODES if mode != "human" or can_open_window()]


def check_options(options: dict[str, Any] | None, known: tuple[str, ...]) -> dict[str, Any]:
    """Check the names of options of `reset`, and return the options; none for `None`.

    Args:
        options: The options, by name.
        known: Every name that is known.

    Raises:
        InvalidValueError: If one is not known.
    """
    options = options or {}
    for name in options:
        if name not in known:
            raise unknown_name("options", name, known)
    return options


def check_task(task: Any) -> Task | None:
    """Check an option that is to be a task or `None`, and return it.

    Raises:
        InvalidTypeError: If it is something else.
    """
    if task is not None and not isinstance(task, Task):
        raise InvalidTypeError(f"options['task']={task!r} must be an autotrain_env.Task")
    return task


def draw_episode_seed(generator: np.random.Generator) -> int:
    """Draw the one number, below 2**63, that decides everything random in an episode."""
    return int(generator.integers(2**63))


def first_lane(info: dict[str, Any]) -> dict[str, Any]:
    """Returns the first lane's information, as plain Python values."""
    return {
        name: first_lane(value) if isinstance(value, dict) else value.item(0)
        for name, value in info.items()
    }
