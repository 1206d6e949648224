"""The unit cube and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controller.core.space import Space, Weight

WEIGHTS = (
    Weight("click", 0.2, 5.0, 1.0, "log", fixed=True),
    Weight("like", 0.1, 10.0, 2.0, "log"),
    Weight("watch", -1.0, 3.0, 0.5),
)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_a_point_survives_the_round_trip(points: list[tuple[float, float]]) -> None:
    space = Space(WEIGHTS)
    unit = np.array(points)
    np.testing.assert_allclose(space.to_unit(space.to_theta(unit)), unit, atol=1e-12)


def test_the_baseline_survives_the_round_trip() -> None:
    space = Space(WEIGHTS)
    np.testing.assert_allclose(space.to_theta(space.baseline_unit), [1.0, 2.0, 0.5], rtol=1e-12)


def test_log_weights_are_uniform_in_their_logarithm() -> None:
    theta = Space(WEIGHTS).to_theta(np.array([0.5, 0.5]))
    np.testing.assert_allclose(theta, [1.0, 1.0, 1.0])  # sqrt(0.1 * 10), (-1 + 3) / 2


def test_points_outside_the_cube_are_clipped_to_the_bounds() -> None:
    theta = Space(WEIGHTS).to_theta(np.array([[-0.5, 1.7], [1.5, -2.0]]))
    np.testing.assert_allclose(theta, [[1.0, 0.1, 3.0], [1.0, 10.0, -1.0]])
    assert theta[1, 1] <= 10.0


def test_leading_axes_are_batches() -> None:
    space = Space(WEIGHTS)
    unit = np.random.default_rng(1).random((2, 3, space.d))
    theta = space.to_theta(unit)
    assert theta.shape == (2, 3, 3)
    np.testing.assert_allclose(theta[1, 2], space.to_theta(unit[1, 2]))
    np.testing.assert_allclose(space.to_unit(theta), unit)


def test_fixed_weights_may_have_no_room() -> None:
    space = Space((Weight("a", 1.0, 1.0, 1.0, fixed=True), Weight("b", 0.0, 2.0, 1.0)))
    assert space.d == 1
    np.testing.assert_allclose(space.baseline_unit, [0.5])
