"""How z2 sets location and scale of z1: the contextual prior, and traversals of z2 decoded to images."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.projective_fields import VISIBLE, location_share
from pyro_hvae.analysis.reading import finite_array
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.errors import HVAEError

SHOWN = 12


def contextual_prior(tree: xr.DataTree) -> xr.Dataset:
    """What a z2 dimension does to the prior of z1: half the change of p(z1|z2) between +e and -e along it.

    The location effect is the root mean square over active z1 units of half the change of the location, the scale effect that
    of the logarithm of the scale. The contextual map of a dimension is the change of the log scale of the units at each
    pixel, weighted by the squares of their projective fields: which parts of the image it expects to vary more.

    Returns
    -------
    Dataset with ``effect (parameter)`` (``location``, in units of z1, ``log_scale``): median over active z2 dimensions;
    ``reach``: median number of z1 units whose scale a dimension sets (participation ratio of the squared changes); over
    ``z2_dim``: ``location_effect``, ``log_scale_effect``, ``dim_reach``, ``active``, ``context (z2_dim, pixel)``, ``traversal
    (z2_dim, pixel)`` (half the change of the mean image) and ``location_share`` (of the variance of images along the
    traversal; below 5% there is no traversal to speak of, and none is drawn).

    Raises
    ------
    HVAEError
        Where no dimension of z1 or z2 is active.
    """
    notes: list[str] = []
    activity = active_dimensions(tree)
    units, dims = (np.flatnonzero(activity[f"{name}_active"].values) for name in ("z1", "z2"))
    if not units.size or not dims.size:
        raise HVAEError(
            f"{units.size} z1 units and {dims.size} z2 dimensions are active: there is no context to describe"
        )
    location, log_scale = (
        finite_array(tree, f"constant_data/z2_to_z1_{name}")[:, units] for name in ("location", "log_scale")
    )
    effects = {"location": np.sqrt((location**2).mean(1)), "log_scale": np.sqrt((log_scale**2).mean(1))}
    squares = log_scale**2
    quartic = (squares**2).sum(1)
    reach = np.divide(squares.sum(1) ** 2, quartic, out=np.full(len(squares), np.nan), where=quartic > 0)
    traversal = finite_array(tree, "constant_data/z2_field")
    power = finite_array(tree, "constant_data/A")[:, units] ** 2
    covered = power.sum(1)
    context = np.divide(log_scale @ power.T, covered, out=np.zeros((len(log_scale), len(power))), where=covered > 0)
    medians, bounds = zip(*(median_and_interval(values[dims]) for values in effects.values()), strict=True)
    variables = quantity(
        "effect", ["parameter"], medians, title="effect of a z2 dimension on the prior of z1", unit="rms over units",
        n=dims.size, interval=list(bounds),
    )  # fmt: skip
    known = reach[dims][np.isfinite(reach[dims])]
    median, interval = median_and_interval(known)
    variables |= quantity(
        "reach",
        [],
        median,
        title="z1 units whose scale a z2 dimension sets",
        unit="units",
        n=known.size,
        interval=interval,
    )
    variables |= {f"{name}_effect": xr.Variable("z2_dim", values) for name, values in effects.items()}
    variables |= {
        "dim_reach": xr.Variable("z2_dim", reach),
        "active": xr.Variable("z2_dim", activity["z2_active"].values),
        "context": xr.Variable(("z2_dim", "pixel"), context, {"units": "change of log scale"}),
        "traversal": xr.Variable(("z2_dim", "pixel"), traversal),
        "location_share": xr.Variable("z2_dim", location_share(tree, traversal, notes)),
    }
    return result(tree, "contextual_prior", variables, {"parameter": list(effects)}, notes)


@style.styled
def plot_contextual_prior(dataset: xr.Dataset) -> style.Picture:
    """Traversals and contextual maps of the strongest active dimensions; location against scale effect."""
    figure = style.figure(style.FULL, 2.6)
    axes = figure.subplots(1, 2, width_ratios=[2.2, 1])
    active, scale, location = (dataset[name].values for name in ("active", "log_scale_effect", "location_effect"))
    order = np.flatnonzero(active)
    order = order[np.argsort(-scale[order])][:SHOWN]
    context, traversal = dataset["context"].values[order], dataset["traversal"].values[order]
    context = context / max(float(np.abs(context).max()), 1e-12)
    traversal = traversal / np.maximum(np.abs(traversal).max(1, keepdims=True), 1e-12)
    negligible = dataset["location_share"].values[order] < VISIBLE
    traversal[negligible] = np.nan
    parts = {"context": context} if negligible.all() else {"traversal": traversal, "context": context}
    columns = len(order) if len(parts) > 1 else -(-len(order) // 2)
    canvas = style.mosaic(np.concatenate(list(parts.values())), columns, top=1.0)
    style.show(axes[0], canvas, cmap="RdBu_r")
    for k, text in enumerate(parts):
        axes[0].text(-2, (k + 0.5) * (canvas.shape[0] + 1) / len(parts), text, ha="right", va="center")
    for chosen, colour, text in ((active, style.BLUE, "active"), (~active, style.ORANGE, "collapsed")):
        axes[1].plot(location[chosen], scale[chosen], "o", ms=3, mec="none", alpha=0.7, color=colour, label=text)
    axes[1].set(xlabel="effect on the location of z1 (rms)", ylabel="effect on the log scale of z1 (rms)")
    axes[1].set_xlim(0, None)
    axes[1].set_ylim(0, None)
    axes[1].legend(handletextpad=0.1)
    style.letters(axes)
    value = dataset["effect"].values
    caption = (
        f"a: the {len(order)} active z2 dimensions with the largest effect on the scale of z1, by falling effect. Traversal: "
        "half the change of the mean image between plus and minus one, each on its own scale; not drawn for the "
        f"{int(negligible.sum())} that account for less than {100 * VISIBLE:g}% of the variance of images along it. Context: "
        "change of the log scale of z1 at each pixel (one scale; red: expected to vary more). b: effects of every z2 "
        f"dimension on location and log scale of z1; median over active ones {value[0]:.3g} and {value[1]:.3g}. "
        f"n = {int(active.sum())} active of {active.size} z2 dimensions."
    )
    return style.Picture(figure, caption)
