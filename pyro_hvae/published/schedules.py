"""Schedules of beta and of the learning rate: piecewise linear in the step, jumps allowed."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass

from pyro_hvae.errors import HVAEError


@dataclass(frozen=True)
class Schedule:
    """A value for every training step.

    :param knots: ``((step, value), …)`` in order of steps; linear between them, constant outside. Two knots at one step
        are a jump: the second value holds from that step on.
    :raises HVAEError: for no knots, unordered steps, or values that are negative or not finite.
    """

    knots: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "knots", tuple((float(s), float(v)) for s, v in self.knots))
        except (TypeError, ValueError, OverflowError):
            raise HVAEError(f"a schedule is made of pairs (step, value) of numbers, got {self.knots!r:.200}") from None
        steps = [s for s, _ in self.knots]
        if not steps or steps != sorted(steps) or not all(map(math.isfinite, steps)):
            raise HVAEError(f"a schedule needs knots (step, value) in order of steps, got {self.knots}")
        if any(not math.isfinite(v) or v < 0 for _, v in self.knots):
            raise HVAEError(f"the values of a schedule must be finite and not negative, got {self.knots}")

    @classmethod
    def constant(cls, value: float) -> Schedule:
        """The same value at every step."""
        return cls(((0, value),))

    @classmethod
    def linear(cls, start: float, end: float, steps: int) -> Schedule:
        """From ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` from there."""
        return cls(((0, start), (steps, end)))

    @classmethod
    def of(cls, value: float | str | Iterable[tuple[float, float]] | Schedule) -> Schedule:
        """A schedule from a number, knots, or text: ``"1"`` or ``"0:0.1, 10000:1"`` (step:value)."""
        if isinstance(value, Schedule):
            return value
        if isinstance(value, str):
            try:
                parts = [part.split(":") for part in value.split(",")]
                if len(parts) == 1 and len(parts[0]) == 1:
                    return cls.constant(float(value))
                return cls(tuple((float(step), float(v)) for step, v in parts))
            except HVAEError:
                raise
            except ValueError:
                raise HVAEError(
                    f"cannot read the schedule {value!r}: give a number, or step:value pairs such as '0:0.1,10000:1'"
                ) from None
        if isinstance(value, Iterable):
            return cls(tuple(value))
        return cls.constant(value)

    def __call__(self, step: float) -> float:
        """The value at ``step``."""
        i = bisect.bisect_right([s for s, _ in self.knots], step)
        if i == 0 or i == len(self.knots):
            return self.knots[max(i - 1, 0)][1]
        (s0, v0), (s1, v1) = self.knots[i - 1], self.knots[i]
        return v0 + (v1 - v0) * (step - s0) / (s1 - s0)

    def stretched(self, factor: float) -> Schedule:
        """The same course over ``factor`` times as many steps."""
        # Twelve digits: a knot at 3.6 and not at 3.5999999999999996, which would stand so in configurations.
        return Schedule(tuple((float(f"{s * factor:.12g}"), v) for s, v in self.knots))

    def __str__(self) -> str:
        if len(self.knots) == 1:
            return _exact(self.knots[0][1])
        return ",".join(f"{_exact(s)}:{_exact(v)}" for s, v in self.knots)


def _exact(value: float) -> str:
    """The shortest text that is read as the same number: a run is resumed from the text."""
    return short if float(short := f"{value:g}") == value else repr(value)
