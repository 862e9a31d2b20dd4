"""How well the posterior predictive mean gives the image back."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import blocks, complete_images, image_sets, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import jackknife, mean_and_se

EXAMPLES = 8  # images of each set in the picture


def reconstructions(tree: xr.DataTree) -> xr.Dataset:
    """Compare each image ``x`` with the mean of its posterior predictive ``x_mean``.

    Where the file holds a mask, only the pixels that were shown are compared.

    Returns
    -------
    Dataset with, over ``set`` (``natural`` and ``texture``, those present): ``correlation`` (mean over images of the
    Pearson correlation over pixels), ``explained_variance`` (1 - residual / total sum of squares about each image's
    mean, pooled over images), ``residual_variance`` (mean squared residual of a pixel, in squared units of the
    preprocessed image; with an observation noise ``sigma`` a perfect model leaves less than ``sigma²``), each with its
    s.e. over images; per image ``image_correlation``, ``image_explained_variance``, ``image_set``; and a few examples
    (``example_x``, ``example_x_mean``). An image of one flat grey has no correlation and is left out of that mean.

    Raises
    ------
    HVAEError
        Where no image is finite.
    """
    notes: list[str] = []
    usable = complete_images(tree, ["observed_data/x", "posterior_predictive/x_mean"], notes)
    if "mask" in tree["observed_data"]:
        notes.append("masked images: only the pixels that were shown are compared")
    sets = {name: members & usable for name, members in image_sets(tree).items() if (members & usable).any()}
    names = list(sets)
    estimates: dict[str, list[tuple[float, float]]] = {
        key: [] for key in ("correlation", "explained_variance", "residual_variance")
    }
    counts, correlations, explained, membership, examples = [], [], [], [], []
    for name, members in sets.items():
        sums = np.concatenate([_sums(tree, block) for block in blocks(members)])
        residual, x_square, y_square, xy, pixels = sums.T
        moving = (x_square > 0) & (y_square > 0)
        if not moving.all():
            notes.append(
                f"{name}: {int((~moving).sum())} images (or reconstructions) without variance have no correlation"
            )
        correlation = np.full(len(sums), np.nan)
        correlation[moving] = xy[moving] / np.sqrt(x_square[moving] * y_square[moving])
        estimates["correlation"].append(_mean(correlation[moving]))
        for key, terms in (("explained_variance", (residual, x_square)), ("residual_variance", (residual, pixels))):
            ratio, se = jackknife(np.stack(terms, 1), _ratio)
            estimates[key].append((1 - float(ratio) if key == "explained_variance" else float(ratio), float(se)))
        counts.append(len(sums))
        correlations.append(correlation)
        explained.append(1 - np.divide(residual, x_square, out=np.full(len(sums), np.nan), where=x_square > 0))
        membership += [name] * len(sums)
        chosen = np.flatnonzero(members)
        examples.append(chosen[np.unique(np.linspace(0, chosen.size - 1, EXAMPLES).astype(int))])
    variables: dict[str, xr.Variable] = {}
    for key, title, unit in (
        ("correlation", "correlation of image and reconstruction", "1"),
        ("explained_variance", "explained variance", "1"),
        ("residual_variance", "residual variance", "squared pixel units"),
    ):
        values, errors = zip(*estimates[key], strict=True)
        variables |= quantity(key, ["set"], values, title=title, unit=unit, n=counts, se=errors)
    variables["image_correlation"] = xr.Variable("image", np.concatenate(correlations))
    variables["image_explained_variance"] = xr.Variable("image", np.concatenate(explained))
    variables["image_set"] = xr.Variable("image", np.array(membership))
    shown = np.concatenate(examples)
    variables["example_set"] = xr.Variable("example", np.repeat(names, [len(part) for part in examples]))
    for key, path in (("x", "observed_data/x"), ("x_mean", "posterior_predictive/x_mean")):
        variables[f"example_{key}"] = xr.Variable(("example", "pixel"), selected(tree, path, shown))
    dataset = result(tree, "reconstruction", variables, {"set": names}, notes)
    sigma = tree["constant_data"].get("sigma") if "constant_data" in tree.children else None
    return dataset if sigma is None else dataset.assign_attrs(sigma_squared=float(sigma) ** 2)


def _sums(tree: xr.DataTree, images: np.ndarray) -> np.ndarray:
    """Per image: residual, centred x, centred y sums of squares, their cross product, and the number of pixels."""
    x, y = (selected(tree, path, images) for path in ("observed_data/x", "posterior_predictive/x_mean"))
    shown = np.ones_like(x)
    if "mask" in tree["observed_data"]:
        shown = selected(tree, "observed_data/mask", images)
    pixels = np.maximum(shown.sum(1, keepdims=True), 1)
    u, v = (shown * (values - (shown * values).sum(1, keepdims=True) / pixels) for values in (x, y))
    terms = (shown * (x - y) ** 2, u**2, v**2, u * v, shown)
    return np.stack([term.sum(1) for term in terms], axis=1)


def _mean(values: np.ndarray) -> tuple[float, float]:
    mean, se = mean_and_se(values) if values.size else (np.nan, np.nan)
    return float(mean), float(se)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[0] / sums[1] if sums[1] > 0 else np.array(np.nan)


@style.styled
def plot_reconstruction(dataset: xr.Dataset) -> style.Picture:
    """Images, reconstructions and residuals on one grey scale; distribution of the correlation per set."""
    names = [str(name) for name in dataset["set"].values]
    figure = style.figure(style.FULL, 1.1 + 1.05 * len(names))
    axes = figure.subplots(1, 2, width_ratios=[2.1, 1])
    x, y = dataset["example_x"].values, dataset["example_x_mean"].values
    members = dataset["example_set"].values.astype(str)
    rows, texts = [], []
    columns = max(int((members == name).sum()) for name in names)
    for name in names:
        for values, text in ((x, "image"), (y, "mean"), (x - y, "residual")):
            chosen = values[members == name]
            rows.append(np.pad(chosen, ((0, columns - len(chosen)), (0, 0)), constant_values=np.nan))
            texts.append(f"{name}\n{text}" if text == "image" else text)
    canvas = style.mosaic(np.concatenate(rows), columns, top=float(np.quantile(np.abs(x), 0.995)))
    style.show(axes[0], canvas)
    step = (canvas.shape[0] + 1) / len(rows)
    for index, text in enumerate(texts):
        axes[0].text(-2, (index + 0.5) * step, text, ha="right", va="center")
    correlation, image_set = dataset["image_correlation"].values, dataset["image_set"].values.astype(str)
    for name in names:
        values = np.sort(correlation[(image_set == name) & np.isfinite(correlation)])
        share = np.arange(1, values.size + 1) / max(values.size, 1)
        axes[1].step(values, share, where="post", color=style.SET_COLOURS[name], label=f"{name}, n = {values.size}")
    axes[1].set(xlabel="correlation of image and mean", ylabel="cumulative share of images", ylim=(0, 1))
    axes[1].legend(loc="upper left")
    style.letters(axes)
    parts = [
        f"{name}: explained variance {at['explained_variance'].item():.3f} ± {at['explained_variance_se'].item():.3f}"
        for name in names
        for at in [dataset.sel(set=name)]
    ]
    caption = (
        "Left: images, means of the posterior predictive, and residuals, on one grey scale. Right: correlation over pixels "
        f"of image and mean. {'; '.join(parts)} (± s.e.). n = "
        + ", ".join(f"{int(n)} {name}" for name, n in zip(names, dataset["correlation_n"].values, strict=True))
        + " images."
    )
    return style.Picture(figure, caption)
