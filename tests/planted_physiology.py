"""Physiology files with planted populations, made without torch: every group that a file may have."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from pyro_hvae.analysis.v1_histograms import HISTOGRAMS
from pyro_hvae.storage.physiology_file import SCHEMA, SCHEMA_VERSION

ORIENTATION = np.arange(0.0, 180, 10)
FREQUENCY = 0.45 * 2.0 ** (np.arange(-8, 1) / 2)
PHASE = np.arange(0.0, 360, 45)
DIAMETER = np.array([2.0, 3, 4, 6, 9, 13, 19, 27, 39, 57])
CONTRAST = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])


TIME = np.array([0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4, 6, 8, 12])
KINDS = np.array(["natural"] * 6 + ["illusory", "rotated", "disks", "complete", "line"])


def planted_course(units: int, rng: np.random.Generator, constant: float = 0.5, induced: float = 0.5) -> xr.Dataset:
    """Exponential relaxation of every unit; the first half of them answers lines, and the illusory figure ``induced`` more."""
    last = rng.normal(size=(KINDS.size, units))
    first = np.arange(units) < units // 2
    last[KINDS == "line"] = np.where(first, -2.0, 0.1)
    last[KINDS == "rotated"] = -0.4
    last[KINDS == "illusory"] = -0.4 * (1 + induced) / (1 - induced)
    course = (1 - np.exp(-TIME / constant))[:, None, None] * last
    return xr.Dataset(
        {"z1_mean": (("time", "image", "z1_unit"), 0.3 + course), "kind": ("image", KINDS)},
        {"time": TIME, "z1_unit": np.arange(units)},
    )


def plant(units: int = 60, *, kinds: int = 2, seed: int = 0, series: bool = True) -> xr.DataTree:
    """Units of z1, of one of ``kinds`` of tuning and any orientation; ``z1_kind`` in ``blank`` says which.

    Kind 0 is simple, linear in contrast and narrow; kind 1 complex, saturating, suppressed and broad; kind 2 like 1 at a lower
    frequency. Preferred orientations and suppression indices of kind 1 are spread as V1's.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(kinds, size=units)
    preferred = rng.uniform(0, 180, units)
    width, peak = np.array([8.0, 2.0, 2.0])[kind], np.array([0.16, 0.16, 0.07])[kind]
    across = np.exp(width[:, None] * (np.cos(2 * np.deg2rad(ORIENTATION - preferred[:, None])) - 1))
    along = np.exp(-1.5 * np.log2(FREQUENCY / peak[:, None]) ** 2)
    wave = np.where(
        kind[:, None] == 0, np.maximum(np.cos(np.deg2rad(PHASE - rng.uniform(0, 360, (units, 1)))), 0), 1.0
    )  # (unit, phase)
    noise = 1 + 0.03 * rng.normal(size=(units, ORIENTATION.size, FREQUENCY.size))
    gratings = (across[:, :, None] * along[:, None] * noise)[..., None] * wave[:, None, None]

    def group(values: np.ndarray, *dims: str, **coordinates: np.ndarray) -> xr.Dataset:
        names = ("z1_unit", *dims)
        both = {"z1_mean": (names, values), "z1_sd": (names, np.ones(values.shape))}
        return xr.Dataset(both, {"z1_unit": np.arange(units), **coordinates})

    n = np.where(kind == 0, 1.0, 2.0)[:, None]
    c50 = np.where(kind == 0, 1e6, 0.2)[:, None]
    response = CONTRAST**n / (CONTRAST**n + c50**n)
    response = response / response.max(1, keepdims=True)
    index = HISTOGRAMS["suppression"]
    strength = rng.choice(0.2 * np.arange(len(index.counts)) + 0.1, units, p=np.array(index.counts) / index.n)
    plateau = np.where(kind == 0, 1.0, 1 - np.minimum(strength, 0.9))
    size = np.where(DIAMETER <= 9, DIAMETER / 9, plateau[:, None])
    groups = {
        "blank": group(np.zeros(units)),
        "gratings": group(gratings, "orientation", "frequency", "phase",
                          orientation=ORIENTATION, frequency=FREQUENCY, phase=PHASE),
        "preferred": xr.Dataset(
            {
                "z1_orientation": ("z1_unit", preferred), "z1_frequency": ("z1_unit", peak),
                "z1_x": ("z1_unit", np.zeros(units)), "z1_y": ("z1_unit", np.zeros(units)),
            },
            {"z1_unit": np.arange(units)},
        ),
    }  # fmt: skip
    groups["blank"] = groups["blank"].assign_coords(z1_kind=("z1_unit", kind))
    if series:
        mask = np.where(kind == 0, 1.0, 0.5)
        plaid = np.stack([np.ones(units), np.zeros(units), mask], 1)[:, :, None, None] * wave[:, None, None]
        plaid = np.repeat(plaid, 4, 2)
        x = rng.normal(size=(units, 3, 16))
        groups |= {
            "contrast": group(response[..., None] * wave[:, None], "contrast", "phase", contrast=CONTRAST, phase=PHASE),
            "size": group(size[..., None] * wave[:, None], "diameter", "phase", diameter=DIAMETER, phase=PHASE),
            "annulus": group(
                np.exp(-DIAMETER[:8] / 4)[None, :, None] * wave[:, None], "inner_diameter", "phase",
                inner_diameter=np.concatenate([[0.0], DIAMETER[:7]]), phase=PHASE,
            ),
            "plaid": group(
                plaid, "part", "mask_phase", "phase", part=np.array(["test", "mask", "plaid"]),
                mask_phase=np.arange(0.0, 360, 90), phase=PHASE,
            ),
            "natural_contrast": xr.Dataset(
                {
                    f"z1_{name}": (("scale", "image", "z1_unit"), factor * rng.gamma(9, 1 / 9, (4, 12, units)))
                    for name, factor in (("variance", 1.0), ("mean", 1.0), ("from_above", 0.1))
                },
                {"scale": [0.0, 0.5, 1.0, 2.0], "z1_unit": np.arange(units)},
            ),
            "time_course": planted_course(units, rng),
            "texture": xr.Dataset(
                {
                    f"z1_{name}_mean": (("family", "patch", "z1_unit"), factor * rng.gamma(4, 1 / 4, (2, 30, units)))
                    for name, factor in (("texture", 3.0), ("noise", 1.0))
                },
                {"family": ["brick", "grass"], "z1_unit": np.arange(units)},
            ),
            "optima": xr.Dataset(
                {
                    "z1_most": (("z1_optimum", "start", "pixel"), x), "z1_least": (("z1_optimum", "start", "pixel"), -x),
                    "z1_most_response": (("z1_optimum", "start"), 3 + 0.01 * rng.random((units, 3))),
                    "z1_least_response": (("z1_optimum", "start"), -3 - 0.01 * rng.random((units, 3))),
                    "z1_natural_response": (("z1_optimum", "image"), rng.normal(size=(units, 20))),
                },
                {"z1_optimum": np.arange(units)}, {"norm": 20.0, "steps": 100},
            ),
        }  # fmt: skip
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "response": "mean", "pixels_per_degree": 16.0, "contrast": 0.3,
        "draws": 4, "preset": "planted", "model": "Planted", "guide": "Planted", "configuration": json.dumps({}), "seed": seed,
        "objective": "", "particles": 0, "versions": "{}", "git_revision": "", "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return tree
