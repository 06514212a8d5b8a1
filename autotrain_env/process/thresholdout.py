"""The reusable holdout: many questions to a holdout set without learning it by heart.

`AutoTrainCore` makes it of the arguments that begin with `thresholdout`, and reports its `queries` and
whether it is `exhausted`; `Lineage` asks it once per env step.
"""

import copy
from collections.abc import Sequence

import numpy as np

_AHEAD = 96  # numbers drawn at a time, which is an episode or so
_PER_QUERY = 3  # numbers used at most: in the comparison, on the answer, on the next threshold


class Thresholdout:
    """Thresholdout of Dwork et al. (arXiv:1506.02629, Figure 1), in N separate lanes.

    Where train and holdout score agree within a noisy threshold, the train score is returned; where they
    do not, the holdout score plus noise is, and one unit of the budget is spent. After the budget only
    the train score is returned.

    Args:
        num_lanes: Number of lanes (N).
        threshold: Largest difference that counts as agreement [score].
        sigma: Rate of the noise [score]: Laplace of scale 2 sigma on the threshold, 4 sigma in the
            comparison, sigma on the answer.
        budget: Disagreements that may be answered in each lane; `None` for no limit.
        enabled: If false, the holdout score is returned as it is. Questions are still counted.
    """

    def __init__(
        self,
        num_lanes: int,
        threshold: float,
        sigma: float,
        budget: int | None = None,
        enabled: bool = True,
    ) -> None:
        self.threshold = threshold
        self.sigma = sigma
        self.budget = budget
        self.enabled = enabled
        self.queries = np.zeros(num_lanes, np.int64)
        self.disagreements = np.zeros(num_lanes, np.int64)
        self._noisy_threshold = np.zeros(num_lanes)
        self._generators: list[np.random.Generator | None] = [None] * num_lanes
        self._noise = np.zeros((num_lanes, _AHEAD))  # Laplace numbers of scale 1, drawn ahead
        self._next = np.full(num_lanes, _AHEAD)  # the first of them that was not used

    @property
    def exhausted(self) -> np.ndarray:
        """Returns where the budget is spent, so that the holdout is asked no more, bool, shape (N,)."""
        if not self.enabled or self.budget is None:
            return np.zeros(len(self.queries), bool)
        return self.disagreements >= self.budget

    def begin(self, lanes: np.ndarray, generators: Sequence[np.random.Generator]) -> None:
        """Begin anew.

        Args:
            lanes: Which lanes, int64, shape (n,).
            generators: Their streams, which serve nothing else.
        """
        self.queries[lanes] = self.disagreements[lanes] = 0
        self._next[lanes] = _AHEAD
        for lane, generator in zip(lanes.tolist(), generators, strict=True):
            self._generators[lane] = generator
            self._draw(lane)
        self._noisy_threshold[lanes] = self.threshold + 2 * self.sigma * self._noise[lanes, 0]
        self._next[lanes] = 1

    def query(self, lanes: np.ndarray, train_score: np.ndarray, holdout_score: np.ndarray) -> np.ndarray:
        """Ask one question in each of some lanes.

        Args:
            lanes: Which lanes, int64, shape (n,), each at most once.
            train_score: Score on the train subset, in [0, 1], float64, shape (n,).
            holdout_score: Score on the holdout, in [0, 1], float64, shape (n,).

        Returns:
            The guarded answers, float64, shape (n,); noise may carry them outside [0, 1].
        """
        self.queries[lanes] += 1
        if not self.enabled:
            return holdout_score.copy()
        if self.budget is not None and self.exhausted[lanes].any():
            answers, asked = train_score.copy(), ~self.exhausted[lanes]
            answers[asked] = self._ask(lanes[asked], train_score[asked], holdout_score[asked])
            return answers
        return self._ask(lanes, train_score, holdout_score)

    def _ask(self, lanes: np.ndarray, train_score: np.ndarray, holdout_score: np.ndarray) -> np.ndarray:
        """Answer where the budget is not spent."""
        short = self._next[lanes] > _AHEAD - _PER_QUERY
        if short.any():
            for lane in lanes[short].tolist():
                self._draw(lane)
        start = self._next[lanes]
        comparison = 4 * self.sigma * self._noise[lanes, start]
        differs = np.abs(holdout_score - train_score) > self._noisy_threshold[lanes] + comparison
        self._next[lanes] = start + 1
        answers = train_score.copy()
        if differs.any():
            lanes, start = lanes[differs], start[differs]
            answers[differs] = holdout_score[differs] + self.sigma * self._noise[lanes, start + 1]
            self._noisy_threshold[lanes] = self.threshold + 2 * self.sigma * self._noise[lanes, start + 2]
            self._next[lanes] = start + _PER_QUERY
            self.disagreements[lanes] += 1
        return answers

    def _draw(self, lane: int) -> None:
        """Fill a lane's noise up; what it has left comes first."""
        generator, row, used = self._generators[lane], self._noise[lane], self._next[lane]
        assert generator is not None, f"lane {lane} never began"
        row[: _AHEAD - used] = row[used:].copy()
        row[_AHEAD - used :] = generator.laplace(size=used)
        self._next[lane] = 0

    def generator(self, lane: int) -> np.random.Generator:
        """Returns a copy of a lane's stream, for `set_generator`."""
        generator = self._generators[lane]
        assert generator is not None, f"lane {lane} never began"
        return copy.deepcopy(generator)

    def set_generator(self, lane: int, generator: np.random.Generator) -> None:
        """Let a lane's stream be what it was before."""
        self._generators[lane] = generator

    def copy_lane(self, source: int, target: int) -> None:
        """Copy everything of lane `source` to lane `target`."""
        for array in (self.queries, self.disagreements, self._noisy_threshold, self._noise, self._next):
            array[target] = array[source]
        self._generators[target] = copy.deepcopy(self._generators[source])
