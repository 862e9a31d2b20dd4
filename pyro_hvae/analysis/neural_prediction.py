"""Responses of a user's neurons to the images of a posterior file, predicted from posterior moments."""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import xarray as xr
from sklearn.linear_model import LassoCV, RidgeCV
from sklearn.model_selection import KFold

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import complete_images, patch_side, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.storage.guards import check_promise, check_promises
from pyro_hvae.storage.posterior_file import images, sites

METHODS = ("ridge", "lasso")
PENALTIES = np.geomspace(1e-1, 1e6, 15)  # of ridge regression, for standardised features
FEWEST = 20  # images with a response, for a neuron to be predicted
RELIABLE = 0.1  # ceiling under which a neuron's normalised correlation says nothing


def read_responses(path: str | os.PathLike[str]) -> xr.DataArray:
    """Responses ``(image, repeat, neuron)`` from netCDF (a variable ``responses`` with these dims, in any order) or ``.npz``
    (an array ``responses`` with these axes). NaN where there is none.

    :raises HVAEError: where the file is missing, damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise HVAEError(f"{path}: no such file of responses")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                promised = sum(member.file_size for member in file.zip.infolist())
                check_promise(promised, path.stat().st_size, path, "save it anew")
                found = file.get("responses")
                names = list(file)
            array = None if found is None else xr.DataArray(found, dims=("image", "repeat", "neuron")[: found.ndim])
        else:
            with xr.open_dataset(path, engine="netcdf4") as dataset:
                check_promises(dataset, path, "save it anew")
                names = [str(name) for name in dataset]
                array = dataset["responses"].load() if "responses" in dataset else None
    except HVAEError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise HVAEError(f"{path} cannot be read as responses (netCDF or .npz): {error}") from error
    if array is None:
        raise HVAEError(f"{path} has no 'responses' (image, repeat, neuron); it has {', '.join(names) or 'nothing'}")
    return _as_responses(array, str(path))


def _as_responses(responses: xr.DataArray | np.ndarray, where: str) -> xr.DataArray:
    if not isinstance(responses, xr.DataArray):
        if responses.ndim != 3:
            raise HVAEError(f"{where} must have the axes (image, repeat, neuron), got shape {responses.shape}")
        responses = xr.DataArray(responses, dims=("image", "repeat", "neuron"))
    if set(responses.dims) != {"image", "repeat", "neuron"} or responses.dtype.kind not in "fiub":
        raise HVAEError(f"{where} must be numbers (image, repeat, neuron), got {responses.dtype} {responses.dims}")
    return responses.transpose("image", "repeat", "neuron").astype(float)


@checked
def neural_prediction(
    tree: xr.DataTree,
    responses: xr.DataArray | np.ndarray,
    method: str = "ridge",
    folds: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """How well neurons are predicted from the posteriors of the images that they were shown.

    Features, standardised on the training images: ``pixels``; ``gabor_energy``, a bank of quadrature pairs, square
    roots of energies; the posterior means of each layer; ``moments``, of all layers the means, their magnitudes and log
    variances. Images are dealt to ``folds``; each is predicted from the others, among which the penalty is chosen by
    cross-validation (nested), for each neuron.

    The correlation of predicted and mean response is divided by its ceiling, the correlation of the mean over repeats
    with the neuron's true mean, known from the variance between repeats (Schoppe et al. 2016). Neurons of a ceiling under 0.1,
    or without repeats, have no normalised correlation.

    :param tree: posterior file of the images, in the order of the responses.
    :param responses: ``(image, repeat, neuron)``; NaN where there is none (:func:`read_responses`).
    :param method: ``"ridge"``, or ``"lasso"`` for sparse regression, which takes far longer.
    :returns: by features, medians over neurons: ``correlation`` and ``normalised``; and ``ceiling``. Per neuron
        ``neuron_correlation (features, neuron)``, ``neuron_ceiling (neuron)``.
    :raises HVAEError: for other numbers of images, and where no neuron has responses to 20 images.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    whole_number("folds", folds, 2)
    given = _as_responses(responses, "responses")
    if given.sizes["image"] != (count := images(tree)):
        raise HVAEError(
            f"the responses are to {given.sizes['image']} images, the posterior file has {count}: they must be the same ones"
        )
    notes: list[str] = []
    moments = [f"posterior_moments/{site}_{m}" for site in sites(tree) for m in ("mean", "variance")]
    complete = complete_images(tree, ["observed_data/x", *moments], notes)
    target, ceiling = mean_and_ceiling(given.values[complete])
    usable = np.isfinite(target).sum(0) >= max(FEWEST, 2 * folds)
    there = np.isfinite(target)
    usable &= np.where(there, target, -np.inf).max(0) > np.where(there, target, np.inf).min(0)
    if not usable.any():
        raise HVAEError(f"no neuron has varying responses to at least {max(FEWEST, 2 * folds)} images")
    if not usable.all():
        notes.append(f"{int((~usable).sum())} neurons left out: too few responses, or all alike")
    features = _features(tree, complete)
    correlation = np.full((len(features), target.shape[1]), np.nan)
    for row, x in enumerate(features.values()):
        predicted = _predicted(x, target, usable, method, folds, seed)
        for neuron in np.flatnonzero(usable):
            there = np.isfinite(target[:, neuron])
            p, t = predicted[there, neuron], target[there, neuron]
            correlation[row, neuron] = np.corrcoef(p, t)[0, 1] if p.std() > 0 else 0.0
    reliable = ceiling >= RELIABLE
    normalised = np.where(reliable, correlation / np.where(reliable, ceiling, 1.0), np.nan)
    if weak := int((usable & ~reliable).sum()):
        notes.append(f"{weak} neurons have no repeats, or a ceiling under {RELIABLE}, and no normalised correlation")
    names = list(features)
    variables: dict[str, xr.Variable] = {}
    for name, title, values in (
        ("correlation", "correlation of predicted and mean response", correlation),
        ("normalised", "correlation over its ceiling", normalised),
    ):
        rows = [median_and_interval(v[np.isfinite(v)]) for v in values]
        variables |= quantity(name, ["features"], [r[0] for r in rows], title=title, unit="1",
                              interval=[r[1] for r in rows], n=np.isfinite(values).sum(1))  # fmt: skip
    known = ceiling[usable & np.isfinite(ceiling)]
    value, interval = median_and_interval(known)
    variables |= quantity(
        "ceiling", [], value, title="ceiling of the correlation", unit="1", interval=interval, n=known.size
    )
    variables["neuron_correlation"] = xr.Variable(("features", "neuron"), correlation)
    variables["neuron_ceiling"] = xr.Variable("neuron", ceiling)
    made = result(tree, "neural_prediction", variables, {"features": names}, notes)
    return made.assign_attrs(method=method, folds=folds, images=int(complete.sum()))


