"""Learning rates as functions of the step, without state to restore on resuming."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Base class of schedules: a constant learning rate."""

    def factor(self, step: int, n_steps: int, epoch: int) -> float:
        """Factor on the learning rate.

        Parameters
        ----------
        step : int
            0 for the first step.
        n_steps : int
            Length of the whole training.
        epoch : int
            Epoch of the step, 0 for the first.
        """
        return 1.0

    def momentum(self, step: int, n_steps: int) -> float | None:
        """First β of Adam at this step; None keeps the setting."""
        return None


@dataclass(frozen=True)
class Constant(Schedule):
    """Constant learning rate."""


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 down to `final` along half a cosine, as ``CosineAnnealingLR`` of torch.

    Parameters
    ----------
    final : float
        Fraction of the learning rate at the end.
    """

    final: float = 0.0

    def factor(self, step: int, n_steps: int, epoch: int) -> float:
        """See `Schedule.factor`."""
        return _cosine(1.0, self.final, step / n_steps)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied with `gamma` every few epochs, as ``StepLR`` of torch.

    Parameters
    ----------
    every : int
        Number of epochs between changes.
    gamma : float
    """

    every: int
    gamma: float = 0.1

    def factor(self, step: int, n_steps: int, epoch: int) -> float:
        """See `Schedule.factor`."""
        return self.gamma ** (epoch // self.every)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to the learning rate and down again along cosines, as ``OneCycleLR`` of torch.

    Parameters
    ----------
    pct_start : float
        Fraction of the steps on the way up.
    div : float
        The first learning rate is 1 / `div` of the highest.
    final_div : float
        The last learning rate is 1 / `final_div` of the first.
    momentum_range : (low, high) or None
        Range of the first β of Adam, which falls while the learning rate rises; None keeps it
        constant.

    References
    ----------
    Smith & Topin (2019), Super-convergence.
    """

    pct_start: float = 0.3
    div: float = 25.0
    final_div: float = 1e4
    momentum_range: tuple[float, float] | None = (0.85, 0.95)

    def factor(self, step: int, n_steps: int, epoch: int) -> float:
        """See `Schedule.factor`."""
        first = 1 / self.div
        return self._cycle(step, n_steps, first, 1.0, first / self.final_div)

    def momentum(self, step: int, n_steps: int) -> float | None:
        """See `Schedule.momentum`."""
        if self.momentum_range is None:
            return None
        low, high = self.momentum_range
        return self._cycle(step, n_steps, high, low, high)

    def _cycle(self, step: int, n_steps: int, first: float, peak: float, last: float) -> float:
        top = self.pct_start * n_steps - 1
        if step <= top:
            return _cosine(first, peak, step / top if top > 0 else 1.0)
        return _cosine(peak, last, (step - top) / (n_steps - 1 - top))


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
