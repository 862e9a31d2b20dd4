"""Natural image patches: cut from photographs, preprocessed as in Csikor et al. 2022 (arXiv 2206.00436, [C22])."""

from __future__ import annotations

import inspect
import os
from collections import defaultdict
from typing import Any

import numpy as np

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.stimuli.cutting import Region, cut, halves, proportional, whole
from pyro_hvae.stimuli.intensity import EXPOSURES, IntensityMap
from pyro_hvae.stimuli.patches import PatchData, patch_dataset
from pyro_hvae.stimuli.published import from_published
from pyro_hvae.stimuli.readers import GAMMAS, to_luminance
from pyro_hvae.stimuli.seeds import train_and_test_generators
from pyro_hvae.stimuli.sources import EMBEDDED_NATURAL, EMBEDDED_TEST, PatchStack, Photograph, Published, open_source
from pyro_hvae.stimuli.whitening import CONTRASTS, Whitening

DEFAULT_TRAIN, DEFAULT_TEST = 64_000, 6_400
DEFAULT_TEST_FRACTION = 1 / 6


@checked
def natural_patches(
    size: int = 20,
    source: str | os.PathLike | np.ndarray = "embedded",
    *,
    train: int | None = None,
    test: int | None = None,
    seed: int = 0,
    gamma: str = "auto",
    downsample: int | None = None,
    exposure: str = "image_median",
    floor: float = 0.02,
    contrast: str = "none",
    test_fraction: float | None = None,
) -> PatchData:
    """Cut, split and whiten `size`×`size` natural image patches.

    source
        `"embedded"` (photographs that scikit-image and scikit-learn install); a folder of images (8- or 16-bit, grey
        or colour, van Hateren `.iml`) or one image file; an array, or a `.npy`, `.npz` or `.nc` file with one image, a
        stack of images (image, y, x) or cut luminance patches (image, size, size) or (image, size²); or the authors'
        published files (`published_patches`), which are already preprocessed: then `transform` is None, and options of
        preprocessing are refused.
    train, test
        Number of patches; 64,000 and 6,400 by default, or all there are of patches that arrive cut. Photographs give
        patches in proportion to their area, never the same position twice.
    gamma, downsample
        How files become luminance: `"auto"` undoes the sRGB curve of 8-bit and of colour images and takes 16-bit grey
        and floating point as linear, `"srgb"` and `"linear"` say so for all; then the mean over downsample×downsample
        pixels (default 2 for the embedded photographs, 1 otherwise).
    exposure, floor, contrast
        Options of the transform: see `IntensityMap` and `Whitening`.
    test_fraction
        The last `test_fraction` (1/6 by default) of the photographs, in the order of their names, are the test set:
        neighbouring numbers often show the same place, so a contiguous block is held out. A single photograph is cut
        into two regions across its longer side instead; patches that arrive cut are split at one point of their order.
        Of the embedded photographs coffee and rocket are held out unless a `test_fraction` is given.

    The transform is fitted on the training set only. The same seed gives the same bytes. Raises `HVAEError` for
    whatever in a source, or in the options, makes this impossible.
    """
    options = {
        "gamma": gamma,
        "downsample": downsample,
        "exposure": exposure,
        "floor": floor,
        "contrast": contrast,
        "test_fraction": test_fraction,
    }
    _check(size, train, test, options)
    opened = open_source(source, embedded=EMBEDDED_NATURAL, size=size, gamma=gamma, downsample=downsample)
    content = opened.content
    if isinstance(content, Published):
        defaults = inspect.signature(natural_patches).parameters
        given = [name for name, value in options.items() if value != defaults[name].default]
        if given:
            raise HVAEError(f"{content.path}: already preprocessed, so {', '.join(given)} cannot be applied to it.")
        return from_published(content, size=size, train=train, test=test, seed=seed)
    fraction = DEFAULT_TEST_FRACTION if test_fraction is None else test_fraction
    if isinstance(content, PatchStack):
        options["test_fraction"] = fraction
        data, sources = _from_stack(content, size, train, test, seed, options)
    else:
        if test_fraction is None and isinstance(source, str) and source == "embedded":
            held_out = {photograph.name for photograph in content} & EMBEDDED_TEST
        else:
            options["test_fraction"] = fraction
            held_out = _last(content, fraction)
        data, sources = _from_photographs(content, held_out, size, train, test, seed, options)
    provenance = {
        "kind": "natural",
        "source": source if isinstance(source, str) else "array" if isinstance(source, np.ndarray) else str(source),
        "sources": sources,
        "ignored": list(opened.ignored),
        "options": {"size": size, **options, "downsample": _downsample(content), "seed": seed},
        "train": data.train.sizes["image"],
        "test": data.test.sizes["image"],
    }
    return PatchData(data.train, data.test, data.transform, size, provenance)


def _check(size: int, train: int | None, test: int | None, options: dict[str, Any]) -> None:
    whole_number("size", size, 2)
    for name, count in (("train", train), ("test", test)):
        if count is not None:
            whole_number(name, count, 1)
    for name, known in (("gamma", GAMMAS), ("exposure", EXPOSURES), ("contrast", CONTRASTS)):
        if options[name] not in known:
            raise unknown(name, options[name], known)
    if options["test_fraction"] is not None and not 0 < options["test_fraction"] < 1:
        raise HVAEError(f"test_fraction is {options['test_fraction']}; expected a number between 0 and 1.")


