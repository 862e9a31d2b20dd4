"""Every model with every guide: what works is what docs/composability.md says, cell by cell."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_data

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, ContrastModel, LinearModel, MarkovModel, SkipModel, make_guide
from pyro_hvae.training.run_directory import load

PAGE = Path(__file__).parents[1] / "docs" / "composability.md"
SIZES = dict(pixels=16, dims=(6, 3))
MODELS = {
    "LinearModel": lambda: LinearModel(16, (6,)),
    "MarkovModel": lambda: MarkovModel(**SIZES, hidden=((7,),)),
    "MarkovModel, three layers": lambda: MarkovModel(16, (6, 4, 2), hidden=((7,), (5,))),
    "SkipModel": lambda: SkipModel(**SIZES, hidden=((7,),), skip_hidden=(5,)),
    "ContrastModel of LinearModel": lambda: ContrastModel(LinearModel(16, (6,))),
    "ContrastModel of MarkovModel": lambda: ContrastModel(MarkovModel(**SIZES, hidden=((7,),))),
}
GUIDES = {"mean-field": "mean_field", "top-down": "top_down", "bottom-up": "bottom_up", "ladder": "ladder"}
CLOSED = "yes"  # z1 is integrated out in closed form by gradient="rao_blackwell"
SAMPLED = "sampled"  # the pair works, and z1 is always sampled


def small_hidden(name: str, layers: int) -> dict:
    """Hidden units of a few, for each guide."""
    above = layers - 1
    return {
        "mean_field": {"hidden": ((8,),) * layers},
        "bottom_up": {"hidden": ((8,),) * layers},
        "top_down": {"hidden_x": ((8,),) * layers, "hidden_z": ((5,),) * above, "hidden_joint": ((8,),) * above},
        "ladder": {"hidden_x": ((8,),) * layers} if above else {},
    }[name]


def cells() -> dict[tuple[str, str], str]:
    """The table of the page."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ")
    ]
    head, *rows = rows
    return {(row[0].strip("`"), guide): cell for row in rows for guide, cell in zip(head[1:], row[1:], strict=True)}


def test_the_table_has_every_model_and_guide():
    assert set(cells()) == {(model, guide) for model in MODELS for guide in GUIDES}


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("model", MODELS)
def test_what_the_table_says(model, guide, tmp_path):
    torch.manual_seed(0)
    program = MODELS[model]()
    vae = HVAE(program, make_guide(GUIDES[guide], program, **small_hidden(GUIDES[guide], len(program.dims))))
    data = small_data()
    options = dict(steps=2, batch=20, learning_rate=1e-3, progress=False, device="cpu", compile=False)
    run = hvae.fit(vae, data, out=tmp_path / "run", **options)
    again = load(tmp_path / "run")
    assert all(torch.equal(p, q) for p, q in zip(run.vae.parameters(), again.parameters(), strict=True))
    tree = hvae.export_posterior(
        again, data, draws=20, moment_draws=2, prior_samples=2, receptive_fields=1, path=tmp_path / "p.nc"
    )
    assert np.isfinite(tree["bound"]["elbo"]).all()
    assert {f"{site}_mean" for site in vae.sites} <= set(tree["posterior_moments"].data_vars)
    assert hvae.analysis.active_dimensions(tree)["site"].values.tolist() == [s for s in vae.sites if s != "c"]
    closed = hvae.ELBO(gradient="rao_blackwell")
    if cells()[model, guide] == CLOSED:
        hvae.fit(again, data, objective=closed, **options)
    else:
        said = re.fullmatch(rf"{SAMPLED}: (.*)", cells()[model, guide])
        with pytest.raises(HVAEError, match=re.escape(said[1])):
            hvae.fit(again, data, objective=closed, **options)
