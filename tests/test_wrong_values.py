"""Wrong values for every parameter of the main public functions: each an HVAEError, and nothing left behind.

The values are generated from the annotations: of other kinds, and of the right kind but beyond what a parameter can be.
A new parameter is tried without a line here; one that is not refused fails.
"""

import inspect
import reprlib
import typing
from types import NoneType, UnionType
from typing import Any, Literal

import numpy as np
import pytest
import torch
import xarray as xr
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError


class Thing:
    """Of no kind that anything takes; even its repr fails."""

    def __repr__(self):
        raise RuntimeError("no repr")


def kinds(hint: Any) -> set[Any]:
    """What an annotation allows, outermost: types, and the origins of what has parts."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return set().union(*map(kinds, parts))
    return {type(parts[0])} if origin is Literal else {origin or hint}


def others(hint: Any) -> list[Any]:
    """Values of other kinds than the annotation's."""
    found, allowed = [Thing(), 1j, b"bytes", {1, 2}, np.datetime64("2020-01-01")], kinds(hint)
    names = {getattr(kind, "__name__", str(kind)) for kind in allowed}
    if Any in allowed:
        return [Thing(), {1, 2}]
    if NoneType not in allowed:
        found.append(None)
    if int not in allowed:
        found += [] if float in allowed else [3, np.int64(3)]
    else:
        found += [True, torch.tensor(True), 10**30] + ([] if float in allowed else [2.5, np.float32(2.5), float("nan")])
    if float not in allowed:
        found += [1e30, float("inf")]
    if bool not in allowed:
        found.append(True)
    if str not in allowed:
        found += ["text", np.str_("text")]
    elif "PathLike" in names:
        found.append("nul\0byte")
    if not names & {"Sequence", "Mapping", "ndarray", "Schedule"}:
        found += [[1, 2], (), {"a": 1}]
    if "Mapping" not in names:
        found.append({"a": Thing()})
    if "Sequence" in names:
        found += [[Thing()], [None]]
    if "Tensor" not in names and "ndarray" not in names:
        found += [torch.ones(2, 3), np.zeros((2, 0))]
    return found


def alike(names: str, *values: Any) -> dict[str, tuple[Any, ...]]:
    return {name: values for name in names.split()}


