"""The presets against the published tables, typed here by hand: Csikor et al. 2022 [C22], Vas 2024 [V24]."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from pyro_hvae.errors import HVAEError
from pyro_hvae.published import PRESETS, build, preset
from pyro_hvae.published.presets import format_knots, table

Chain = list[tuple[int, int]]


def chain(*widths: int) -> Chain:
    """Linear layers from each width to the next."""
    return list(pairwise(widths))


def layers(module: nn.Module) -> Chain:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


# Published hidden units; a conditional ends in location and log variance, hence the doubled last width.
TD40_MODEL = {"p(z1|z2)": chain(250, 2000, 2 * 1800), "A": chain(1800, 1600)}
TD40_GUIDE = {
    "MLP.a": chain(1600, 2000),
    "MLP.b": chain(2000, 1000, 500, 250),
    "q(z2)": chain(250, 2 * 250),
    "MLP.c": chain(250, 250, 500, 1000, 2000),
    "MLP.d": chain(2000 + 2000, 2000),
    "q(z1)": chain(2000, 2 * 1800),
}
TD20_MODEL = {"p(z1|z2)": chain(20, 500, 2 * 450), "A": chain(450, 400)}
TD20_GUIDE = {
    "MLP.a": chain(400, 500),
    "MLP.b": chain(500, 300, 100),
    "q(z2)": chain(100, 2 * 20),
    "MLP.c": chain(20, 100, 300, 500),
    "MLP.d": chain(500 + 500, 500),
    "q(z1)": chain(500, 2 * 450),
}
CHAIN20_MODEL = {"p(z1|z2)": chain(70, 500, 2 * 450), "A": chain(450, 400)}
CHAIN20_GUIDE = {"q(z1|x)": chain(400, 500, 500, 2 * 450), "q(z2|z1)": chain(450, 500, 300, 100, 2 * 70)}
LINEAR20 = ({"A": chain(450, 400)}, {"q(z1|x)": chain(400, 500, 500, 2 * 450)})
TD_IWAE20 = (TD20_MODEL, TD20_GUIDE)

PUBLISHED = {
    "LinearVAE40": ({"A": chain(1800, 1600)}, {"q(z1|x)": chain(1600, 2000, 2000, 2 * 1800)}),
    "TDVAE40": (TD40_MODEL, TD40_GUIDE),
    "TDVAE40n": (TD40_MODEL, TD40_GUIDE),
    "TDVAE40125": (TD40_MODEL, TD40_GUIDE),
    "SkipVAE40": (TD40_MODEL | {"skip": chain(250, 2000, 1800), "skip to x": chain(1800, 1600)}, TD40_GUIDE),
    "TDVAE20": (TD20_MODEL, TD20_GUIDE),
    "SkipVAE20": (TD20_MODEL | {"skip": chain(20, 500, 450), "skip to x": chain(450, 400)}, TD20_GUIDE),
    "ChainVAE20": (CHAIN20_MODEL, CHAIN20_GUIDE),
    "ChainVAE20125": (CHAIN20_MODEL, CHAIN20_GUIDE),
    "LinearVAE20": LINEAR20,
    "LinearIWAE20": LINEAR20,
    "TD-IWAE20": TD_IWAE20,
    "TD-IWAE20-k1": TD_IWAE20,
    "TD-IWAE20-k4": TD_IWAE20,
    "TD-IWAE20-k10": TD_IWAE20,
}

WHERE = {
    "p(z1|z2)": "model.conditionals.0",
    "A": "model.to_image",
    "skip": "model.skip",
    "skip to x": "model.skip_to_image",
    "MLP.a": "guide.bottom_up.0",
    "MLP.b": "guide.bottom_up.1",
    "q(z2)": "guide.heads.1",
    "MLP.c": "guide.top_down.0",
    "MLP.d": "guide.joint.0",
    "q(z1)": "guide.heads.0",
    "q(z1|x)": "guide.conditionals.0",
    "q(z2|z1)": "guide.conditionals.1",
}


@pytest.fixture(autouse=True)
def _no_storage():
    """Shapes need no memory: the 40-pixel systems have 60 million parameters."""
    with torch.device("meta"):
        yield


WITH_CONTRAST = {"EA-LinearVAE20": "LinearVAE20", "EA-TDVAE20": "TDVAE20"}


def test_every_preset_is_in_the_published_table():
    assert set(PRESETS) == set(PUBLISHED) | set(WITH_CONTRAST)


@pytest.mark.parametrize(("name", "plain"), WITH_CONTRAST.items())
def test_pairs_with_contrast_are_the_plain_ones_and_c(name, plain):
    """The published guide of EA-LinearVAE reads the image alone, that of EA-TDVAE20 log c beside it."""
    with torch.device("cpu"):
        vae = build(name)
    model, guide = PUBLISHED[plain]
    for part, expected in model.items():
        assert layers(vae.model.base.get_submodule(WHERE[part].removeprefix("model."))) == expected, part
    given_c = name == "EA-TDVAE20"
    assert vae.guide.dependent is given_c and vae.guide.base.pixels == 400 + given_c
    for part, expected in guide.items():
        first = [(400 + given_c, b) if a == 400 else (a, b) for a, b in expected]
        assert layers(vae.guide.base.get_submodule(WHERE[part].removeprefix("guide."))) == first, part
    assert layers(vae.guide.network) == [(401, 100)] and layers(vae.guide.head) == [(100, 2)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_layer_shapes(name):
    vae = build_without_check(name)
    for part, expected in (PUBLISHED[name][0] | PUBLISHED[name][1]).items():
        assert layers(vae.get_submodule(WHERE[part])) == expected, part
    listed = sum(len(c) for part in PUBLISHED[name] for c in part.values())
    assert len(layers(vae)) == listed, "a layer that the paper does not have"


def build_without_check(name: str) -> nn.Module:
    """The pair's modules on the meta device, where no program can be run."""
    from pyro_hvae.programs.pair import GUIDES, MODELS
    from pyro_hvae.programs.widths import published_hidden

    p = preset(name)
    hidden = published_hidden(p.pixels, len(p.dims))
    common = dict(pixels=p.pixels, dims=p.dims, families=p.families)
    return nn.ModuleDict(
        {"model": MODELS[p.model](**common, **hidden[p.model]), "guide": GUIDES[p.guide](**common, **hidden[p.guide])}
    )


