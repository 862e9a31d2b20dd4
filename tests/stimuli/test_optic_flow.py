import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import PatchData, optic_flow
from pyro_hvae.stimuli.optic_flow import CONDITIONS, axes_of_gaze, depth_of_sphere, depth_of_world, flow, retina

RAYS = retina(9, 60)
X, Y = RAYS[..., 0], RAYS[..., 1]
NONE = np.zeros(3)


def test_translation_towards_a_wall_expands_from_where_it_leads():
    """p·T_z/d − (T_x, T_y)/d at every point of a wall at distance d; zero at the heading."""
    translation, d = np.array([0.3, -0.1, 1.0]), 4.0
    found = flow(RAYS * d, translation, NONE)
    np.testing.assert_allclose(found, (RAYS[..., :2] - translation[:2] / translation[2]) / d, atol=1e-12)


def test_rotation_does_not_depend_on_depth():
    """Longuet-Higgins & Prazdny: (xy ω_x − (1 + x²) ω_y + y ω_z, (1 + y²) ω_x − xy ω_y − x ω_z)."""
    a, b, c = rotation = np.array([0.2, -0.4, 0.7])
    expected = np.stack([X * Y * a - (1 + X**2) * b + Y * c, (1 + Y**2) * a - X * Y * b - X * c], axis=-1)
    for depth in (0.5, 3.0, np.abs(X) + 1):
        found = flow(RAYS * np.asarray(depth)[..., None], NONE, rotation)
        np.testing.assert_allclose(found, expected, atol=1e-12)


numbers = st.floats(-1, 1)
vectors = st.tuples(numbers, numbers, numbers).map(np.array)


@settings(max_examples=40, deadline=None)
@given(translation=vectors, rotation=vectors, velocity=vectors)
def test_flow_is_the_derivative_of_the_projection(translation, rotation, velocity):
    """Move the eye and the points for a moment and project again."""
    points, dt = RAYS * (2 + X[..., None]), 1e-5

    def projected(t):
        moved = points + velocity * t - translation * t
        seen = Rotation.from_rotvec(rotation * t).inv().apply(moved.reshape(-1, 3)).reshape(points.shape)
        return seen[..., :2] / seen[..., 2:]

    derivative = (projected(dt) - projected(-dt)) / (2 * dt)
    np.testing.assert_allclose(flow(points, translation, rotation, velocity), derivative, atol=1e-6)


def test_gaze_and_world():
    np.testing.assert_allclose(axes_of_gaze(0, 0), np.eye(3))
    eye = axes_of_gaze(30, -10)
    np.testing.assert_allclose(eye.T @ eye, np.eye(3), atol=1e-12)
    assert eye[0, 2] > 0 and eye[1, 2] < 0 and eye[1, 0] == 0  # right, down, horizon level
    assert np.linalg.det(eye) == pytest.approx(1)
    directions = np.array([[0, -0.5, 1], [0, 0.5, 1], [0.2, 0.05, 1]])
    np.testing.assert_allclose(depth_of_world(directions, 6), [2, 2, 6])
    np.testing.assert_allclose(
        depth_of_sphere(np.array([[0, 0, 1.0], [0, 1, 1]]), np.array([0, 0, 3.0]), 0.5), [2.5, np.inf]
    )


@pytest.fixture(scope="module")
def data():
    return optic_flow(17, train=0, test=250, seed=1)


def fields(dataset, condition):
    chosen = dataset.isel(image=np.flatnonzero(dataset["family"].values == condition))
    return chosen, chosen["x"].values.reshape(-1, 2, 17, 17)


def test_fixation_holds_the_centre_still(data):
    """Where no object covers it; without fixation it moves."""
    _, fixating = fields(data.test, "fixate")
    assert np.abs(fixating[:, :, 8, 8]).max() < 1e-6
    _, translating = fields(data.test, "translate")
    assert np.median(np.abs(translating[:, :, 8, 8])) > 1e-3