#: Right in kind and beyond what they can be: for parameters of these names, whatever the function.
BEYOND: dict[str, tuple[Any, ...]] = {
    **alike("early_stopping", 0, -1),
    **alike("steps log_every evaluate_every evaluate_images checkpoint_every num_particles num_samples warmup chains", 0, -1),
    **alike("thin resample prior_samples limit train test chunk workers threads", 0, -1),
    **alike("pixels dim_z1 dim_z2 downsample evidence_images", 0, -1),
    **alike("draws evidence refine gap receptive_fields export", -1),
    **alike("seed", -1, 2**32, 2**70),
    **alike("clip skip noise sigma", -1.0, float("nan"), -float("inf")),
    **alike("moment_draws", 1, 0, -1),
    **alike("batch", 0, -1, 10**9),
    **alike("size", 1, 0, -3),
    **alike("units", -1, [-1], [99], [0, 0]),
    **alike("floor", -1.0, float("nan"), float("inf")),
    **alike("test_fraction", 0.0, 1.0, -1.0, float("nan")),
    **alike("beta", -1.0, float("nan"), "no schedule", {"z9": 1.0}),
    **alike("learning_rate", -1.0, float("nan"), "nan", "0:1,", "1:2:3", [(3, 1), (1, 1)], [1, 2]),
    **alike("guide_options", {"no_such": 1}),
    **alike("guide recipe start device precision gamma exposure contrast control", "", "no such thing"),
    **alike("response parts", "", "no such thing", ["no such thing"]),
    **alike("pixels_per_degree", -1.0, 0.0, float("nan")),
    **alike("source name reference families compile scheduler", "", "no such thing"),
}  # fmt: skip
#: What is no fault for some function: ``train`` of fit names programs, one draw is enough for a half of an audit.
RIGHT = {("fit", "train"): (0, -1), ("audit", "moment_draws"): (1,)}


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Right arguments of every function, such that it ends soon."""
    folder = tmp_path_factory.mktemp("calls")
    data, vae = small_data(), small_pair()
    rng = np.random.default_rng(0)
    photographs = rng.gamma(2, size=(3, 40, 40))
    patches = hvae.stimuli.natural_patches(4, photographs, train=200, test=20)
    hvae.fit(vae, data, steps=1, batch=10, out=folder / "run", device="cpu", progress=False)
    quick = dict(progress=False, device="cpu")
    return {
        "fit": dict(vae=vae, data=data, steps=1, batch=10, **quick),
        "build": dict(name="TDVAE20", pixels=16, dim_z1=4, dim_z2=2),
        "export_posterior": dict(vae=vae, images=data.test.isel(image=slice(3)), moment_draws=2, prior_samples=1),
        "evidence_importance_sampling": dict(vae=vae, x=data.test["x"].values[:2], num_particles=2),
        "natural_patches": dict(size=4, source=photographs, train=200, test=20),
        "texture_patches": dict(size=4, transform=patches.transform, train=6, test=6),
        "audit": dict(vae=vae, images=data.test.isel(image=slice(1)), units=2, moment_draws=2, draws=2, resample=2,
                      num_samples=2, warmup=1, chains=2),
        "measure_physiology": dict(vae=vae, images=data.test.isel(image=slice(3)), parts=["contrast"], units=1, draws=2),
        "load": dict(path=folder / "run"),
        "sweep": dict(settings={"preset": "TDVAE20", "pixels": 16, "steps": 1}, axes={"seed": [0]}, data=data,
                      out=folder / "s", device="cpu", progress=False),
        "yardsticks": dict(train=data.train, test=data.test, sigma=0.4),
    }  # fmt: skip


FUNCTIONS = {
    function.__name__: function
    for function in (
        hvae.fit, hvae.build, hvae.export_posterior, hvae.evidence_importance_sampling, hvae.stimuli.natural_patches,
        hvae.stimuli.texture_patches, hvae.audit, hvae.load, hvae.sweep, hvae.yardsticks, hvae.measure_physiology,
    )
}  # fmt: skip


def parameters():
    for name, function in FUNCTIONS.items():
        for parameter in inspect.signature(function).parameters:
            yield name, parameter


@pytest.mark.parametrize(("name", "parameter"), list(parameters()))
def test_wrong_values_are_refused_and_leave_nothing(calls, name, parameter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hint = typing.get_type_hints(inspect.unwrap(FUNCTIONS[name]))[parameter]
    right = RIGHT.get((name, parameter), ())
    values = [(value, False) for value in others(hint)] + [
        (value, True) for value in BEYOND.get(parameter, []) if not any(value is r or value == r for r in right)
    ]
    for value, beyond in values:
        arguments = {**calls[name], parameter: value}
        shown = reprlib.repr(value)
        try:
            FUNCTIONS[name](**arguments)
        except HVAEError as error:
            assert str(error) and "\n" not in str(error), f"{parameter}={shown}"
        except Exception as error:
            pytest.fail(f"{name}({parameter}={shown}) raises {type(error).__name__}: {error}")
        else:
            pytest.fail(f"{name}({parameter}={shown}) is accepted{' though beyond' if beyond else ''}")
        assert not [p for p in tmp_path.rglob("*")], f"{name}({parameter}={shown}) left {list(tmp_path.rglob('*'))}"


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_unknown_names_are_type_errors_and_the_call_itself_is_right(calls, name, tmp_path):
    with pytest.raises(TypeError, match="no_such_option"):
        FUNCTIONS[name](**calls[name], no_such_option=1)
    if name not in ("sweep", "yardsticks"):
        assert isinstance(FUNCTIONS[name](**calls[name]), object)


def test_datasets_of_other_shapes_are_no_images(calls):
    for images in (
        xr.Dataset(),
        xr.Dataset({"x": (("pixel", "image"), np.zeros((16, 3)))}),
        xr.Dataset({"y": ("image", [1.0])}),
    ):
        with pytest.raises(HVAEError):
            hvae.export_posterior(**calls["export_posterior"] | {"images": images})
