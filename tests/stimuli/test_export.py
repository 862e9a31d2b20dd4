"""Whatever is made goes into a posterior file as it is."""

import pytest

from pyro_hvae import export_posterior
from pyro_hvae.programs import HVAE, LinearModel, MeanFieldGuide
from pyro_hvae.stimuli import PatchData, as_patch_data, dead_leaves, digits, gratings, masked, optic_flow
from pyro_hvae.training.fit import fit
from tests.small import SIZE, small_linear


@pytest.mark.parametrize("name", ["gratings", "dead_leaves", "digits", "saved"])
def test_export_takes_it_directly(name, tmp_path):
    images = {
        "gratings": lambda: gratings(SIZE),
        "dead_leaves": lambda: dead_leaves(SIZE, count=12),
        "digits": lambda: digits(SIZE, train=0, test=10),
        "saved": lambda: PatchData.load(as_patch_data(gratings(SIZE)).save(tmp_path / "g.nc")),
    }[name]()
    tree = export_posterior(small_linear(), images, moment_draws=4)
    expected = images.test if isinstance(images, PatchData) else images
    assert (tree["observed_data/x"].values == expected["x"].values).all()
    assert (tree["constant_data/source"].values == expected["source"].values).all()


def test_masks_are_exported():
    made = masked(as_patch_data(gratings(SIZE)), shape="left", space="whitened")
    tree = export_posterior(small_linear(), made, moment_draws=4)
    assert (tree["observed_data/mask"].values == made.test["mask"].values).all()


def test_optic_flow_is_trained_on_and_exported(tmp_path):
    data = optic_flow(3, train=200, test=20)
    sizes = {"pixels": 18, "dims": (5,), "families": ("normal",)}
    vae = HVAE(LinearModel(**sizes), MeanFieldGuide(**sizes, hidden=((8,),)))
    fit(vae, data, steps=2, out=tmp_path / "run", batch=20)
    tree = export_posterior(vae, data, moment_draws=4)
    assert set(tree["constant_data/family"].values) == set(data.test["family"].values)
