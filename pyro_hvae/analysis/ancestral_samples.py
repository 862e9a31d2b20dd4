"""Ancestral samples of the generative model against the images it was meant to describe."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import blocks, complete_images, finite_array, natural_images, patch_side, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import Z95, jackknife

SHOWN = 36  # pictures of each kind


def ancestral_samples(tree: xr.DataTree) -> xr.Dataset:
    """Pixel moments and spatial spectrum of samples from the prior and of natural images.

    The file holds the mean image of each ancestral sample, ``E[x|z]``. Observed images contain the observation
    noise as well, so the model's own images are the means with ``Normal(0, sigma²)`` noise: its effect on the moments
    and the spectrum (white, ``sigma²`` at every frequency) is added in closed form.

    Returns
    -------
    Dataset over ``which`` (``means``, ``samples`` = means + noise, ``observed``) with ``variance`` (of pixels, about their
    common mean), ``kurtosis`` (excess, of pixels; 0 for Gaussian) and ``spectrum (which, frequency)`` (power per pixel
    at spatial ``frequency`` in cycles per pixel, averaged over orientations), each with s.e. over images; and pictures.
    Natural images are used where there are any, all images otherwise.

    Raises
    ------
    HVAEError
        Where samples or noise are not finite, or the patch is not square.
    """
    notes: list[str] = []
    means = finite_array(tree, "prior_predictive/x_mean")
    noise = float(finite_array(tree, "constant_data/sigma")) ** 2
    mask, used = natural_images(tree, complete_images(tree, ["observed_data/x"], notes))
    if used != "natural":
        notes.append("no natural images in the file: samples are compared with textures")
    frequency = np.arange(1, patch_side(means.shape[1]) // 2 + 1) / patch_side(means.shape[1])
    terms = {"means": _terms(means), "samples": _terms(means)}
    terms["observed"] = np.concatenate([_terms(selected(tree, "observed_data/x", block)) for block in blocks(mask)])
    added = {"means": 0.0, "samples": noise, "observed": 0.0}
    estimates = {which: jackknife(sums, partial(_moments, noise=added[which])) for which, sums in terms.items()}
    value = np.stack([estimates[which][0] for which in terms])
    se = np.stack([estimates[which][1] for which in terms])
    n = [len(sums) for sums in terms.values()]
    variables = quantity(
        "variance", ["which"], value[:, 0], title="pixel variance", unit="squared pixel units", n=n, se=se[:, 0]
    )
    variables |= quantity(
        "kurtosis", ["which"], value[:, 1], title="excess kurtosis of pixels", unit="1", n=n, se=se[:, 1]
    )
    variables["spectrum"] = xr.Variable(("which", "frequency"), value[:, 2:], {"units": "squared pixel units"})
    variables["spectrum_se"] = xr.Variable(("which", "frequency"), se[:, 2:])
    shown = np.flatnonzero(mask)
    shown = shown[np.unique(np.linspace(0, shown.size - 1, SHOWN).astype(int))]
    variables["picture_means"] = xr.Variable(("picture_means_dim", "pixel"), means[:SHOWN])
    variables["picture_observed"] = xr.Variable(
        ("picture_observed_dim", "pixel"), selected(tree, "observed_data/x", shown)
    )
    dataset = result(tree, "ancestral_samples", variables, {"which": list(terms), "frequency": frequency}, notes)
    return dataset.assign_attrs(image_set=used, noise_variance=noise)


def _terms(x: np.ndarray) -> np.ndarray:
    """Per image: 1, pixels, sums of the first four powers, power at each radial frequency."""
    side = patch_side(x.shape[1])
    power = np.abs(np.fft.fft2(x.reshape(-1, side, side))) ** 2 / x.shape[1]
    cycles = np.fft.fftfreq(side) * side
    ring = np.rint(np.hypot(cycles[:, None], cycles[None, :])).astype(int)
    rings = [power[:, ring == radius].mean(1) for radius in range(1, side // 2 + 1)]
    ones = np.ones(len(x))
    return np.stack([ones, ones * x.shape[1], *((x**order).sum(1) for order in range(1, 5)), *rings], axis=1)


def _moments(total: np.ndarray, noise: float) -> np.ndarray:
    """Variance, excess kurtosis and spectrum from summed terms, with independent Gaussian pixel noise added."""
    images, pixels, *powers = total[:6]
    first, second, third, fourth = np.array(powers) / pixels
    m2 = second - first**2
    m4 = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    variance = m2 + noise
    kurtosis = (m4 + 6 * m2 * noise + 3 * noise**2) / variance**2 - 3 if variance > 0 else np.nan
    return np.array([variance, kurtosis, *(total[6:] / images + noise)])


@style.styled
def plot_ancestral_samples(dataset: xr.Dataset) -> style.Picture:
    """Samples and images on one grey scale, and their spatial power spectra."""
    figure = style.figure(style.FULL, 2.5)
    axes = figure.subplots(1, 3)
    means, observed = dataset["picture_means"].values, dataset["picture_observed"].values
    columns = 6
    top = np.quantile(np.abs(np.concatenate([means, observed])), 0.995)
    for axis, patches, title in ((axes[0], means, "ancestral samples (means)"), (axes[1], observed, "images")):
        style.show(axis, style.mosaic(patches, columns, top=top), title)
    colours = {"means": style.SKY, "samples": style.BLUE, "observed": "black"}
    dashes, widths = {"means": "--", "samples": "-", "observed": "-"}, {"means": 1.0, "samples": 2.4, "observed": 1.0}
    names = {"means": "sample means", "samples": "samples with noise", "observed": "images"}
    frequency = dataset["frequency"].values
    for which, colour in colours.items():
        power, se = dataset["spectrum"].sel(which=which).values, dataset["spectrum_se"].sel(which=which).values
        axes[2].fill_between(frequency, power - Z95 * se, power + Z95 * se, color=colour, alpha=0.25, lw=0)
        axes[2].plot(frequency, power, color=colour, label=names[which], ls=dashes[which], lw=widths[which])
    axes[2].set(xlabel="spatial frequency (cycles per pixel)", ylabel="power (squared pixel units)")
    axes[2].set(yscale="log", xlim=(0, 0.5))
    axes[2].legend()
    style.letters(axes)
    n = {
        str(which): int(count)
        for which, count in zip(dataset["which"].values, dataset["variance_n"].values, strict=True)
    }
    kurtosis = ", ".join(
        f"{names[str(which)]} {value:.2f} ± {se:.2f}"
        for which, value, se in zip(
            dataset["which"].values, dataset["kurtosis"].values, dataset["kurtosis_se"].values, strict=True
        )
    )
    caption = (
        f"Left: means of ancestral samples; middle: {dataset.attrs['image_set']} images, same grey scale. Right: power "
        "averaged over orientations, band ± 1.96 s.e.; the observation noise (variance "
        f"{dataset.attrs['noise_variance']:.2g}) is added in closed form. Excess kurtosis of pixels: {kurtosis} (± s.e.). "
        f"n = {n['means']} samples, {n['observed']} images."
    )
    return style.Picture(figure, caption)
