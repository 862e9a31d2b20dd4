"""Optic flow on the retina of an observer who moves through a world of planes (after ROFL, Vafaii, Yates & Butts 2023).

Coordinates: x to the right, y up, z ahead. The world has a floor one unit below the eye, a ceiling one unit above it, and
a wall ahead; the unit is the height of the eye. The retina is a plane at unit distance behind the pinhole, seen upright:
a point P = (X, Y, Z) in the frame of the eye is at p = (X, Y)/Z, and moves with

    dp/dt = ((Ẋ, Ẏ) − p Ż) / Z,    Ṗ = V − T − ω × P

(Longuet-Higgins & Prazdny, Proc. R. Soc. Lond. B 208, 385–397, 1980), T and ω being velocity and rotation of the eye and
V the velocity of what is seen.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked
from pyro_hvae.errors import unknown
from pyro_hvae.stimuli.displays import Names, axes, product, train_and_test, within
from pyro_hvae.stimuli.patches import PatchData, patch_dataset

CONDITIONS = ("translate", "translate_object", "fixate", "fixate_object", "object")
UNIT = "tangent of visual angle per second"
LABEL_UNITS = {
    "heading_azimuth": "degrees right of straight ahead",
    "heading_elevation": "degrees above the horizon",
    "speed": "eye heights/s",
    "gaze_azimuth": "degrees right of straight ahead",
    "gaze_elevation": "degrees above the horizon",
    **{f"object_{axis}": "eye heights from the eye" for axis in "xyz"},
    **{f"object_v{axis}": "eye heights/s" for axis in "xyz"},
    "object_area": "part of the field",
}


@checked
def optic_flow(
    size: int = 17,
    *,
    condition: Names = CONDITIONS,
    train: int = 8000,
    test: int = 2000,
    field_of_view: float = 45,
    wall: float = 6,
    speed: float = 1,
    object_radius: float = 0.3,
    seed: int = 0,
) -> PatchData:
    """Flow fields of random self-motion, gaze and object motion, with these causes as coordinates.

    condition
        `"translate"`: the eye moves with its gaze fixed relative to the body. `"fixate"`: it turns so as to hold still
        the point of the world at the centre of gaze. With `_object`, a sphere moves in front of the world; with
        `"object"`, it alone does. All equally often (counts are rounded down); `family` holds it.
    train, test
        Numbers of fields. `size`×`size` points over `field_of_view` degrees.
    wall, speed, object_radius
        Distance of the wall; highest speed of observer and object (uniform from 0; sizes in eye heights).

    Heading and gaze are uniform within 45° and 20° of straight ahead, in azimuth, and within 20° and 15° of the
    horizon. `x` holds the horizontal velocities (to the right), then the vertical ones (up): 2·size² values in the order
    (channel, y, x), in tangents of visual angle per second; no whitening. An object's position and velocity are in the
    frame of the world; they are NaN where there is none, as is the heading of an observer who stands still.
    """
    names = [str(name) for name in np.atleast_1d(condition)]
    for name in names:
        if name not in CONDITIONS:
            raise unknown("condition", name, CONDITIONS)
    product(condition=names)
    within("field_of_view", field_of_view, 1, 90)
    within("wall", wall, 2, 1e6)
    within("speed", speed, 0, 1e6)
    within("object_radius", object_radius, 0.01, 0.5)
    options = {
        "size": size, "condition": names, "field_of_view": field_of_view, "wall": wall, "speed": speed,
        "object_radius": object_radius,
    }  # fmt: skip
    rays = retina(size, field_of_view)

    def make(split: str, count: int, rng: np.random.Generator) -> xr.Dataset:
        family = rng.permutation(np.repeat(names, max(count // len(names), 1)))
        fields, labels = [], []
        for name in family:
            field, causes = _field(name, rays, wall, speed, object_radius, rng)
            fields.append(field)
            labels.append(causes)
        x = np.stack(fields).transpose(0, 3, 1, 2).reshape(len(fields), -1)
        columns = {
            key: ("image", np.array([one[key] for one in labels]), {"units": u}) for key, u in LABEL_UNITS.items()
        }
        dataset = patch_dataset(x, split=split, source="optic_flow", family=family).assign_coords(columns)
        provenance = json.dumps({"kind": "optic_flow", "options": options})
        return dataset.assign_attrs(kind="optic_flow", unit=UNIT, seed=seed, provenance=provenance)

    per = len(names)
    return train_and_test(make, train=train // per * per, test=test // per * per, seed=seed, size=size, channels=2)


def retina(size: int, field_of_view: float) -> np.ndarray:
    """Rays (y, x, 3) in the frame of the eye, z being 1, through size×size points; rows run down."""
    x, y = axes(size)
    step = 2 * np.tan(np.deg2rad(field_of_view / 2)) / (size - 1)
    return np.stack([x * step, y * step, np.ones_like(x)], axis=-1)


def flow(points: np.ndarray, translation: np.ndarray, rotation: np.ndarray, velocity: Any = 0.0) -> np.ndarray:
    """Retinal velocity (…, 2) of points (…, 3) moving with `velocity`, for an eye moving and rotating; frame of the eye.

    A positive rotation about y turns the gaze to the right, about x down, about z the world clockwise.
    """
    moving = velocity - translation - np.cross(rotation, points)
    depth = points[..., 2:]
    return (moving[..., :2] - points[..., :2] / depth * moving[..., 2:]) / depth


def axes_of_gaze(azimuth: float, elevation: float) -> np.ndarray:
    """Matrix (3, 3) whose columns are the eye's right, up and ahead in the world, for a gaze in degrees."""
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    ahead = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0, -np.sin(a)])
    return np.stack([right, np.cross(ahead, right), ahead], axis=1)


