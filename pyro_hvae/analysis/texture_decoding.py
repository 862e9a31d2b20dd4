"""Linear decoding of the texture family (Csikor et al. 2022, Fig. 2i and 3a; Vas 2024), with its floors and ceilings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_hvae.analysis import style
from pyro_hvae.analysis.posterior_correlations import posterior_correlations, zero_by_construction
from pyro_hvae.analysis.reading import complete_images, patch_side, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import Z95
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.storage.posterior_file import label, sites

SUBSET = 0.8  # share of each family's training images in one repeat
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse strengths of the L2 penalty, on standardised features
FEW = 10  # features up to so many take the last of them, wider ones the best in cross-validation
FOLDS, JUDGED = 3, 1200  # ... over so many folds of at most so many training images
MOST_UNITS = 100  # z1 units whose correlations are decoded
CORRELATIONS = "z1_correlation"
HISTOGRAMS = {
    "own": "each family's own intensity histogram matched to the unit normal",
    "own_pooled": "the families' pooled intensity histogram matched to the unit normal",
    "natural": "intensity map of the natural photographs",
}
WHITENINGS = {"natural": "natural whitening", "own": "whitening fitted to the textures"}


def log_norm(x: np.ndarray) -> np.ndarray:
    """Logarithm of the patch norm and its square, ``(image, 2)``: what contrast alone tells."""
    log = np.log(np.linalg.norm(x, axis=1) + np.finfo(float).tiny)
    return np.stack([log, log**2], axis=1)


def log_power_spectrum(x: np.ndarray) -> np.ndarray:
    """Logarithm of the power at every spatial frequency of the half plane, ``(image, frequency)``."""
    side = patch_side(x.shape[1])
    power = np.abs(np.fft.rfft2(x.reshape(-1, side, side))) ** 2
    return np.log(power + 1e-6 * power.mean()).reshape(len(x), -1)


#: Features that come from the image itself: floors (pixels, norm) and a ceiling (power spectrum) for the latents.
IMAGE_FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pixels": lambda x: x,
    "norm": log_norm,
    "power_spectrum": log_power_spectrum,
}


def decode_family(
    tree: xr.DataTree, features: Sequence[str] | None = None, repeats: int = 5, seed: int = 0
) -> xr.Dataset:
    """Decode the texture family by multinomial logistic regression, trained on ``train`` and scored on ``test`` images.

    Features are standardised on the training images. Each repeat trains on a random subset, balanced over families, of
    80% of the smallest family's training images; all test images are scored, every family with the same weight, so
    that chance is one over the number of families. The L2 penalty of features of more than ten dimensions is chosen by
    cross-validation within the training images.

    Parameters
    ----------
    features
        Any of ``pixels``, ``norm`` (contrast alone: log norm and its square), ``power_spectrum``, ``zl_mean`` for every
        layer l, and ``z1_correlation`` (noise correlations of z1, image by image, of at most 100 units); by default all
        that the file has. A z2 that has learnt no more than contrast does not beat ``norm``.
    repeats
        Training subsets, at least two.

    Returns
    -------
    Dataset with ``accuracy (feature)`` and its 95% interval, ``accuracy_repeat (feature, repeat)``, ``confusion (feature,
    family, decoded)`` (rows sum to one), ``penalty (feature)`` (inverse strength) and the attributes ``chance`` and, where the
    file has them, ``texture_intensity`` and ``texture_whitening``, without which floors do not compare. The interval
    adds two variances: of the test images (binomial within each family) and of the training set (delete-d jackknife over
    the repeats).

    Raises
    ------
    HVAEError
        Where labels are missing, there are fewer than two families, a family lacks training or test images, a feature is
        unknown, or noise correlations are asked for that the file lacks or that are zero by construction.
    """
    known = [*IMAGE_FEATURES, *(f"{name}_mean" for name in sites(tree)), CORRELATIONS]
    notes: list[str] = []
    without = _no_correlations(tree)
    if features is None:
        features = [name for name in known if name != CORRELATIONS or not without]
        if without.startswith("zero"):
            notes.append(f"{CORRELATIONS} is not decoded: {without}")
    features = list(features)
    for name in features:
        if name not in known:
            raise unknown("feature", name, known)
    if CORRELATIONS in features and without:
        raise HVAEError(f"{CORRELATIONS} cannot be decoded: {without}")
    if repeats < 2:
        raise HVAEError(f"repeats is {repeats}; at least 2 training subsets are needed for an interval")
    moments = [f"posterior_moments/{name}" for name in features if name.endswith("_mean")]
    usable = complete_images(
        tree, ["observed_data/x", *moments] if set(features) & set(IMAGE_FEATURES) else moments, notes
    )
    families, family, train, test = texture_sets(tree, usable)
    smallest = min(int((family[train] == name).sum()) for name in families)
    size = max(1, round(SUBSET * smallest))

    truth = np.searchsorted(families, family[test])
    rng = np.random.default_rng(seed)
    subsets = [
        np.concatenate([rng.choice(np.flatnonzero(family[train] == name), size, replace=False) for name in families])
        for _ in range(repeats)
    ]
    confusion = np.zeros((len(features), repeats, len(families), len(families)))
    penalties = np.full(len(features), PENALTIES[-1])
    for f, name in enumerate(features):
        inputs, targets = (_feature(tree, name, images) for images in (train, test))
        if inputs.shape[1] > FEW:
            penalties[f] = best_penalty(inputs, family[train], rng)
        for r, subset in enumerate(subsets):
            decoded = fit_decoder(inputs[subset], family[train][subset], penalties[f], notes, name).predict(targets)
            np.add.at(confusion[f, r], (truth, np.searchsorted(families, decoded)), 1)
    confusion /= confusion.sum(-1, keepdims=True)

    correct = np.einsum("frkk->frk", confusion)
    accuracy = correct.mean(-1)
    per_family = np.bincount(truth, minlength=len(families))
    hits = correct.mean(1)
    # Agresti-Coull-like shrinkage keeps the binomial variance above zero where every image is right (or wrong).
    shrunk = (hits * per_family + 1) / (per_family + 2)
    test_variance = (shrunk * (1 - shrunk) / per_family).sum(-1) / len(families) ** 2
    # Subsets of n - d of n images vary too little by the factor (n - d) / d (Shao & Wu 1989).
    train_variance = size / max(smallest - size, 1) * accuracy.var(1, ddof=1)
    half = Z95 * np.sqrt(test_variance + train_variance)
    mean = accuracy.mean(1)
    if "norm" in features:
        contrast = features.index("norm")
        for f, name in enumerate(features):
            compared = name.startswith("z") and name not in ("z1_mean", CORRELATIONS)
            compared |= name == CORRELATIONS and mean[f] - half[f] > 1 / len(families)
            if compared and mean[f] - half[f] <= mean[contrast] + half[contrast]:
                notes.append(f"{name} does not beat the patch norm: what it tells of texture may be contrast alone")
    variables = quantity(
        "accuracy", ["feature"], mean, title="texture family decoded from", unit="fraction correct", n=len(test),
        interval=np.stack([(mean - half).clip(0, 1), (mean + half).clip(0, 1)], -1),
    )  # fmt: skip
    variables["penalty"] = xr.Variable("feature", penalties)
    variables["accuracy_repeat"] = xr.Variable(("feature", "repeat"), accuracy)
    variables["confusion"] = xr.Variable(("feature", "family", "decoded"), confusion.mean(1))
    coords = {"feature": features, "family": families, "decoded": families}
    if missing := [name for name in ("z1_mean", "z2_mean") if name not in features]:
        notes.append(f"not decoded here: {', '.join(missing)}")
    dataset = result(tree, "texture_decoding", variables, coords, notes)
    return dataset.assign_attrs(
        chance=1 / len(families), train_images=size * len(families), test_images=len(test), repeats=repeats, seed=seed
    )


def texture_sets(tree: xr.DataTree, usable: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Names of the texture families, family of every image, indices of the training and of the test images.

    Raises HVAEError where labels are missing, there are fewer than two families, or one lacks training or test images.
    """
    family, split = label(tree, "family"), label(tree, "split")
    if family is None or split is None:
        raise HVAEError("decoding needs the labels family and split in constant_data; export a labelled set of images")
    train, test = (np.flatnonzero(usable & (family != "") & (split == part)) for part in ("train", "test"))
    families = sorted({str(name) for name in family[np.concatenate([train, test])]})
    if len(families) < 2:
        raise HVAEError(f"decoding needs at least two texture families, the file has {families or 'none'}")
    for part, images in (("training", train), ("test", test)):
        for name in families:
            if (count := int((family[images] == name).sum())) < 2:
                raise HVAEError(f"decoding needs at least 2 {part} images of every family; {name!r} has {count}")
    return families, family, train, test


