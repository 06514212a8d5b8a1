"""Mean and variance of observations, collected in parts that are merged."""

from dataclasses import dataclass

import numpy as np

from autotrain_env.errors import check


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared differences from the mean, of numbers side by side.

    Args:
        count: How many rows were seen.
        mean: Mean of the rows, float64, shape (size,).
        squares: Sums of squared differences from the mean, float64, shape (size,).
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """Returns the moments of no rows."""
        return cls(0, np.zeros(size), np.zeros(size))

    @classmethod
    def of(cls, rows: np.ndarray) -> "Moments":
        """Returns the moments of rows of numbers, shape (n, size); no row gives those of `empty`."""
        if not len(rows):
            return cls.empty(rows.shape[1])
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        return cls(len(rows), mean, ((rows - mean) ** 2).sum(0))

    def merge(self, other: "Moments") -> "Moments":
        """Join the moments of two parts, for which no row is needed (Chan, Golub and LeVeque, 1979).

        Args:
            other: Moments of other rows.

        Returns:
            Moments of both parts' rows.

        Raises:
            InvalidValueError: If they are of another size.
        """
        check(self.mean.shape == other.mean.shape, "other", other.mean.shape, f"of shape {self.mean.shape}")
        if not self.count or not other.count:
            return self if other.count == 0 else other
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = difference**2 * (self.count * other.count / count)
        return Moments(count, mean, self.squares + other.squares + between)

    def deviation(self, least: float = 1e-2) -> np.ndarray:
        """Returns the standard deviation, or 1 where fewer than two rows were seen.

        Args:
            least: The smallest deviation that is returned.

        Returns:
            Float64, shape (size,).
        """
        if self.count < 2:
            return np.ones_like(self.mean)
        return np.maximum(np.sqrt(self.squares / self.count), least)
