"""The evidence lower bound and its terms, un-annealed, on natural and texture images (Vas 2024)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.common import Z95, complete_images, image_sets, mean_and_se, quantity, result, selected
from pyro_hvae.files import sites


def bound_terms(tree: xr.DataTree) -> xr.Dataset:
    """Mean over images of the ELBO, the reconstruction term and the KL divergence of every layer, in nats per image.

    Returns
    -------
    Dataset with ``bound (set, term)`` and its s.e. over images; ``set`` is ``natural`` and ``texture``, those present, ``term``
    is ``elbo``, ``reconstruction`` (E_q[log p(x|z)]) and ``zl_kl`` for every layer. ``imbalance (set)`` is the mean of
    ``elbo - reconstruction + sum of KL``, zero but for Monte Carlo error of the export.

    Raises
    ------
    HVAEError
        Where no image has finite terms.
    """
    notes: list[str] = []
    terms = ["elbo", "reconstruction", *(f"{name}_kl" for name in sites(tree))]
    usable = complete_images(tree, [f"bound/{term}" for term in terms], notes)
    sets = {name: members & usable for name, members in image_sets(tree).items() if (members & usable).any()}
    values = {name: np.stack([selected(tree, f"bound/{t}", mask) for t in terms], 1) for name, mask in sets.items()}
    estimates = [mean_and_se(value) for value in values.values()]
    mean, se = (np.stack(column) for column in zip(*estimates, strict=True))
    counts = np.array([[len(value)] for value in values.values()])
    n = np.broadcast_to(counts, mean.shape)
    variables = quantity("bound", ["set", "term"], mean, title="bound", unit="nats per image", n=n, se=se)
    variables["imbalance"] = xr.Variable(
        "set", mean[:, 0] - mean[:, 1] + mean[:, 2:].sum(1), {"units": "nats per image"}
    )
    return result(tree, "bound_terms", variables, {"set": list(sets), "term": terms}, notes)


def _title(term: str) -> str:
    return {"elbo": "ELBO", "reconstruction": "E[log p(x|z)]"}.get(term, f"KL of {term.removesuffix('_kl')}")


@style.styled
def plot_bound_terms(dataset: xr.Dataset) -> style.Picture:
    """The bound and its terms, each on its own scale, natural and texture images side by side."""
    terms = [str(term) for term in dataset["term"].values]
    sets = [str(name) for name in dataset["set"].values]
    figure = style.figure(style.FULL, 1.9)
    axes = figure.subplots(1, len(terms))
    for axis, term in zip(axes, terms, strict=True):
        for place, name in enumerate(sets):
            at = dataset.sel(set=name, term=term)
            value, error = at["bound"].item(), Z95 * at["bound_se"].item()
            bar = None if np.isnan(error) else error
            axis.errorbar(place, value, bar, fmt="o", ms=4, capsize=2, color=style.SET_COLOURS[name])
        axis.set(xticks=range(len(sets)), xticklabels=sets, xlim=(-0.6, len(sets) - 0.4), title=_title(term))
        axis.margins(y=0.3)
    axes[0].set_ylabel("nats per image")
    style.letters(axes)
    n = ", ".join(f"{int(dataset['bound_n'].sel(set=name).values[0])} {name}" for name in sets)
    caption = (
        "Evidence lower bound, un-annealed, and its terms: ELBO = E[log p(x|z)] minus the KL of every layer. Points: mean over "
        f"images; bars: 95% interval (± 1.96 s.e.). n = {n} images."
    )
    return style.Picture(figure, caption)