def mean_and_ceiling(responses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over repeats ``(image, neuron)`` and the correlation of that mean with the true one ``(neuron,)``.

    Of images with two repeats or more the variance between repeats over their number is what noise adds to the variance of
    the means. NaN for neurons without repeats; 0 where noise explains all the variance there is.
    """
    there = np.isfinite(responses)
    n = there.sum(1)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", category=RuntimeWarning)  # of images that a neuron has not seen
        mean = np.nanmean(responses, 1)
        noise = np.nanvar(responses, 1, ddof=1)  # NaN for a single repeat
        between = np.nanvar(mean, 0, ddof=1)
        # The noise of an image is taken as that of all images of the neuron: images with one repeat have it as well.
        of_mean = np.nanmean(noise, 0) * np.nanmean(np.where(n > 0, 1 / n, np.nan), 0)
        ceiling = np.sqrt(np.clip(1 - of_mean / between, 0, 1))
    return mean, ceiling


def _features(tree: xr.DataTree, mask: np.ndarray) -> dict[str, np.ndarray]:
    x = selected(tree, "observed_data/x", mask)
    found = {"pixels": x, "gabor_energy": gabor_energies(x)}
    every = []
    for site in sites(tree):
        mean = selected(tree, f"posterior_moments/{site}_mean", mask)
        variance = selected(tree, f"posterior_moments/{site}_variance", mask)
        found[f"{site}_mean"] = mean
        every += [mean, np.abs(mean), np.log(np.maximum(variance, 1e-12))]
    found["moments"] = np.concatenate(every, 1)
    return found


def gabor_energies(x: np.ndarray, orientations: int = 8, octaves: int = 3, places: int = 3) -> np.ndarray:
    """Square roots of energies of quadrature pairs of Gabors for images ``(image, pixel)``: orientations evenly
    round, frequencies from 0.35 cycles/pixel down in octaves, widths of half a period, ``places``² centres."""
    side = patch_side(x.shape[1])
    offset = np.arange(side) - (side - 1) / 2
    px, py = np.meshgrid(offset, -offset)
    centres = np.linspace(-0.3, 0.3, places) * side
    energies = []
    for f in 0.35 / 2.0 ** np.arange(octaves):
        for theta in np.pi * np.arange(orientations) / orientations:
            for cx in centres:
                for cy in centres:
                    dx, dy = px - cx, py - cy
                    envelope = np.exp(-(dx**2 + dy**2) * 2 * f**2)
                    across = 2 * np.pi * f * (dy * np.cos(theta) - dx * np.sin(theta))
                    pair = np.stack([(envelope * np.cos(across)).ravel(), (envelope * np.sin(across)).ravel()])
                    energies.append(np.sqrt(((x @ pair.T) ** 2).sum(1)))
    return np.stack(energies, 1)


def _predicted(x: np.ndarray, target: np.ndarray, usable: np.ndarray, method: str, folds: int, seed: int) -> np.ndarray:
    """Predictions ``(image, neuron)`` of each image by what was fitted without it. Neurons that miss the same images are fitted
    together."""
    predicted = np.full(target.shape, np.nan)
    there = np.isfinite(target)
    patterns: dict[bytes, list[int]] = {}
    for neuron in np.flatnonzero(usable):
        patterns.setdefault(there[:, neuron].tobytes(), []).append(int(neuron))
    for neurons in patterns.values():
        rows = np.flatnonzero(there[:, neurons[0]])
        for train, test in KFold(folds, shuffle=True, random_state=seed).split(rows):
            fit, held = rows[train], rows[test]
            mean, spread = x[fit].mean(0), x[fit].std(0)
            kept = spread > 1e-12 * max(float(spread.max(initial=0)), 1e-300)
            a, b = ((x[part][:, kept] - mean[kept]) / spread[kept] for part in (fit, held))
            y = target[np.ix_(fit, neurons)]
            if not kept.any():
                predicted[np.ix_(held, neurons)] = y.mean(0)
                continue
            predicted[np.ix_(held, neurons)] = _regressed(a, y, b, method, seed)
    return predicted


def _regressed(a: np.ndarray, y: np.ndarray, b: np.ndarray, method: str, seed: int) -> np.ndarray:
    if method == "ridge":
        centre = y.mean(0)
        fit = RidgeCV(PENALTIES, alpha_per_target=y.shape[1] > 1).fit(a, y - centre)
        return fit.predict(b).reshape(len(b), -1) + centre
    columns = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the least penalties, which do not converge and are not chosen
        for column in y.T:
            top = np.abs(a.T @ (column - column.mean())).max() / len(a)  # from here on every weight is zero
            penalties = max(top, 1e-12) * np.geomspace(1, 0.01, 20)
            columns.append(LassoCV(alphas=penalties, cv=4, random_state=seed).fit(a, column).predict(b))
    return np.stack(columns, 1)


@style.styled
def plot_neural_prediction(dataset: xr.Dataset) -> style.Picture:
    """Correlations of each neuron by features, medians and intervals; the best features against pixels."""
    names = [str(name) for name in dataset["features"].values]
    figure = style.figure(style.FULL, 2.5)
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    values = dataset["neuron_correlation"].values
    rng = np.random.default_rng(0)
    for at, row in enumerate(values):
        left.plot(at + rng.uniform(-0.2, 0.2, row.size), row, ".", ms=2, color=style.GREY, alpha=0.6)
        low, high = dataset["correlation_interval"].values[at]
        left.vlines(at, low, high, color=style.BLUE)
        left.plot(at, dataset["correlation"].values[at], "o", ms=4, color=style.BLUE)
    if np.isfinite(ceiling := dataset["ceiling"].item()):
        left.axhline(ceiling, color=style.GREY, ls=":")
    left.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
    left.set(ylabel="correlation with the mean response")
    right.plot(values[names.index("gabor_energy")], values[names.index("moments")], ".", ms=3, color=style.BLUE)
    ends = [float(np.nanmin(values, initial=0)), 1.0]
    right.plot(ends, ends, color=style.GREY, lw=0.6)
    right.set(xlabel="from Gabor energies", ylabel="from posterior moments")
    style.letters([left, right])
    parts = []
    for name in names:
        here = dataset.sel(features=name)
        text = f"{name.replace('_', ' ')} {here['correlation'].item():.2f}"
        if np.isfinite(here["normalised"].item()):
            text += f" ({here['normalised'].item():.2f} of the ceiling)"
        parts.append(text)
    caption = (
        f"Correlation of predicted and mean response, each neuron a dot, median and 95% interval in blue, dotted: the ceiling; "
        f"{dataset.attrs['method']} regression, {dataset.attrs['folds']} folds, nested, n = {dataset.sizes['neuron']} neurons, "
        f"{dataset.attrs['images']} images. Medians: {', '.join(parts)}."
    )
    return style.Picture(figure, caption)
