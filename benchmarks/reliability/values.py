"""Families of generated inputs that are no files: schedules, options, arrays (continues ``generators.py``)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import common
import generators
import numpy as np
import torch
from generators import WRONG, Case, Material, digest

import pyro_hvae as hvae
from pyro_hvae.published.schedules import Schedule


def schedule(material: Material, rng: random.Random, folder: Path) -> Case:
    """Texts of schedules: those that are right are interpolated by another formula."""
    if rng.random() < 0.5:
        steps = sorted(rng.sample(range(0, 10**6), rng.randint(1, 6)))
        values = [rng.choice([0.0, 1.0, rng.uniform(0, 1e3), rng.uniform(0, 1e-6)]) for _ in steps]
        text = ",".join(f"{s}:{v!r}" for s, v in zip(steps, values, strict=True))
        at = [rng.randrange(0, 2 * 10**6) for _ in range(5)] + steps
        expected = [float(np.interp(t, steps, values)) for t in at]

        def read() -> Any:
            found = Schedule.of(text)
            again = Schedule.of(str(found))
            close = all(np.isclose(found(t), e, rtol=1e-9, atol=1e-15) for t, e in zip(at, expected, strict=True))
            return close and all(found(t) == again(t) for t in at)

        return Case(read, True, (), text)
    text = "".join(rng.choice("0123456789:,.e-+ nafi\u0000٣") for _ in range(rng.randint(0, 12)))

    def parse() -> Any:
        value = Schedule.of(text)(rng.randrange(100))
        return bool(np.isfinite(value) and value >= 0)

    return Case(parse, True, (), repr(text))


OPTIONS: dict[str, tuple[Any, ...]] = {
    "steps": (1, 2, np.int64(2)), "batch": (10, 7, np.int32(5)), "learning_rate": (1e-3, "0:1e-3,2:1e-4", 1),
    "beta": (1.0, {"z2": "0:0,2:1"}, 0.5), "train": ("both", "guide", "model"), "clip": (None, 1.0, 300), "skip": (None, 1e9),
    "seed": (0, 5, np.uint8(7)), "log_every": (1, 50), "evaluate_every": (1, 1000), "checkpoint_every": (1, 1000),
    "precision": ("float32", "bfloat16"), "evaluate_images": (1, 2000), "compile": (False,), "device": ("cpu", "auto"),
}  # fmt: skip


def training_options(material: Material, rng: random.Random, folder: Path) -> Case:
    """Options of ``fit``, of which up to two are wrong; afterwards there is a whole run, or nothing."""
    options: dict[str, Any] = {"steps": 1, "batch": 10, "compile": False, "device": "cpu"}
    for name in rng.sample(sorted(OPTIONS), rng.randint(1, 4)):
        options[name] = rng.choice(OPTIONS[name])
    for name in rng.sample(sorted(OPTIONS), rng.choice([0, 1, 1, 2])):
        options[name] = rng.choice(WRONG)
    if not isinstance(options["steps"], int | np.integer) or options["steps"] > 5:
        options["steps"] = rng.choice([-1, 0, "x", None, 2.5])

    def read() -> Any:
        run = folder / "run"
        try:
            found = hvae.fit(common.tiny_pair(), generators.PATCHES, **options, progress=False, out=run)
        finally:
            left = sorted(p.name for p in run.rglob("*")) if run.exists() else []
            if left and not any(name.startswith("step-") for name in left):
                raise AssertionError(f"left behind: {left}")
        again = hvae.load(run)
        return all(torch.equal(a, b) for a, b in zip(found.vae.parameters(), again.parameters(), strict=True))

    return Case(read, True, (), repr(options))


def images(material: Material, rng: random.Random, folder: Path) -> Case:
    """Arrays of images of any shape, type, order and content, to export: right is what float32 (image, pixel) gives."""
    generator = np.random.default_rng(rng.randrange(2**32))
    shape = rng.choice(
        [(3, 16), (3, 4, 4), (16,), (1, 16), (4, 4), (2, 16, 1), (3, 15), (0, 16), (3, 4, 5), (), (2, 2, 2, 4)]
    )
    dtype = rng.choice(["f4", "f8", ">f4", ">f8", "f2", "i4", "u1", "b", "U3", "O", "c8", "M8[s]"])
    values = generator.standard_normal(shape) * 2
    with np.errstate(all="ignore"):
        x: Any = values.astype(dtype) if dtype != "M8[s]" else values.astype("i8").astype(dtype)
    what = rng.choice(["plain", "plain", "nan", "inf", "reversed", "strided", "tensor", "list", "huge"])
    if what in ("nan", "inf", "huge") and x.size and x.dtype.kind == "f":
        x.reshape(-1)[rng.randrange(x.size)] = {"nan": np.nan, "inf": np.inf, "huge": np.finfo(x.dtype).max}[what]
    elif what == "reversed" and x.ndim:
        x = x[::-1]
    elif what == "strided" and x.ndim:
        x = np.repeat(x, 2, axis=0)[::2]
    elif what == "tensor" and x.dtype.kind in "fi" and x.dtype.isnative:
        x = torch.from_numpy(np.ascontiguousarray(x))
    elif what == "list":
        x = x.tolist()

    def export(given: Any) -> Any:
        tree = hvae.export_posterior(common.tiny_pair(), given, moment_draws=2, prior_samples=1, receptive_fields=0)
        return digest([tree["posterior_moments"].to_dataset(), tree["bound"].to_dataset()])

    def read() -> Any:
        found = export(x)
        plain = np.ascontiguousarray(np.asarray(x), np.float32).reshape(-1, 16)
        return np.isfinite(plain).all() and found == export(plain)

    return Case(read, True, (), f"{dtype} {shape} {what}")
