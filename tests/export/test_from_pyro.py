"""Draws of any guide in ArviZ's schema, against a conjugate model whose posterior, evidence and predictive are known."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError

NOISE, IMAGES, UNITS = 0.5, 5, 3
X = torch.randn(IMAGES, UNITS, generator=torch.Generator().manual_seed(1))
GAIN = 1 / (1 + NOISE**2)  # E[z | x] = x / (1 + sigma²)
SD = NOISE * math.sqrt(GAIN)


def model(x):
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(UNITS), 1).to_event(1))
        pyro.deterministic("twice", 2 * z, event_dim=1)
        pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)


def exact(x):
    with pyro.plate("image", len(x), dim=-1):
        pyro.sample("z", dist.Normal(GAIN * x, SD).to_event(1))


def evidence():
    return dist.Normal(0.0, math.sqrt(1 + NOISE**2)).log_prob(X).sum(-1).numpy()


@pytest.fixture(scope="module", params=[False, True], ids=["one by one", "at once"])
def tree(request):
    return hvae.from_pyro(
        model, exact, X, draws=400, prior=300, predictive=True, dims={"z": ["unit"]}, parallel=request.param
    )


def test_groups_dims_and_labels(tree):
    dims = {group: {str(n): tree[group][n].dims for n in tree[group].data_vars} for group in tree.children}
    each = ("chain", "draw", "image")
    assert dims == {
        "posterior": {"z": (*each, "unit"), "twice": (*each, "twice_dim_0")},
        "sample_stats": {"log_weight": each},
        "log_likelihood": {"x": each},
        "posterior_predictive": {"x": (*each, "x_dim_0")},
        "prior": {"z": (*each, "unit"), "twice": (*each, "twice_dim_0")},
        "prior_predictive": {"x": (*each, "x_dim_0")},
        "observed_data": {"x": ("image", "x_dim_0")},
    }
    assert tree["posterior"].sizes == {"chain": 1, "draw": 400, "image": IMAGES, "unit": UNITS, "twice_dim_0": UNITS}
    assert tree["prior"].sizes["draw"] == 300 and tree.attrs["inference_library"] == "pyro"
    np.testing.assert_array_equal(tree["observed_data"]["x"], X)


def test_weights_of_the_exact_posterior_are_the_evidence_at_every_draw(tree):
    log_weight = tree["sample_stats"]["log_weight"].isel(chain=0)
    np.testing.assert_allclose(log_weight, np.broadcast_to(evidence(), log_weight.shape), rtol=1e-5, atol=1e-5)


def test_likelihoods_are_those_of_the_draws(tree):
    z, x = tree["posterior"]["z"].values, tree["observed_data"]["x"].values
    by_hand = (-0.5 * ((x - z) / NOISE) ** 2 - math.log(NOISE * math.sqrt(2 * math.pi))).sum(-1)
    np.testing.assert_allclose(tree["log_likelihood"]["x"], by_hand, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(tree["posterior"]["twice"], 2 * tree["posterior"]["z"].values)


@pytest.mark.parametrize(
    ("group", "name", "mean", "sd"),
    [
        ("posterior", "z", GAIN * X.numpy(), SD),
        ("posterior_predictive", "x", GAIN * X.numpy(), math.sqrt(SD**2 + NOISE**2)),
        ("prior", "z", 0, 1),
        ("prior_predictive", "x", 0, math.sqrt(1 + NOISE**2)),
    ],
)
def test_draws_have_the_moments_that_are_known(tree, group, name, mean, sd):
    values = tree[group][name].values[0]
    n = len(values)
    assert np.abs((values.mean(0) - mean) / (sd / math.sqrt(n))).max() < 4.5
    assert np.abs(values.std(0, ddof=1) / sd - 1).max() < 4.5 / math.sqrt(2 * n)
    assert len(np.unique(values)) > 0.99 * values.size, "draws are independent"


def test_weights_correct_a_wrong_guide():
    """E_q[w f] / E_q[w] is the posterior mean whatever q, and log mean w the evidence."""

    def wide(x):
        with pyro.plate("image", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))

    tree = hvae.from_pyro(model, wide, X, draws=20_000, parallel=True)
    weight = np.exp(tree["sample_stats"]["log_weight"].isel(chain=0).transpose("draw", "image").values)
    z = tree["posterior"]["z"].isel(chain=0).values
    error = np.sqrt(((weight[..., None] * (z - GAIN * X.numpy())) ** 2).sum(0)) / weight.sum(0)[:, None]
    mean = (weight[..., None] * z).sum(0) / weight.sum(0)[:, None]
    assert np.abs((mean - GAIN * X.numpy()) / error).max() < 4.5
    relative = weight.std(0) / weight.mean(0) / math.sqrt(len(weight))
    assert np.abs((np.log(weight.mean(0)) - evidence()) / relative).max() < 4.5


def regression(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("observation", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal])
def test_automatic_guides_and_latents_outside_the_plate(make):
    """One weight for the whole; what the guide draws for itself counts in it and is not shown."""
    pyro.clear_param_store()
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.0])
    guide = make(regression, init_scale=0.4)
    guide(x, y)
    tree = hvae.from_pyro(regression, guide, x, y, draws=50, coords={"observation": ["a", "b"]})
    assert set(tree["posterior"].data_vars) == {"slope"} and tree["posterior"]["slope"].dims == ("chain", "draw")
    assert tree["log_likelihood"]["y"]["observation"].values.tolist() == ["a", "b"]
    slope = tree["posterior"]["slope"].values.ravel()
    location = float(guide.median(x, y)["slope"])
    log_q = -0.5 * ((slope - location) / 0.4) ** 2 - math.log(0.4 * math.sqrt(2 * math.pi))
    log_p = -0.5 * (slope**2 + (0.5 - slope) ** 2 + (1 - 2 * slope) ** 2) - 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(tree["sample_stats"]["log_weight"].values.ravel(), log_p - log_q, rtol=1e-4, atol=1e-4)


def test_it_is_independent_of_the_state_outside():
    torch.manual_seed(5)
    first = hvae.from_pyro(model, exact, X, draws=3, seed=7)
    before = torch.get_rng_state()
    again = hvae.from_pyro(model, exact, X, draws=3, seed=7)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first["posterior"]["z"], again["posterior"]["z"])
    assert not np.array_equal(
        first["posterior"]["z"], hvae.from_pyro(model, exact, X, draws=3, seed=8)["posterior"]["z"]
    )


def test_pairs_of_this_package_are_pyro_programs_too():
    from small import small_pair

    pair = small_pair()
    x = torch.randn(4, 16)
    tree = hvae.from_pyro(pair.model, pair.guide, x, draws=6, predictive=True)
    assert tree["posterior"]["z1"].sizes == {"chain": 1, "draw": 6, "image": 4, "z1_dim_0": 6}
    assert tree["sample_stats"]["log_weight"].dims == ("chain", "draw", "image")


def test_arviz_takes_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az

        tree = hvae.from_pyro(model, exact, X, draws=200)
        found = tree if int(az.__version__.split(".")[0]) >= 1 else az.InferenceData.from_datatree(tree)
        summary = az.summary(found, var_names=["z"], kind="stats", round_to="none")
    np.testing.assert_allclose(
        np.asarray(summary["mean"], float).reshape(IMAGES, UNITS), GAIN * X, atol=4.5 * SD / math.sqrt(200)
    )


def subsampled(x):
    with pyro.plate("image", len(x), subsample_size=2, dim=-1) as index:
        pyro.sample("z", dist.Normal(x[index], 1).to_event(1))


def silent(x):
    pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hvae.from_pyro(model, subsampled, X), "subsampled .2 of 5."),
        (lambda: hvae.from_pyro(model, silent, X), r"only in the model: \['z'\]"),
        (lambda: hvae.from_pyro(silent, silent, X), "no latent site"),
        (lambda: hvae.from_pyro(3, exact, X), "callable Pyro program, got int"),
        (lambda: hvae.from_pyro(model, exact, X, draws=0), "draws must be a whole number of at least 1"),
        (lambda: hvae.from_pyro(model, exact, X, draws=2, dims={"y": ["a"]}), "site 'y', which neither program has"),
        (lambda: hvae.from_pyro(model, exact, X, draws=2, dims={"z": ["a", "b"]}), "dims of 'z' must be 1"),
        (lambda: hvae.from_pyro(model, exact, X, draws=2, coords={"unit": [1, 2, 3]}), "which no site has"),
        (lambda: hvae.from_pyro(model, exact, X, draws=2, coords={"image": [1]}), "must be 5 labels, got 1"),
        (lambda: hvae.from_pyro(model, exact, X, draws=2, seed=-1), "seed must be"),
    ],
)
def test_what_cannot_be_converted_is_refused(call, message):
    with pytest.raises(HVAEError, match=message):
        call()
