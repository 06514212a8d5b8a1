"""ARS that can be resumed."""

from typing import Any

from sb3_contrib import ARS
from sb3_contrib.common.vec_env import AsyncEval
from stable_baselines3.common.callbacks import BaseCallback


class ResumableARS(ARS):
    """ARS that tells its callback of a rollout's start before it draws candidates, for resuming there.

    It counts the env steps of each lane, too, where the original counts all lanes for every single one.
    """

    under_way = False

    def _do_one_update(self, callback: BaseCallback, async_eval: AsyncEval | None) -> None:
        callback.on_rollout_start()
        self.under_way = True
        super()._do_one_update(callback, async_eval)
        self.under_way = False

    def _trigger_callback(
        self, _locals: dict[str, Any], _globals: dict[str, Any], callback: BaseCallback, n_envs: int
    ) -> None:
        super()._trigger_callback(_locals, _globals, callback, n_envs=1)