def depth_of_world(directions: np.ndarray, wall: float) -> np.ndarray:
    """Factor by which directions (…, 3) in the world reach the nearest of floor, ceiling and wall."""
    with np.errstate(divide="ignore"):
        vertical = 1 / np.abs(directions[..., 1])
        ahead = np.where(directions[..., 2] > 0, wall / directions[..., 2], np.inf)
    return np.minimum(vertical, ahead)


def depth_of_sphere(rays: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Factor by which rays (…, 3) reach a sphere, infinite where they miss it."""
    a, b = (rays**2).sum(-1), rays @ centre
    inside = b**2 - a * (centre @ centre - radius**2)
    return np.where(inside >= 0, (b - np.sqrt(np.maximum(inside, 0))) / a, np.inf)


def _field(
    condition: str, rays: np.ndarray, wall: float, speed: float, radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, float]]:
    """One flow field (y, x, 2) and its causes. Every condition takes as many random numbers."""
    gaze = rng.uniform(-20, 20), rng.uniform(-15, 15)
    heading = rng.uniform(-45, 45), rng.uniform(-20, 20)
    pace, object_pace = speed * rng.random(2)
    direction = rng.standard_normal(3)
    place, nearness = rng.uniform(-0.6, 0.6, 2), rng.uniform(0.35, 0.85)
    still, with_object = condition == "object", "object" in condition
    eye = axes_of_gaze(*gaze)
    translation = np.zeros(3) if still else pace * axes_of_gaze(*heading)[:, 2] @ eye
    depth = depth_of_world(rays @ eye.T, wall)
    rotation = np.zeros(3)
    if condition.startswith("fixate"):
        fixated = depth_of_world(eye[:, 2], wall)
        rotation = np.array([translation[1], -translation[0], 0]) / fixated
    velocity = np.zeros((*rays.shape[:2], 3))
    causes = dict.fromkeys(LABEL_UNITS, np.nan)
    if with_object:
        edge = rays[0, -1, :2]
        towards = np.array([*(place * edge), 1])
        centre = towards * max(nearness * depth_of_world(eye @ towards, wall), 3 * radius)
        moving = object_pace * direction / np.linalg.norm(direction)
        of_sphere = depth_of_sphere(rays, centre, radius)
        seen = of_sphere < depth
        depth = np.minimum(depth, of_sphere)
        velocity[seen] = moving @ eye
        causes.update(zip(("object_x", "object_y", "object_z"), eye @ centre, strict=True))
        causes.update(zip(("object_vx", "object_vy", "object_vz"), moving, strict=True))
        causes["object_area"] = float(seen.mean())
    causes |= {"gaze_azimuth": gaze[0], "gaze_elevation": gaze[1], "speed": 0.0 if still else float(pace)}
    if not still:
        causes |= {"heading_azimuth": heading[0], "heading_elevation": heading[1]}
    return flow(rays * depth[..., None], translation, rotation, velocity), causes