def _no_correlations(tree: xr.DataTree) -> str:
    """Why there are no noise correlations to decode; empty where there are."""
    if reason := zero_by_construction(tree):
        return reason
    try:
        posterior_correlations(tree)
    except HVAEError as error:
        return str(error)
    return ""


def _feature(tree: xr.DataTree, name: str, images: np.ndarray) -> np.ndarray:
    if name in IMAGE_FEATURES:
        return IMAGE_FEATURES[name](selected(tree, "observed_data/x", images))
    if name == CORRELATIONS:
        source = posterior_correlations(tree)
        places = np.random.default_rng(0).permutation(source.units.size)[:MOST_UNITS]
        return np.nan_to_num(source.pairs(images, np.sort(places)), copy=False)
    return selected(tree, f"posterior_moments/{name}", images)


def best_penalty(inputs: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> float:
    """The member of :data:`PENALTIES` with the best accuracy in cross-validation; the strongest of equals."""
    chosen = rng.permutation(len(inputs))[:JUDGED]
    inputs, targets = inputs[chosen], targets[chosen]
    counts = np.unique(targets, return_counts=True)[1]
    if counts.min() < FOLDS:
        return PENALTIES[-1]
    right = np.zeros(len(PENALTIES))
    for fitted, judged in StratifiedKFold(FOLDS).split(inputs, targets):
        for p, penalty in enumerate(PENALTIES):
            decoder = fit_decoder(inputs[fitted], targets[fitted], penalty, [], "")
            right[p] += (decoder.predict(inputs[judged]) == targets[judged]).sum()
    return PENALTIES[int(right.argmax())]


def fit_decoder(inputs: np.ndarray, targets: np.ndarray, penalty: float, notes: list[str], name: str) -> Pipeline:
    """Multinomial logistic regression on standardised features; a note where it did not converge."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=500))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(inputs.astype(np.float32, copy=False), targets)
    note = f"{name}: the regression did not converge in 500 iterations; its accuracy is a lower bound"
    if any(issubclass(w.category, ConvergenceWarning) for w in caught) and note not in notes:
        notes.append(note)
    return classifier


def _title(feature: str) -> str:
    return {"norm": "patch norm", CORRELATIONS: "z1 noise correlations"}.get(feature, feature.replace("_", " "))


def texture_preprocessing(attrs: Mapping[Hashable, Any]) -> str:
    """How the textures of a file were preprocessed, as a clause; says so where attributes of a result do not tell."""
    intensity, whitening = (attrs.get(f"texture_{name}") for name in ("intensity", "whitening"))
    if not intensity or not whitening:
        return "not recorded in the file"
    return f"{HISTOGRAMS.get(intensity, intensity)}, {WHITENINGS.get(whitening, whitening)}"


@style.styled
def plot_texture_decoding(dataset: xr.Dataset) -> style.Picture:
    """Accuracy of every feature with its interval over chance, and the confusion matrices of the latents."""
    features = [str(name) for name in dataset["feature"].values]
    latents = [name for name in ("z1_mean", "z2_mean", CORRELATIONS) if name in features][-2:] or features[:1]
    families = [str(name) for name in dataset["family"].values]
    if len(families) <= style.MANY:
        longest = max(map(len, style.short(families)))
        figure = style.figure(style.FULL, 2.3 + 0.06 * longest)
        axes = [*figure.subplots(1, 1 + len(latents), width_ratios=[1.3] + [1.0] * len(latents), squeeze=False)[0]]
    else:  # a row for the matrices, so that their labels can be read
        figure = style.figure(style.FULL, 5.6)
        grid = figure.add_gridspec(2, len(latents), height_ratios=[1, 1.7])
        axes = [figure.add_subplot(grid[0, :]), *(figure.add_subplot(grid[1, k]) for k in range(len(latents)))]
    value = dataset["accuracy"].values
    low, high = dataset["accuracy_interval"].values.T
    colours = [style.BLUE if name.startswith("z") else style.GREY for name in features]
    place = np.arange(len(features))
    axes[0].barh(place, value, height=0.62, color=colours, alpha=0.35)
    for y, (a, b, middle, colour) in enumerate(zip(low, high, value, colours, strict=True)):
        axes[0].plot([a, b], [y, y], color=colour, lw=1.4)
        axes[0].plot(middle, y, "o", ms=3.5, color=colour)
    axes[0].axvline(dataset.attrs["chance"], color="black", lw=0.8, ls="--")
    axes[0].set(yticks=place, yticklabels=[_title(name) for name in features], xlim=(0, 1))
    axes[0].set(xlabel="texture family decoded (fraction correct)")
    axes[0].invert_yaxis()
    for axis, name in zip(axes[1:], latents, strict=True):
        matrix = dataset["confusion"].sel(feature=name).values
        image = axis.imshow(matrix, cmap="cividis", vmin=0, vmax=1)
        axis.set_xlabel("decoded family")
        axis.set_title(_title(name), loc="right")
        style.label_matrix(axis, families, rows=axis is axes[1])  # the same on every matrix
        if len(families) <= style.MANY:
            for (i, j), share in np.ndenumerate(matrix):
                axis.text(
                    j,
                    i,
                    f"{share:.2f}",
                    ha="center",
                    va="center",
                    fontsize=5.5,
                    color="black" if share > 0.5 else "white",
                )
    axes[1].set_ylabel("true family")
    figure.colorbar(image, ax=axes[-1], label="fraction of images", shrink=0.8)
    style.letters(axes)
    n = dataset.attrs
    caption = (
        "Texture family decoded by multinomial logistic regression. Points: mean over "
        f"{n['repeats']} balanced training subsets of {n['train_images']} images, n = {n['test_images']} test images; "
        "lines: 95% interval (test images and training subsets); dashed: chance, "
        f"{n['chance']:.2f}. Grey: read from the image itself; patch norm is contrast alone. "
        f"Preprocessing of the textures: {texture_preprocessing(n)}. "
        "Blue and yellow: confusion matrices, rows sum to one."
    )
    return style.Picture(figure, caption)