# Weights and biases, layer by layer.
COUNTS = {
    # A, c | q(z1|x)
    "LinearVAE40": 1800 * 1600 + 1600 + (1600 + 1) * 2000 + (2000 + 1) * 2000 + (2000 + 1) * 3600,
    "TDVAE40": (
        (250 + 1) * 2000 + (2000 + 1) * 3600 + 1800 * 1600 + 1600  # p(z1|z2), A, c
        + (1600 + 1) * 2000  # MLP.a
        + (2000 + 1) * 1000 + (1000 + 1) * 500 + (500 + 1) * 250 + (250 + 1) * 500  # MLP.b, q(z2)
        + (250 + 1) * 250 + (250 + 1) * 500 + (500 + 1) * 1000 + (1000 + 1) * 2000  # MLP.c
        + (4000 + 1) * 2000 + (2000 + 1) * 3600  # MLP.d, q(z1)
    ),
    "TDVAE20": (
        (20 + 1) * 500 + (500 + 1) * 900 + 450 * 400 + 400
        + (400 + 1) * 500 + (500 + 1) * 300 + (300 + 1) * 100 + (100 + 1) * 40
        + (20 + 1) * 100 + (100 + 1) * 300 + (300 + 1) * 500
        + (1000 + 1) * 500 + (500 + 1) * 900
    ),
    "ChainVAE20": (
        (70 + 1) * 500 + (500 + 1) * 900 + 450 * 400 + 400
        + (400 + 1) * 500 + (500 + 1) * 500 + (500 + 1) * 900
        + (450 + 1) * 500 + (500 + 1) * 300 + (300 + 1) * 100 + (100 + 1) * 140
    ),
    "LinearVAE20": 450 * 400 + 400 + (400 + 1) * 500 + (500 + 1) * 500 + (500 + 1) * 900,
}  # fmt: skip
# The skip map is concatenated with z1 before the one linear map to x, which so has weights for both and one bias.
COUNTS["SkipVAE40"] = COUNTS["TDVAE40"] + (250 + 1) * 2000 + (2000 + 1) * 1800 + 1800 * 1600
COUNTS["SkipVAE20"] = COUNTS["TDVAE20"] + (20 + 1) * 500 + (500 + 1) * 450 + 450 * 400
COUNTS |= dict.fromkeys(("TDVAE40n", "TDVAE40125"), COUNTS["TDVAE40"])
COUNTS |= dict.fromkeys(("TD-IWAE20", "TD-IWAE20-k1", "TD-IWAE20-k4", "TD-IWAE20-k10"), COUNTS["TDVAE20"])
COUNTS |= {"ChainVAE20125": COUNTS["ChainVAE20"], "LinearIWAE20": COUNTS["LinearVAE20"]}


