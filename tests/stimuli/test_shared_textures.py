"""Five families from scanned photographs, as `docs/stimuli.md` reports them; fewer steps. Needs plenoptic and photographs."""

import os
from pathlib import Path

import numpy as np
import pytest

from pyro_hvae.stimuli import PatchData, natural_patches, pixel_decoding
from pyro_hvae.stimuli.examples import texture_examples
from pyro_hvae.stimuli.synthesised import synthesised_images
from pyro_hvae.synthesis import portilla_simoncelli_loss, synthesised_textures

SHARED = os.environ.get("PYRO_HVAE_SHARED_DATA")
FAMILIES = [f"brodatz_{name}" for name in ("calf_leather", "plastic_bubbles", "bark", "raffia", "grass")]


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="set PYRO_HVAE_SHARED_DATA to the folder that holds textures/ and van_hateren/")
def test_five_families(tmp_path):
    pytest.importorskip("plenoptic", reason="needs plenoptic: pip install 'pyro-hvae[textures]'")
    photographs = Path(SHARED)
    natural = natural_patches(20, photographs / "van_hateren", train=40_000, test=1_000)
    out, options = tmp_path / "five.nc", {"families": FAMILIES, "side": 128, "gamma": "linear"}
    synthesised_textures(
        photographs / "textures",
        out=out,
        transform=natural.transform,
        images=2,
        steps=12,
        train=10_000,
        test=5_000,
        **options,
    )
    examples = {e.family: e.image for e in texture_examples(photographs / "textures", **options)}
    for image in synthesised_images(f"{out}.images"):
        noise = np.random.default_rng(0).random((128, 128))
        own, of_noise = portilla_simoncelli_loss(examples[image.family], [image.luminance(), noise])
        assert own < 0.05 * of_noise
    found = pixel_decoding(PatchData.load(out))
    assert found.chance == 0.2 and found.accuracy < 0.3