def _downsample(content: list[Photograph] | PatchStack) -> int:
    return content[0].downsample if isinstance(content, list) else 1


def describe(photographs: list[Photograph], size: int) -> tuple[list[tuple[int, int]], list[str]]:
    """Shapes and sha256 digests. Every photograph is read, so that a bad one is reported before any work is done.

    Raises `HVAEError` where two photographs are the same: one could then stand on both sides of the split.
    """
    shapes, digests = [], []
    same: dict[str, list[str]] = defaultdict(list)
    for photograph in photographs:
        rows, columns = photograph.luminance(size).shape
        shapes.append((rows, columns))
        digests.append(photograph.sha256())
        same[digests[-1]].append(photograph.name)
    twice = [" = ".join(names) for names in same.values() if len(names) > 1]
    if twice:
        raise HVAEError(f"the same photograph more than once: {'; '.join(twice)}. Keep one of each.")
    return shapes, digests


def _last(photographs: list[Photograph], test_fraction: float) -> set[str]:
    """Names of the last part of the photographs; at least one on either side. A single one is split otherwise."""
    count = min(len(photographs) - 1, max(1, round(len(photographs) * test_fraction)))
    return {photograph.name for photograph in photographs[len(photographs) - count :]}


def _side(photograph: Photograph, held_out: set[str]) -> str:
    if not held_out:
        return "both, by region"
    return "test" if photograph.name in held_out else "train"


def _from_photographs(
    photographs: list[Photograph],
    held_out: set[str],
    size: int,
    train: int | None,
    test: int | None,
    seed: int,
    options: dict[str, Any],
) -> tuple[PatchData, list[dict]]:
    shapes, digests = describe(photographs, size)
    training: list[Region] = []
    testing: list[Region] = []
    if held_out:
        for photograph, shape in zip(photographs, shapes, strict=True):
            (testing if photograph.name in held_out else training).append(whole(photograph, shape))
    else:
        one, other = halves(photographs[0], shapes[0], size, options["test_fraction"])
        training, testing = [one], [other]
    counts = (
        proportional(training, DEFAULT_TRAIN if train is None else train, size, "training"),
        proportional(testing, DEFAULT_TEST if test is None else test, size, "test"),
    )
    pixels = sum((r.bottom - r.top) * (r.right - r.left) for r in training)
    intensity = IntensityMap.fit(
        (region.luminance(size) for region in training),
        exposure=options["exposure"],
        floor=options["floor"],
        pixels=pixels,
    )
    transform, sets = None, []
    for split, regions, count, rng in zip(
        ("train", "test"), (training, testing), counts, train_and_test_generators(seed), strict=True
    ):
        patches = cut(regions, count, size, [intensity] * len(regions), rng)
        if transform is None:
            transform = Whitening.fit(patches.x, intensity, contrast=options["contrast"])
        names = np.array([region.photograph.name for region in regions])
        x = transform(patches.x)
        sets.append(patch_dataset(x, split=split, source=names[patches.region], row=patches.row, column=patches.column))
    sources = [
        {"name": p.name, "sha256": d, "shape": list(s), "split": _side(p, held_out)}
        for p, s, d in zip(photographs, shapes, digests, strict=True)
    ]
    return PatchData(sets[0], sets[1], transform, size), sources


def _from_stack(
    stack: PatchStack, size: int, train: int | None, test: int | None, seed: int, options: dict[str, Any]
) -> tuple[PatchData, list[dict]]:
    """Patches cut elsewhere: no photograph is left, so the median of the training patches stands for its own."""
    if options["downsample"] not in (None, 1):
        raise HVAEError(f"{stack.name}: patches that arrive cut are not downsampled; leave downsample out.")
    luminance = to_luminance(stack.luminance.reshape(len(stack.luminance), -1), options["gamma"], stack.name)
    held_out = max(1, round(len(luminance) * options["test_fraction"]))
    parts = {"train": (luminance[:-held_out], train), "test": (luminance[-held_out:], test)}
    chosen = {}
    for (split, (values, count)), rng in zip(parts.items(), train_and_test_generators(seed), strict=True):
        if count is not None and count > len(values):
            raise HVAEError(f"{stack.name}: {count:,} {split} patches asked for, {len(values):,} there.")
        order = rng.permutation(len(values))[:count]
        chosen[split] = values[order]
    intensity = IntensityMap.fit([chosen["train"]], exposure=options["exposure"], floor=options["floor"])
    median = float(np.median(chosen["train"]))
    matched = {split: intensity(values, median) for split, values in chosen.items()}
    transform = Whitening.fit(matched["train"], intensity, contrast=options["contrast"])
    sets = [patch_dataset(transform(matched[split]), split=split, source=stack.name) for split in ("train", "test")]
    digest = Photograph(stack.name, stack.luminance).sha256()
    sources = [{"name": stack.name, "sha256": digest, "shape": list(stack.luminance.shape), "split": "both, by order"}]
    return PatchData(sets[0], sets[1], transform, size), sources
