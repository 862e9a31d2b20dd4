"""Where the gap between the ELBO and log p(x) is: amortisation of each layer, or what its family of q cannot do."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import image_sets, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import Z95, mean_and_se
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.pareto_limits import GOOD_K

PARTS = {
    "amortisation_z1": "amortisation of q(z1|…)",
    "amortisation_upper": "amortisation of the layers above",
    "family_z1": "family of q(z1|…)",
    "family_upper": "family of the layers above",
}


def inference_gap(tree: xr.DataTree) -> xr.Dataset:
    """log p(x) - ELBO, split into what amortisation costs and what the families of q cannot do, layer by layer.

    Returns
    -------
    Dataset with ``gap (set, part)`` in nats per image and its s.e. over images, ``total (set)`` with the same; ``set`` is
    ``natural`` and ``texture``, those present among the images it was computed for. The attribute ``verdict`` says in a
    sentence where most of it is. Parts of a file with one layer, or whose split by layer has no meaning, are merged in those
    of z1.

    Raises
    ------
    HVAEError
        Where the split was made for no image.
    """
    every = np.ones(tree["gap"].sizes["image"], bool)
    values = np.stack([selected(tree, f"gap/{part}", every) for part in PARTS], 1)
    usable = np.isfinite(values).all(1)
    sets = {name: members & usable for name, members in image_sets(tree).items() if (members & usable).any()}
    if not sets:
        raise HVAEError("the file's gap is of no image; export it with --gap N, at least one image")
    estimates = [mean_and_se(values[mask]) for mask in sets.values()]
    mean, se = (np.stack(column) for column in zip(*estimates, strict=True))
    counts = [int(mask.sum()) for mask in sets.values()]
    n = np.broadcast_to(np.array(counts)[:, None], mean.shape)
    variables = quantity("gap", ["set", "part"], mean, title="gap", unit="nats per image", n=n, se=se)
    totals = [mean_and_se(values[mask].sum(1)) for mask in sets.values()]
    whole, error = zip(*totals, strict=True)
    variables |= quantity(
        "total", ["set"], whole, title="log p(x) minus ELBO", unit="nats per image", n=counts, se=error
    )
    notes = []
    weak = int((~(selected(tree, "gap/pareto_k", every)[usable] < GOOD_K)).sum())
    if weak:
        notes.append(
            f"Pareto k-hat is not below {GOOD_K} for {weak} of {int(usable.sum())} images; there log p(x), and the last part, "
            "are lower bounds"
        )
    if tree["gap"].attrs.get("family") != "by layer":
        notes.append(
            "what is left after refinement is not split by layer: all of it stands under the family of q(z1|…)"
        )
    first = mean[0]
    largest = int(np.argmax(first))
    made = result(tree, "inference_gap", variables, {"set": list(sets), "part": list(PARTS)}, notes)
    verdict = (
        f"Of {whole[0]:.1f} nats between the ELBO and log p(x), {first[largest]:.1f} are due to the "
        f"{list(PARTS.values())[largest]}."
    )
    return made.assign_attrs(verdict=verdict)


@style.styled
def plot_inference_gap(dataset: xr.Dataset) -> style.Picture:
    """The parts of the gap as bars, natural and texture images side by side."""
    sets = [str(name) for name in dataset["set"].values]
    figure = style.figure(style.COLUMN, 2.0)
    axis = figure.subplots()
    height = 0.8 / len(sets)
    for i, name in enumerate(sets):
        at = dataset.sel(set=name)
        places = np.arange(len(PARTS)) + (i - (len(sets) - 1) / 2) * height
        axis.barh(
            places, at["gap"], height, xerr=Z95 * np.nan_to_num(at["gap_se"]), color=style.SET_COLOURS[name], label=name,
            error_kw={"lw": 0.8},
        )  # fmt: skip
    axis.set(yticks=range(len(PARTS)), yticklabels=list(PARTS.values()), xlabel="nats per image")
    axis.invert_yaxis()
    axis.axvline(0, color=style.GREY, lw=0.6)
    axis.legend()
    n = ", ".join(f"{int(dataset['total_n'].sel(set=name))} {name}" for name in sets)
    caption = (
        f"log p(x) minus ELBO by cause. {dataset.attrs['verdict']} Amortisation: what refining q for each image gains; family: "
        f"what is left. Bars: mean over images, lines: 95% interval (± 1.96 s.e.). n = {n} images."
    )
    return style.Picture(figure, caption)
