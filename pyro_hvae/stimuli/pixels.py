"""How much of the family of a patch a linear classifier reads off its pixels: near chance, where a set is fit for use.

Csikor et al. 2022 (arXiv 2206.00436) choose texture families so that family is linearly decodable from z2, not from pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.patches import PatchData
from pyro_hvae.stimuli.seeds import train_and_test_generators

AT_MOST = 5000
RESAMPLINGS = 1000
COVERAGE = 0.95


@dataclass(frozen=True)
class PixelDecoding:
    """Part of the test patches whose family is told from pixels, its interval, and what naming one family would give."""

    accuracy: float
    low: float
    high: float
    chance: float
    families: int
    patches: int
    images: int
    """Different test images (`source`) that the patches come from; the interval is over them, and patches within."""

    def __str__(self) -> str:
        return (
            f"family from pixels, linearly: {self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}], chance {self.chance:.3f} "
            f"({self.families} families, {self.patches:,} test patches of {self.images} images)"
        )


@checked
def pixel_decoding(patches: PatchData, *, seed: int = 0) -> PixelDecoding:
    """Accuracy of multinomial logistic regression of family on `x`, trained on the training and scored on the test set.

    At most 5000 patches of each set, chosen at random. The 95% interval resamples test images of every family, and
    patches within them (where a family has one test image, patches only: it then does not tell what another image
    would give). Raises `HVAEError` for fewer than two families.
    """
    from sklearn.linear_model import LogisticRegression

    rng = train_and_test_generators(seed)[1]
    train, test = (
        d.isel(image=np.sort(rng.permutation(d.sizes["image"])[:AT_MOST])) for d in (patches.train, patches.test)
    )
    families = np.unique(train["family"].values)
    if len(families) < 2:
        raise HVAEError(f"the training set holds {len(families)} families; decoding needs two or more.")
    scale = train["x"].values.std()
    classifier = LogisticRegression(C=0.01, max_iter=300).fit(train["x"].values / scale, train["family"].values)
    correct = classifier.predict(test["x"].values / scale) == test["family"].values
    family, source = test["family"].values, test["source"].values
    groups = [
        [correct[(family == f) & (source == s)] for s in np.unique(source[family == f])] for f in np.unique(family)
    ]
    resampled = [_resampled(groups, rng) for _ in range(RESAMPLINGS)]
    low, high = np.quantile(resampled, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    chance = float(np.unique(patches.test["family"].values, return_counts=True)[1].max() / patches.test.sizes["image"])
    images = sum(map(len, groups))
    return PixelDecoding(float(correct.mean()), float(low), float(high), chance, len(families), len(correct), images)


def _resampled(groups: list[list[np.ndarray]], rng: np.random.Generator) -> float:
    right = total = 0
    for images in groups:
        for index in rng.integers(len(images), size=len(images)):
            image = images[index]
            right += int(image[rng.integers(len(image), size=len(image))].sum())
            total += len(image)
    return right / total