def parameters_of(name: str, **options: object) -> int:
    with torch.device("cpu"):
        return sum(p.numel() for p in build(name, **options).parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    # 20-pixel systems as built; the 40-pixel ones as modules without storage
    if name.endswith("20") or "20-" in name or name.endswith("20125"):
        assert parameters_of(name) == COUNTS[name]
    assert sum(p.numel() for p in build_without_check(name).parameters()) == COUNTS[name]


def test_the_counts_in_figures():
    """The arithmetic above, worked out once on paper."""
    assert COUNTS["LinearVAE40"] == 17_289_200
    assert COUNTS["TDVAE40"] == 34_438_300
    assert COUNTS["TDVAE20"] == 2_161_040
    assert COUNTS["ChainVAE20"] == 1_988_740
    assert COUNTS["LinearVAE20"] == 1_082_300


def test_learned_noise_is_one_more_parameter():
    assert parameters_of("LinearVAE20", learn_noise=True) == COUNTS["LinearVAE20"] + 1


@pytest.mark.parametrize("dim", [5, 140])
def test_dim_z2_as_varied_in_the_paper(dim):
    # p(z1|z2), q(z2) and MLP.c are the only networks that see z2
    expected = COUNTS["TDVAE20"] + (dim - 20) * (500 + 2 * (100 + 1) + 100)
    assert parameters_of("TDVAE20", dim_z2=dim) == expected


# name: model, guide, patch, z1 family, dim z1, dim z2, beta1, beta2 (first, last), learning rate (first, last)
TABLE = {
    "LinearVAE40": ("linear", "mean_field", 40, "laplace", 1800, None, 1, None, (3e-5, 3e-5)),
    "TDVAE40": ("markov", "top_down", 40, "laplace", 1800, 250, 1, (1, 1), (5e-5, 2.5e-5)),
    "TDVAE40n": ("markov", "top_down", 40, "normal", 1800, 250, 1, (1, 1), (5e-5, 5e-5)),
    "TDVAE40125": ("markov", "top_down", 40, "laplace", 1800, 250, 1, (0.1, 1.25), (5e-5, 5e-5)),
    "SkipVAE40": ("skip", "top_down", 40, "laplace", 1800, 250, 1, (1, 1), (2e-5, 2e-5)),
    "TDVAE20": ("markov", "top_down", 20, "laplace", 450, 20, 1, (1, 1), (1e-4, 2.5e-5)),
    "SkipVAE20": ("skip", "top_down", 20, "laplace", 450, 20, 1, (1, 1), (1e-4, 5e-5)),
    "ChainVAE20": ("markov", "bottom_up", 20, "laplace", 450, 70, 1, (1, 1), (1e-5, 1e-5)),
    "ChainVAE20125": ("markov", "bottom_up", 20, "laplace", 450, 70, 1, (0.1, 1.25), (1e-5, 1e-5)),
    "LinearVAE20": ("linear", "mean_field", 20, "laplace", 450, None, 1, None, (1e-4, 1e-4)),
    "LinearIWAE20": ("linear", "mean_field", 20, "laplace", 450, None, 1, None, (1e-4, 1e-4)),
    "TD-IWAE20": ("markov", "top_down", 20, "laplace", 450, 20, 1, (0.1, 1), (1e-4, 1e-4)),
    "TD-IWAE20-k1": ("markov", "top_down", 20, "laplace", 450, 20, 1, (0.1, 1), (1e-4, 1e-4)),
    "TD-IWAE20-k4": ("markov", "top_down", 20, "laplace", 450, 20, 1, (0.1, 1), (1e-4, 1e-4)),
    "TD-IWAE20-k10": ("markov", "top_down", 20, "laplace", 450, 20, 1, (0.1, 1), (1e-4, 1e-4)),
}


@pytest.mark.parametrize("name", TABLE)
def test_sizes_betas_and_learning_rates(name):
    p = preset(name)
    model, guide, patch, family, dim_z1, dim_z2, beta1, beta2, rates = TABLE[name]
    assert (p.model, p.guide, p.patch, p.noise) == (model, guide, patch, 0.4)
    assert p.dims == ((dim_z1,) if dim_z2 is None else (dim_z1, dim_z2))
    assert p.dims[0] == 1.125 * p.pixels  # overcomplete by the published factor
    assert p.families == ((family,) if dim_z2 is None else (family, "normal"))
    betas = p.training.beta
    assert [v for _, v in betas["z1"].knots] == [beta1]
    assert ("z2" in betas) == (dim_z2 is not None)
    if beta2 is not None:
        assert tuple(betas["z2"].knots[i][1] for i in (0, -1)) == beta2
    assert tuple(p.training.learning_rate.knots[i][1] for i in (0, -1)) == rates


@pytest.mark.parametrize("name", [n for n in TABLE if PRESETS[n].source == "[C22]"])
def test_csikor_training(name):
    training = preset(name).training
    assert (training.objective, training.batch, training.steps_per_epoch) == ("elbo", 128, 5000)
    assert training.steps_per_epoch * training.batch == 640_000
    steps = 30_000_000 if name == "LinearVAE40" else 33_750_000
    assert training.epochs * training.steps_per_epoch == steps
    if name.endswith("125"):  # 0.1 for 500 epochs, then linear over 1150
        assert training.beta["z2"].knots == ((0, 0.1), (500, 0.1), (1650, 1.25))


@pytest.mark.parametrize("name", [n for n in TABLE if PRESETS[n].source == "[V24]"])
def test_vas_training(name):
    p = preset(name)
    training = p.training
    assert (training.batch, training.epochs, training.batch * training.steps_per_epoch) == (400, 5000, 640_000)
    k = {"TD-IWAE20-k1": 1, "TD-IWAE20-k4": 4, "TD-IWAE20-k10": 10, "TD-IWAE20": 50, "LinearIWAE20": 50}.get(name, 1)
    assert training.particles == k
    assert training.objective == ("elbo" if name == "LinearVAE20" else "importance_weighted")
    if len(p.dims) > 1:
        assert training.beta["z2"].knots == ((0, 0.1), (2500, 1.0))


def test_what_was_not_published_says_so():
    for p in PRESETS.values():
        if p.source == "[C22]" and p.name not in ("LinearVAE40", "TDVAE40"):
            assert "epochs not published" in p.note
    for name in ("TDVAE20", "SkipVAE20"):
        assert "range" in preset(name).note and "5-140" in preset(name).note
    for name in ("LinearVAE20", "LinearIWAE20"):
        assert "hidden units" in preset(name).note
    assert "release" in preset("TDVAE40125").note and "release" in preset("ChainVAE20125").note


def test_knots_are_in_order():
    for p in PRESETS.values():
        for schedule in (*p.training.beta.values(), p.training.learning_rate):
            epochs = [e for e, _ in schedule.knots]
            assert epochs == sorted(epochs) and epochs[0] == 0 and epochs[-1] <= p.training.epochs


def test_table():
    rows = {row["name"]: row for row in table()}
    assert set(rows) == set(PRESETS)
    assert rows["TD-IWAE20"] | {"note": ""} == {
        "name": "TD-IWAE20",
        "model": "markov",
        "guide": "top_down",
        "patch": "20×20",
        "z1": "450 Laplace",
        "z2": "20",
        "objective": "IW k=50",
        "beta1": "1",
        "beta2": "0.1→1 (2500)",
        "learning rate": "0.0001",
        "batch": "400",
        "epochs": "5000×1600",
        "source": "[V24]",
        "note": "",
    }
    assert rows["LinearVAE40"]["z2"] == rows["LinearVAE40"]["beta2"] == "–"
    assert format_knots(((0, 0.1), (500, 0.1), (1650, 1.25))) == "0.1→1.25 (1650)"
    assert format_knots(((0, 1.0),)) == "1"


def test_unknown_presets_and_options():
    with pytest.raises(HVAEError, match=r"unknown preset 'TDVAE-20'; did you mean 'TDVAE20'\?"):
        preset("TDVAE-20")
    with pytest.raises(HVAEError, match="no layer z2, so dim_z2=5"):
        build("LinearVAE20", dim_z2=5)
    with pytest.raises(HVAEError, match="unknown guide 'topdown'; did you mean 'top_down'"):
        build("TDVAE20", guide="topdown")
    with pytest.raises(HVAEError, match="unknown start"):
        build("TDVAE20", start="linear")
