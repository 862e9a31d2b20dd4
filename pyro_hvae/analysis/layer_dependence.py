"""How much of the posterior uncertainty of z1 comes through z2 (posterior files)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.reading import blocks, complete_images, image_sets, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import jackknife
from pyro_hvae.errors import HVAEError

MEAN, SHARE = "posterior_moments/z1_variance", "posterior_moments/z1_variance_from_z2"


def layer_dependence(tree: xr.DataTree) -> xr.Dataset:
    """Share of the posterior variance of the active z1 units that comes through the layers above.

    By the law of total variance Var[z1 | x] = E[Var[z1 | z2, x]] + Var[E[z1 | z2, x]]; the share is the second term over
    the whole, both summed over units and images. A factorised guide has none by construction, whatever the model's posterior
    has (compositional uncertainty, Ustyuzhaninov 2022). Compare a guide's share with that of an exact or sampled
    posterior of the same model: what it lacks is dependence that the guide cannot express.

    Returns
    -------
    Dataset with ``share (set)`` and its standard error over images (jackknife), ``unit_share (set, unit)`` and
    ``image_share (image)``.

    Raises
    ------
    HVAEError
        Where no z1 unit is active.
    """
    notes: list[str] = []
    active = active_dimensions(tree)
    units = np.flatnonzero(active["z1_active"].values)
    if not units.size:
        raise HVAEError("no z1 unit is active, so there is no variance to be shared out")
    complete = complete_images(tree, [MEAN, SHARE], notes)
    sets = {name: mask & complete for name, mask in image_sets(tree).items() if (mask & complete).any()}
    values, errors, counts, by_unit = [], [], [], []
    image_share = np.full(complete.size, np.nan)
    for mask in sets.values():
        sums, per_unit = [], np.zeros((2, units.size))
        for block in blocks(mask):
            above, whole = (selected(tree, path, block)[:, units] for path in (SHARE, MEAN))
            sums.append(np.stack([above.sum(1), whole.sum(1)], 1))
            per_unit += np.stack([above.sum(0), whole.sum(0)])
            image_share[block] = sums[-1][:, 0] / sums[-1][:, 1]
        value, se = jackknife(np.concatenate(sums), lambda s: s[0] / s[1])
        values.append(value)
        errors.append(se)
        counts.append(int(mask.sum()))
        by_unit.append(per_unit[0] / per_unit[1])
    variables = quantity(
        "share", ["set"], values, title="z1 variance that comes through z2", unit="1", n=counts, se=errors
    )
    variables["unit_share"] = xr.Variable(("set", "unit"), np.stack(by_unit))
    variables["image_share"] = xr.Variable("image", image_share)
    return result(tree, "layer_dependence", variables, {"set": list(sets), "unit": units}, notes)


@style.styled
def plot_layer_dependence(dataset: xr.Dataset) -> style.Picture:
    """Distribution of the share over units and over images."""
    figure = style.figure(style.FULL, 2.2)
    left, right = figure.subplots(1, 2)
    bins = np.linspace(0, 1, 41)
    parts = []
    for name in dataset["set"].values:
        at = dataset.sel(set=name)
        left.hist(at["unit_share"].values.clip(0, 1), bins, histtype="step", color=style.SET_COLOURS[name], label=name)
        left.axvline(at["share"].item(), color=style.SET_COLOURS[name], lw=0.8, ls=":")
        parts.append(f"{name} {at['share'].item():.3f} ± {at['share_se'].item():.3f} (n = {int(at['share_n'])} images)")
    shares = dataset["image_share"].values
    right.hist(shares[np.isfinite(shares)].clip(0, 1), bins, color=style.GREY)
    left.set(xlabel="share of z1 variance through z2", ylabel="units", xlim=(0, 1))
    right.set(xlabel="share of z1 variance through z2", ylabel="images", xlim=(0, 1))
    left.legend()
    style.letters([left, right])
    caption = (
        f"Part of the posterior variance of {dataset.sizes['unit']} active z1 units that comes through z2, by unit (a; dotted: "
        f"all together) and by image (b): {'; '.join(parts)}, ± s.e. over images. A factorised guide has 0."
    )
    return style.Picture(figure, caption)
