"""The reusable holdout: many questions to a holdout set without learning it by heart.

`AutoTrainCore` makes a guard for every episode, of the arguments that begin with `thresholdout`, and
reports its `queries` and whether it is `exhausted`; `Lineage` asks it once per env step.
"""

import numpy as np


class Thresholdout:
    """Thresholdout of Dwork et al. (arXiv:1506.02629, Figure 1), for one lane.

    Where train and holdout score agree within a noisy threshold, the train score is returned; where they
    do not, the holdout score plus noise is, and one unit of the budget is spent. After the budget only
    the train score is returned.

    Args:
        generator: The lane's stream; used for nothing else.
        threshold: Largest difference that counts as agreement [score].
        sigma: Rate of the noise [score]: Laplace of scale 2 sigma on the threshold, 4 sigma in the
            comparison, sigma on the answer.
        budget: Disagreements that may be answered; `None` for no limit.
        enabled: If false, the holdout score is returned as it is. Questions are still counted.
    """

    def __init__(
        self,
        generator: np.random.Generator,
        threshold: float,
        sigma: float,
        budget: int | None = None,
        enabled: bool = True,
    ) -> None:
        self.generator = generator
        self.threshold = threshold
        self.sigma = sigma
        self.budget = budget
        self.enabled = enabled
        self.queries = 0
        self.disagreements = 0
        self._noisy_threshold = threshold + generator.laplace(scale=2 * sigma)

    @property
    def exhausted(self) -> bool:
        """Returns whether the budget is spent, so that the holdout is asked no more."""
        return self.enabled and self.budget is not None and self.disagreements >= self.budget

    def query(self, train_score: float, holdout_score: float) -> float:
        """Ask one question.

        Args:
            train_score: Score on the train subset, in [0, 1].
            holdout_score: Score on the holdout, in [0, 1].

        Returns:
            The guarded answer; noise may carry it outside [0, 1].
        """
        self.queries += 1
        if not self.enabled:
            return holdout_score
        if self.exhausted:
            return train_score
        comparison = self.generator.laplace(scale=4 * self.sigma)
        if abs(holdout_score - train_score) <= self._noisy_threshold + comparison:
            return train_score
        self.disagreements += 1
        answer = holdout_score + self.generator.laplace(scale=self.sigma)
        self._noisy_threshold = self.threshold + self.generator.laplace(scale=2 * self.sigma)
        return answer