def test_flow_leads_away_from_the_heading(data):
    """Without fixation every velocity points away from the focus of expansion."""
    chosen, x = fields(data.test, "translate")
    rays = retina(17, 45)
    for i in range(chosen.sizes["image"]):
        one = chosen.isel(image=i)
        eye = axes_of_gaze(one["gaze_azimuth"].item(), one["gaze_elevation"].item())
        heading = axes_of_gaze(one["heading_azimuth"].item(), one["heading_elevation"].item())[:, 2] @ eye
        away = rays[..., :2] - heading[:2] / heading[2]
        cross = away[..., 0] * x[i, 1] - away[..., 1] * x[i, 0]
        np.testing.assert_allclose(cross, 0, atol=1e-5)
        assert ((away[..., 0] * x[i, 0] + away[..., 1] * x[i, 1]) >= -1e-6).all()


def test_an_object_alone_moves_where_it_is(data):
    chosen, x = fields(data.test, "object")
    moving = np.abs(x).max(1) > 0
    np.testing.assert_allclose(moving.mean((1, 2)), chosen["object_area"], atol=1e-6)
    assert (chosen["object_area"] > 0).all() and (chosen["speed"] == 0).all()
    assert np.isnan(chosen["heading_azimuth"]).all() and np.isfinite(chosen["object_vx"]).all()
    # The mean direction of what moves is where the object is.
    one = chosen.isel(image=int(chosen["object_area"].argmax()))
    eye = axes_of_gaze(one["gaze_azimuth"].item(), one["gaze_elevation"].item())
    centre = np.array([one[f"object_{a}"].item() for a in "xyz"]) @ eye
    seen = retina(17, 45)[..., :2][moving[int(chosen["object_area"].argmax())]].mean(0)
    np.testing.assert_allclose(seen, centre[:2] / centre[2], atol=0.12)


def test_flow_of_the_object_follows_from_its_labels(data):
    """Seen from where the labels say it is, moving as they say, after a moment."""
    chosen, x = fields(data.test, "object")
    rays, dt = retina(17, 45), 1e-4
    for i in range(0, chosen.sizes["image"], 5):
        one = chosen.isel(image=i)
        eye = axes_of_gaze(one["gaze_azimuth"].item(), one["gaze_elevation"].item())
        centre, velocity = (np.array([one[f"object_{v}{a}"].item() for a in "xyz"]) for v in ("", "v"))
        reached = depth_of_sphere(rays, centre @ eye, 0.3)[..., None]
        seen = np.abs(x[i]).max(0) > 0
        assert np.isfinite(reached[seen]).all()
        before = (rays * reached)[seen] @ eye.T
        after = (before + velocity * dt) @ eye
        moved = (after[:, :2] / after[:, 2:] - rays[seen][:, :2]) / dt
        np.testing.assert_allclose(x[i][:, seen].T, moved, rtol=0.02, atol=1e-3)


def test_a_set(tmp_path, data):
    same, other = (optic_flow(17, train=0, test=250, seed=s) for s in (1, 2))
    assert data.test.identical(same.test) and data.test["x"].values.tobytes() != other.test["x"].values.tobytes()
    assert np.unique(data.test["family"], return_counts=True)[1].tolist() == [50] * len(CONDITIONS)
    assert np.isfinite(data.test["x"]).all()
    saved = PatchData.load(data.save(tmp_path / "flow.nc"))
    assert saved.channels == 2 and saved.size == 17 and saved.test.sizes["pixel"] == 578
    np.testing.assert_array_equal(saved.test["object_x"], data.test["object_x"])
    without = fields(data.test, "translate")[0]
    assert np.isnan(without["object_x"]).all()


def test_what_does_not_fit():
    with pytest.raises(HVAEError, match="unknown condition 'fixat'; did you mean 'fixate'"):
        optic_flow(condition=["fixat"])
    with pytest.raises(HVAEError, match="field_of_view is 170"):
        optic_flow(field_of_view=170)
    with pytest.raises(HVAEError, match="expected at least one value"):
        optic_flow(condition=[])
