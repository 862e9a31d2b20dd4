import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_hvae.errors import HVAEError
from pyro_hvae.published.schedules import Schedule

knots = st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 10)), min_size=1, max_size=5).map(
    lambda pairs: tuple(sorted({step: value for step, value in pairs}.items()))
)


@given(knots, st.integers(0, 12_000))
def test_schedule_is_linear_interpolation(knots, step):
    steps, values = zip(*knots, strict=True)
    assert Schedule(knots)(step) == pytest.approx(np.interp(step, steps, values))


@given(knots)
def test_schedule_survives_text_to_the_digits_printed(knots):
    schedule = Schedule(knots)
    again = Schedule.of(str(schedule))
    assert again(0) == pytest.approx(schedule(0), rel=1e-5, abs=1e-300)
    assert str(again) == str(schedule)


def test_jump_takes_the_second_value_from_its_step_on():
    schedule = Schedule(((0, 5e-5), (100, 5e-5), (100, 2.5e-5)))
    assert [schedule(s) for s in (0, 99, 100, 101)] == [5e-5, 5e-5, 2.5e-5, 2.5e-5]


def test_linear_starts_from_exactly_zero():
    schedule = Schedule.linear(0, 1, 10)
    assert schedule(0) == 0 and schedule(5) == 0.5 and schedule(10) == schedule(11) == 1


def test_stretched_keeps_values_at_proportional_steps():
    schedule = Schedule(((0, 0.1), (500, 0.1), (1650, 1.25)))
    stretched = schedule.stretched(3.5)
    assert all(stretched(3.5 * s) == pytest.approx(schedule(s)) for s in (0, 250, 700, 1650, 2000))


@pytest.mark.parametrize(
    ("text", "says"),
    [("fast", "cannot read the schedule 'fast'"), ("0:1,5", "cannot read"), ("10:1,0:0.1", "in order"), ("-1", "negative"),
     ("nan", "finite"), ("", "cannot read")],
)  # fmt: skip
def test_bad_schedules_are_refused(text, says):
    with pytest.raises(HVAEError, match=says):
        Schedule.of(text)


@pytest.mark.parametrize(
    "value", [1 / 3, 0.00123456789, 1e-30, "0:0.1234567891,1234567:2", "0:1,3333.333333333333:0.5"]
)
def test_the_text_of_a_schedule_is_read_as_the_same_schedule(value):
    """A run is resumed from it, bit for bit."""
    assert Schedule.of(str(Schedule.of(value))) == Schedule.of(value)


@pytest.mark.parametrize("value", ["nan:1,2:3", "inf:1", [1], [(1,)], [("a", "b")], ["ab"], [(None, 1)]])
def test_what_is_no_schedule_is_refused(value):
    with pytest.raises(HVAEError):
        Schedule.of(value)
