"""The pictures of docs/stimuli.md: `python docs/figures/stimuli.py`. Embedded and generated images only.

The textures take some minutes (five families by Portilla–Simoncelli synthesis, one by random features); images that are
in `runs/stimuli_figures` are not made again.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pyro_hvae import stimuli
from pyro_hvae.stimuli.examples import texture_examples
from pyro_hvae.stimuli.synthesised import synthesised_images
from pyro_hvae.synthesis import random_features, synthesise

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / "runs" / "stimuli_figures"
STEPS, FEATURE_STEPS, MAPS = 30, 300, 32


def squares(dataset, count: int, channels: int = 1) -> np.ndarray:
    size = round((dataset.sizes["pixel"] / channels) ** 0.5)
    return dataset["x"].values[:count].reshape(-1, *(channels,) * (channels > 1), size, size)


def sheet(name: str, rows: dict[str, Sequence[np.ndarray]], limits: tuple[float, float] | str, *, inch: float = 0.8):
    """Rows of images under their titles; `limits` of grey for all, or `"each"`."""
    columns = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(columns * inch + 1.6, len(rows) * inch * 1.06), squeeze=False, layout="constrained"
    )
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, images, strict=False):
            low, high = (image.min(), image.max()) if limits == "each" else limits
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        line[0].text(-0.12, 0.5, title, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    save(figure, name)


def save(figure, name: str) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    plt.close(figure)
    picture = Image.open(drawn)
    grey = name != "optic_flow"
    picture.convert("L" if grey else "RGB").quantize(32 if grey else 128).save(
        HERE / f"stimuli_{name}.png", optimize=True
    )


def parametric() -> None:
    n = 10
    turned = list(np.linspace(0, 162, n))
    rows = {
        "gratings": stimuli.gratings(40, orientation=turned, frequency=[0.1], phase=[0], diameter=[32]),
        "size series": stimuli.gratings(
            40, orientation=[30], frequency=[0.1], phase=[0], diameter=np.linspace(6, 40, n)
        ),
        "contrast series": stimuli.gratings(
            40, orientation=[30], frequency=[0.1], phase=[0], contrast=np.geomspace(0.02, 0.6, n)
        ),
        "Gabors": stimuli.gabors(40, orientation=[45], frequency=[0.1], phase=np.linspace(0, 324, n), sd=[6]),
        "diff. of Gaussians": stimuli.differences_of_gaussians(40, sd=np.linspace(1, 6, n // 2), contrast=[0.3, -0.3]),
        "plaids": stimuli.plaids(
            40, orientation=[0], angle=np.linspace(0, 90, n), frequency=[0.1], phase=[0], mask_contrast=[0.15]
        ),
        "bars": stimuli.bars(40, orientation=turned, width=[4], length=[24], contrast=[0.3]),
        "edges": stimuli.edges(40, orientation=list(np.linspace(0, 324, n)), offset=[4]),
    }
    sheet("parametric", {title: squares(d, n) for title, d in rows.items()}, (0.6, 1.4), inch=0.62)


def illusory() -> None:
    made = stimuli.illusory_contours(48, square=[24.0], shift=[-12.0, -6.0, 0.0, 6.0])
    images = squares(made, made.sizes["image"])
    names = made["family"].values
    sheet("illusory", {c: images[names == c] for c in dict.fromkeys(names)}, (0, 1.2))


def leaves() -> None:
    made = stimuli.dead_leaves(64, count=10, smallest=2, largest=200, seed=1)
    images = squares(made, 10)
    leaf = made["leaf"].values.reshape(images.shape)
    borders = [(np.diff(one, axis=0)[:, 1:] != 0) | (np.diff(one, axis=1)[1:] != 0) for one in leaf]
    sheet("dead_leaves", {"log luminance": np.log(images), "occlusions": [~one for one in borders]}, "each")


def labelled() -> None:
    sprites, digits = stimuli.sprites(64, train=0, test=12, seed=2), stimuli.digits(28, train=0, test=40)
    by_digit = [np.flatnonzero(digits.test["family"].values == str(d)) for d in range(10)]
    images = squares(digits.test, 40)
    rows = {"sprites": squares(sprites.test, 10)}
    rows |= {f"digits {k + 1}": [images[where[k]] for where in by_digit] for k in range(2)}
    sheet("labelled", rows, (1, 2))


def flow() -> None:
    data = stimuli.optic_flow(17, train=0, test=500, speed=1)
    names = data.test["family"].values
    conditions = list(dict.fromkeys(stimuli.optic_flow.__kwdefaults__["condition"]))
    figure, axes = plt.subplots(2, 5, figsize=(10, 4.4), layout="constrained")
    y, x = np.mgrid[8:-9:-1, -8:9]
    for column, condition in zip(axes.T, conditions, strict=True):
        column[0].set_title(condition, fontsize=9)
        for axis, index in zip(column, np.flatnonzero(names == condition)[1:], strict=False):
            u, v = squares(data.test.isel(image=[index]), 1, channels=2)[0]
            axis.quiver(x, y, u, v, np.hypot(u, v), cmap="viridis", pivot="mid")
            axis.set(xticks=[], yticks=[], aspect="equal")
    save(figure, "optic_flow")


def patches() -> None:
    """Natural patches, what is selected of them, masks and textures, all whitened."""
    natural = stimuli.natural_patches(20, train=20_000, test=4_000)
    textures = stimuli.texture_patches(20, transform=natural.transform, train=300, test=300)
    n = 12
    rows = {
        "natural": squares(natural.test, n),
        "highest contrast": squares(stimuli.highest_contrast(natural, count=n).test, n),
    }
    rows |= {
        f"mask: {s}": squares(stimuli.masked(natural, shape=s, radius=6).test, n) for s in ("disk", "surround", "left")
    }
    names = textures.test["family"].values
    rows |= {f"texture: {f}": squares(textures.test.isel(image=names == f), n) for f in ("brick", "grass", "gravel")}
    sheet("patches", rows, (-3.5, 3.5), inch=0.6)


def textures() -> None:
    folder = synthesise(folder=CACHE / "portilla_simoncelli", images=3, steps=STEPS)
    made = {image.family: image.luminance() for image in synthesised_images(folder) if image.number == 0}
    examples = {example.family: example.image for example in texture_examples(side=128)}
    scrambled = [stimuli.controls.phase_scrambled(examples[f], np.random.default_rng(0)) for f in made]
    both = [stimuli.controls.spectrum_and_histogram_matched(examples[f], np.random.default_rng(0)) for f in made]
    rows = {
        "photograph": [examples[f] for f in made],
        "synthesised": list(made.values()),
        "same spectrum": scrambled,
        "and histogram": both,
    }
    sheet("textures", {k: [np.sqrt(np.clip(i, 0, 1)) for i in v] for k, v in rows.items()}, (0, 1), inch=1.3)
    features = []
    for rectify in (True, False):
        path = CACHE / f"features_{rectify}_{FEATURE_STEPS}_{MAPS}.npy"
        if not path.exists():
            np.save(path, random_features(examples["brick"], steps=FEATURE_STEPS, maps=MAPS, rectify=rectify).image)
        features.append(np.load(path))
    sheet("random_features", {"": [np.sqrt(i) for i in (examples["brick"], *features)]}, (0, 1), inch=1.6)


if __name__ == "__main__":
    for draw in (parametric, illusory, leaves, labelled, flow, patches, textures):
        draw()
        print(draw.__name__)
