"""Exported posteriors against what is known exactly; files in bounded memory; what is refused."""

import dataclasses
import gc
import weakref

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from small import DIMS, SIZE, small_data, small_linear, small_pair

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.export import moments as moments_module
from pyro_hvae.export.model_fields import conditional_field, projective_field
from pyro_hvae.export.moments import Moments, Request
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.programs import HVAE, MarkovModel, TopDownGuide
from pyro_hvae.sampling.diagnostics import pareto_k, share_trusted
from pyro_hvae.sampling.linear_gaussian import linear_gaussian_posterior
from pyro_hvae.stimuli import concatenate
from pyro_hvae.storage.posterior_file import PosteriorWriter


def affine_top_down(seed=0):
    """q(z2|x) and q(z1|x,z2) affine with constant scales: all moments are known in closed form."""
    torch.manual_seed(seed)
    sizes = dict(pixels=SIZE**2, dims=DIMS, families=("normal", "normal"))
    guide = TopDownGuide(**sizes, hidden_x=((), ()), hidden_z=((),), hidden_joint=((8,),))
    vae = HVAE(MarkovModel(**sizes, hidden=((),)), guide)
    with torch.no_grad():
        first = guide.joint[0].first  # one hidden layer is compulsory: keep it in its linear regime
        first.weight.mul_(0.02)
        first.bias.fill_(20.0)
        guide.heads[0].location_weight.normal_().mul_(60)
        guide.heads[0].v_weight.zero_()
        guide.heads[0].location_bias[:] = -20 * guide.heads[0].location_weight.sum(-1)
        guide.heads[1].v_weight.zero_()
    return vae


def exact_moments(vae, x):
    guide = vae.guide
    q2 = guide.heads[1](x)
    W, w = guide.joint[0].first.weight.split((SIZE**2, 3), -1)
    head = guide.heads[0].location_weight
    slope = head @ w  # softplus(u) = u at u near 20
    mean = (x @ W.T + guide.joint[0].first.bias + q2.mean @ w.T) @ head.T + guide.heads[0].location_bias
    between = torch.einsum("ij,bj,kj->bik", slope, q2.variance, slope)
    within = torch.diag_embed(torch.exp(guide.heads[0].v_bias).expand(len(x), -1))
    return [t.detach().double().numpy() for t in (mean, between, between + within)]


def test_moments_and_correlations_equal_the_closed_form():
    vae, data = affine_top_down(), small_data()
    images = data.test.isel(image=slice(5))
    tree = export_posterior(vae, images, moment_draws=4000, units=range(6))
    mean, between, covariance = exact_moments(vae, torch.from_numpy(images["x"].values))
    n = 4000
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    from_above = np.diagonal(between, axis1=1, axis2=2)
    moments = tree["posterior_moments"]
    assert np.all(abs(moments["z1_mean"] - mean) < 5 * np.sqrt(from_above / n))
    assert np.all(abs(moments["z1_variance_from_z2"] - from_above) < 5 * from_above * np.sqrt(2 / n))
    assert np.all(abs(moments["z1_variance"] - variance) < 5 * from_above * np.sqrt(2 / n) + 1e-5)
    correlation = covariance / np.sqrt(variance[:, :, None] * variance[:, None, :])
    assert abs(correlation - np.eye(6)).max() > 0.2, "the case must have correlations to find"
    np.testing.assert_allclose(moments["z1_correlation"], correlation, atol=5 / np.sqrt(n))
    q2 = vae.guide.heads[1](torch.from_numpy(images["x"].values))
    np.testing.assert_allclose(moments["z2_mean"], q2.mean.detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments["z2_variance"], q2.variance.detach(), rtol=1e-4)


def test_conditional_moments_agree_with_counting_draws():
    tree = export_posterior(small_pair(), small_data().test.isel(image=slice(4)), draws=4000, units=(0, 3, 5))
    z1 = tree["posterior"]["z1"].values[0]
    moments = tree["posterior_moments"]
    standard_error = z1.std(0) / np.sqrt(4000)
    assert np.all(abs(z1.mean(0) - moments["z1_mean"]) < 5 * standard_error)
    kurtosis = stats.kurtosis(z1, axis=0, fisher=False)
    assert np.all(abs(z1.var(0) / moments["z1_variance"] - 1) < 5 * np.sqrt((kurtosis - 1) / 4000))
    counted = np.array([np.corrcoef(z1[:, i][:, [0, 3, 5]].T) for i in range(4)])
    np.testing.assert_allclose(moments["z1_correlation"], counted, atol=5 / np.sqrt(4000))
    assert moments["unit"].values.tolist() == [0, 3, 5]


@pytest.mark.parametrize("guide", ["bottom_up", "mean_field"])
def test_z1_that_is_inferred_from_the_image_alone_owes_nothing_to_z2(guide):
    moments = export_posterior(small_pair(guide), small_data().test.isel(image=slice(4)), units=range(6))[
        "posterior_moments"
    ]
    assert float(moments["z1_variance_from_z2"].max()) == 0
    np.testing.assert_allclose(moments["z1_correlation"], np.broadcast_to(np.eye(6), (4, 6, 6)), atol=1e-6)


def test_bound_equals_the_objective():
    vae, data = small_pair(), small_data()
    tree = export_posterior(vae, data.test, moment_draws=3000)
    x = torch.from_numpy(data.test["x"].values)
    evaluation = hvae.ELBO(3000).evaluate(vae.model, vae.guide, x)
    bound = tree["bound"]
    np.testing.assert_allclose(bound["elbo"].mean(), evaluation.elbo.mean(), rtol=5e-3)
    np.testing.assert_allclose(bound["z1_kl"].mean(), -evaluation.terms["z1"].mean(), rtol=2e-2)
    np.testing.assert_allclose(bound["z2_kl"], -evaluation.terms["z2"], rtol=1e-4)
    np.testing.assert_allclose(bound["elbo"], bound["reconstruction"] - bound["z1_kl"] - bound["z2_kl"], rtol=1e-5)


def exactly_wrong_guide(shift):
    """A linear-Gaussian pair whose guide has the exact covariance's diagonal but a shifted mean."""
    vae = small_linear()
    guide = vae.guide.conditionals[0]
    with torch.no_grad():
        A, sigma = vae.model.A, vae.model.sigma
        vae.model.to_image.bias.zero_()
        A.copy_(torch.linalg.qr(torch.randn(16, 6, generator=torch.Generator().manual_seed(0)))[0])
        trunk, head = guide
        trunk.layers[0].weight.copy_(torch.eye(8, 16))
        trunk.layers[0].bias.fill_(20.0)
        precision = 1 + 1 / sigma**2  # A'A = 1: independent posteriors, so the guide can be exact
        head.weight.zero_()
        head.v_bias[:] = -precision.log()
    return vae, (A.T @ torch.ones(16) / sigma**2 / precision + shift).detach()


def test_resampled_draws_follow_the_exact_posterior():
    """One image, a guide that is off by half a standard deviation: resampled draws must pass a KS test, raw must not."""
    vae, mean = exactly_wrong_guide(shift=0.2)
    with torch.no_grad():
        vae.guide.conditionals[0][1].location_bias[:] = mean
    x = np.ones((1, 16), np.float32)
    sd = float(1 / torch.sqrt(1 + 1 / vae.model.sigma**2))
    exact = (vae.model.A.T @ torch.ones(16) / vae.model.sigma**2 * sd**2).detach().numpy()
    raw = export_posterior(vae, x, draws=3000)
    resampled = export_posterior(vae, x, draws=3000, resample=200)

    def p_values(tree):
        return [
            stats.kstest(tree["posterior"]["z1"].values[0, :, 0, j], "norm", (exact[j], sd)).pvalue for j in range(6)
        ]

    assert max(p_values(raw)) < 1e-6
    assert min(p_values(resampled)) > 1e-3
    assert abs(resampled["posterior_moments"]["z1_mean"].values[0] - exact).max() < 0.05
    np.testing.assert_allclose(resampled["posterior_moments"]["z1_variance"].values[0], sd**2, rtol=0.15)
    elbo = float(raw["bound"]["elbo"][0])
    assert float(resampled["sample_stats"]["log_weight"].mean()) > elbo + 0.5


def test_k_hat_flags_a_bad_guide_and_passes_an_exact_one():
    vae, mean = exactly_wrong_guide(shift=0.0)
    x = np.ones((3, 16), np.float32)
    with torch.no_grad():
        vae.guide.conditionals[0][1].location_bias[:] = mean
    exact = export_posterior(vae, x, draws=1000)["sample_stats"]
    with torch.no_grad():
        vae.guide.conditionals[0][1].v_bias.sub_(4)  # far too narrow
    bad = export_posterior(vae, x, draws=1000)["sample_stats"]
    assert exact["log_weight"].std() < 1e-3
    assert np.all(exact["ess"] > 990)
    assert np.all(bad["pareto_k"] > 0.7) and share_trusted(bad["pareto_k"].values) == 0


def test_k_hat_equals_arviz_on_the_same_weights():
    log_w = np.random.default_rng(0).standard_t(4, (1000, 5)) * np.linspace(0.2, 3, 5)
    expected = [float(az.psislw(log_w[:, i])[1]) for i in range(5)]
    np.testing.assert_allclose(pareto_k(log_w), expected, rtol=1e-10)


def test_projective_fields_are_the_columns_of_A_and_traversals_above():
    vae = small_pair()
    np.testing.assert_allclose(projective_field(vae.model, "z1"), vae.model.A.detach().T, rtol=1e-5, atol=1e-6)
    field = projective_field(vae.model, "z2")
    e = torch.zeros(1, 3)
    e[0, 1] = 1
    with torch.no_grad():
        decoded = [vae.model.to_image(vae.model.conditionals[0](sign * e).mean) for sign in (1, -1)]
    np.testing.assert_allclose(field[1], 0.5 * (decoded[0] - decoded[1])[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["posterior.nc", "posterior.zarr"])
def test_chunked_files_hold_what_one_chunk_holds(tmp_path, monkeypatch, name):
    """An affine guide's z2 is exact, so results must not depend on how images were split into chunks."""
    vae, data = affine_top_down(), small_data()
    whole = export_posterior(vae, data.test, moment_draws=8)
    monkeypatch.setattr(moments_module, "MEMORY", 20_000)
    with export_posterior(vae, data.test, moment_draws=8, path=tmp_path / name) as tree:
        assert tree["posterior_moments"].sizes["image"] == 60
        for variable in ("z2_mean", "z2_variance", "z2_kl"):
            np.testing.assert_allclose(
                tree["posterior_moments"][variable], whole["posterior_moments"][variable], rtol=1e-4, atol=1e-6
            )
        np.testing.assert_array_equal(tree["observed_data"]["x"], data.test["x"])
        assert tree["constant_data"]["source"].values[17] == "made"


def test_one_chunk_of_images_is_held_at_a_time(tmp_path, monkeypatch):
    """However many images there are: chunks are as large, and each is gone when the next is written."""
    monkeypatch.setattr(moments_module, "MEMORY", 200_000)
    vae, append = small_pair(), PosteriorWriter.append
    sizes, alive, chunks = [], [], []

    def watched(writer, groups):
        gc.collect()
        alive.append(sum(chunk() is not None for chunk in chunks))
        chunks.extend(weakref.ref(dataset) for dataset in groups.values())
        sizes.append(sum(dataset.nbytes for dataset in groups.values()))
        append(writer, groups)

    monkeypatch.setattr(PosteriorWriter, "append", watched)

    def largest(n):
        x = np.random.default_rng(0).normal(size=(n, 16)).astype(np.float32)
        path, before = tmp_path / f"{n}.nc", len(sizes)
        export_posterior(vae, x, path=path, draws=20, units=range(6), evidence=5, receptive_fields=8).close()
        return max(sizes[before:]), len(sizes) - before

    (few, one), (many, several) = largest(20), largest(60)
    assert few == many and several > 2 * one >= 2
    assert not any(alive)


def test_chunks_of_images_make_room_for_their_correlation_matrices(monkeypatch):
    request = Request(draws=0, resample=1, moment_draws=2, units=tuple(range(6)))
    monkeypatch.setattr(moments_module, "MEMORY", 2**20)
    vae, images = small_pair(), small_data().test
    few = Moments(vae, images, request, torch.device("cpu")).chunk
    without = Moments(vae, images, dataclasses.replace(request, units=()), torch.device("cpu")).chunk
    assert few == 2**20 // (32 * 36) < without


def test_arviz_opens_the_file(tmp_path):
    path = tmp_path / "posterior.nc"
    export_posterior(small_pair(), small_data().test.isel(image=slice(2)), draws=30, path=path).close()
    summary = az.summary(az.from_netcdf(path), var_names=["z2"])
    assert len(summary) == 6


def test_programs_of_ones_own_can_be_exported():
    import pyro
    import pyro.distributions as dist

    class Model(torch.nn.Module):
        pixels = 16

        def __init__(self):
            super().__init__()
            self.map = torch.nn.Linear(2, 16)

        def forward(self, x=None):
            with pyro.plate("image", 1 if x is None else len(x)):
                z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1).to_event(1))
                pyro.sample("x", dist.Normal(self.map(z), 0.5).to_event(1), obs=x)

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.map = torch.nn.Linear(16, 2)

        def forward(self, x):
            with pyro.plate("image", len(x)):
                pyro.sample("z1", dist.Normal(self.map(x), 0.3).to_event(1))

    vae = HVAE(Model(), Guide())
    tree = export_posterior(vae, small_data().test, draws=30)
    expected = vae.guide.map(torch.from_numpy(small_data().test["x"].values)).detach()
    np.testing.assert_allclose(tree["posterior_moments"]["z1_mean"], expected, rtol=1e-4, atol=1e-5)
    assert "constant_data" in tree and "A" not in tree["constant_data"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(draws=-1), "draws must be a whole number of at least 0, got -1"),
        (dict(resample=5), "resample=5 needs draws"),
        (dict(units=(3, 6)), "from 0 to 5; got"),
        (dict(units=(1, 1)), "distinct"),
        (dict(evidence=1), "at least 2, or 0 for none; got 1"),
        (dict(evidence_images=5), "evidence_images=5 needs evidence=K"),
        (dict(receptive_fields=-1), "receptive_fields must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_requests_are_refused(options, says):
    with pytest.raises(HVAEError, match=says):
        export_posterior(small_pair(), small_data().test, **options)


def test_bad_images_are_refused():
    with pytest.raises(HVAEError, match="with 16 pixels, got .3, 25."):
        export_posterior(small_pair(), np.zeros((3, 25), np.float32))
    with pytest.raises(HVAEError, match="no images"):
        export_posterior(small_pair(), np.zeros((0, 16), np.float32))
    with pytest.raises(HVAEError, match="NaN"):
        export_posterior(small_pair(), np.full((3, 16), np.nan, np.float32))


def test_export_leaves_the_random_state_alone_and_repeats():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = (export_posterior(small_pair(), small_data().test, draws=5, seed=2) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    xr.testing.assert_identical(first["posterior"].to_dataset(), second["posterior"].to_dataset())


def test_conditional_fields_of_an_affine_prior_are_its_weights():
    vae = affine_top_down()
    location, log_scale = conditional_field(vae.model, 2)
    head = vae.model.conditionals[0][1]
    np.testing.assert_allclose(location, head.weight[:6].detach().T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_scale, 0.5 * head.weight[6:].detach().T, rtol=1e-5, atol=1e-6)


def test_terms_of_a_bound_are_labelled_arrays_annealed_and_not():
    vae = small_pair()
    x = torch.from_numpy(small_data().test["x"].values)
    dataset = hvae.ELBO(beta={"z1": 0.5, "z2": torch.tensor(2.0)}).evaluate(vae.model, vae.guide, x).to_dataset()
    np.testing.assert_allclose(dataset["elbo"], dataset["x"] + dataset["z1"] + dataset["z2"], rtol=1e-5)
    np.testing.assert_allclose(dataset["z2_annealed"], 2 * dataset["z2"], rtol=1e-6)
    total = dataset["x_annealed"] + dataset["z1_annealed"] + dataset["z2_annealed"]
    np.testing.assert_allclose(dataset["bound"], total, rtol=1e-5)


@pytest.mark.parametrize("name", ["posterior.nc", "posterior.zarr"])
def test_every_label_of_the_images_reaches_the_file(tmp_path, name):
    images = small_data().test.assign_coords(orientation=("image", np.linspace(0, 170, 60)))
    with export_posterior(small_pair(), images, path=tmp_path / name, moment_draws=4) as tree:
        np.testing.assert_allclose(tree["constant_data"]["orientation"], images["orientation"], rtol=1e-6)
        assert tree["constant_data"]["split"].values[3] == "test"


def gradient_field(tree):
    return tree["constant_data"]["z1_receptive_field"].values


def test_receptive_fields_of_a_linear_guide_are_its_matrix():
    vae = small_linear()
    trunk, head = vae.guide.conditionals[0]
    with torch.no_grad():
        trunk.layers[0].weight.mul_(0.1)
        trunk.layers[0].bias.fill_(30.0)  # softplus(u) = u there
    expected = (head.weight[:6] @ trunk.layers[0].weight).detach()
    found = gradient_field(export_posterior(vae, small_data().test))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_receptive_fields_hold_what_the_layer_above_passes_on():
    """q(z1|x, z2) and q(z2|x) affine: both paths from the image to z1 are products of matrices."""
    vae = affine_top_down()
    guide = vae.guide
    W, w = guide.joint[0].first.weight.split((SIZE**2, 3), -1)
    head = guide.heads[0].location_weight
    direct, through = head @ W, head @ w @ guide.heads[1].weight[:3]
    found = gradient_field(export_posterior(vae, small_data().test))
    assert through.abs().max() > 0.1 * direct.abs().max(), "the path through z2 must matter in this case"
    np.testing.assert_allclose(found, (direct + through).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("guide", ["top_down", "bottom_up", "mean_field"])
def test_receptive_fields_are_differences_of_posterior_means(guide):
    """Central differences of the mean over images and 4,000 draws of z2, the same draws on both sides."""
    vae, x = small_pair(guide).double(), small_data().test["x"].values[:40].astype(float)
    found = gradient_field(export_posterior(vae, np.repeat(x, 100, 0), moment_draws=2, receptive_fields=4000))

    def mean(pixel, step):
        shifted = x.copy()
        shifted[:, pixel] += step
        moments = export_posterior(vae, shifted, moment_draws=4000, receptive_fields=0, seed=1)["posterior_moments"]
        return moments["z1_mean"].values.astype(float).mean(0)

    for pixel in (0, 7):
        slope = (mean(pixel, 0.05) - mean(pixel, -0.05)) / 0.1
        np.testing.assert_allclose(found[:, pixel], slope, rtol=0.02, atol=0.02 * abs(slope).max())


def test_receptive_fields_are_averaged_over_the_natural_images(monkeypatch):
    vae, images = small_pair("mean_field"), small_data().test
    mixed = images.assign_coords(family=("image", np.where(np.arange(60) < 20, "", "oat")))
    found = export_posterior(vae, mixed, receptive_fields=7)["constant_data"]["z1_receptive_field"]
    chosen = images["x"].values[np.arange(7) * 20 // 7]
    np.testing.assert_allclose(found, gradient_field(export_posterior(vae, chosen)), rtol=1e-5, atol=1e-7)
    assert found.attrs["images"] == 7 and found.attrs["image_set"] == "natural"
    monkeypatch.setattr("pyro_hvae.export.guide_gradient.BATCH", 3)
    np.testing.assert_allclose(gradient_field(export_posterior(vae, chosen)), found, rtol=1e-5, atol=1e-7)
    without = export_posterior(vae, images, receptive_fields=0)
    assert "z1_receptive_field" not in without["constant_data"]


def linear_gaussian_pair(scale=1.2):
    """A jointly Gaussian pair whose guide has the exact means of z1 and too wide or narrow a spread."""
    vae, _ = exactly_wrong_guide(shift=0.0)
    with torch.no_grad():
        precision = 1 + 1 / vae.model.sigma**2
        trunk, head = vae.guide.conditionals[0]
        trunk.layers[0] = torch.nn.Linear(16, 16)
        trunk.layers[0].weight.copy_(torch.eye(16))
        trunk.layers[0].bias.fill_(40.0)
        wide = torch.nn.functional.pad(vae.model.A.T / vae.model.sigma**2 / precision, (0, 0, 0, 6))
        bias = torch.cat([-wide[:6].sum(-1) * 40, (np.log(scale**2) - precision.log()).expand(6)])
        head.weight, head.bias = torch.nn.Parameter(wide), torch.nn.Parameter(bias)
    return vae


def test_evidence_is_that_of_a_linear_gaussian_model():
    """Exact log p(x) within Monte Carlo standard errors: of their mean over images, and of each."""
    vae, images = linear_gaussian_pair(), small_data().test
    exact = linear_gaussian_posterior(vae.model, torch.from_numpy(images["x"].values)).log_evidence.numpy()
    tree = export_posterior(vae, images, evidence=2000)
    found = tree["evidence"]
    z = (found["log_evidence"].values - exact) / found["standard_error"].values
    assert abs(z).max() < 4 and 0.7 < z.std() < 1.3 and abs(z.mean()) < 4 / np.sqrt(60)
    assert np.all(found["pareto_k"] < 0.7) and np.all(found["ess"] > 1000)
    gap = 3 * (1.44 - 1 - np.log(1.44))  # KL between normals of which one is 1.2 times as wide, in six dims
    assert float((exact - tree["bound"]["elbo"]).mean()) == pytest.approx(gap, abs=0.05)
    assert found.attrs["num_particles"] == 2000 and found.attrs["images"] == 60


@pytest.mark.parametrize("name", ["posterior.nc", pytest.param("posterior.zarr", marks=pytest.mark.slow)])
def test_evidence_of_some_images_leaves_the_rest_unknown(tmp_path, monkeypatch, name):
    vae, images = small_pair(), small_data().test
    monkeypatch.setattr(moments_module, "MEMORY", 50_000)  # several chunks
    plain = export_posterior(vae, images)
    with export_posterior(vae, images, evidence=30, evidence_images=7, path=tmp_path / name) as tree:
        evidence = tree["evidence"]
        known = np.flatnonzero(np.isfinite(evidence["log_evidence"].values))
        assert known.tolist() == [k * 60 // 7 for k in range(7)]
        assert evidence.attrs["estimator"] == "importance sampling" and evidence.attrs["images"] == 7
        xr.testing.assert_identical(plain["posterior_moments"].to_dataset(), tree["posterior_moments"].to_dataset())
    assert "evidence" not in plain


@pytest.mark.parametrize("name", ["posterior.nc", pytest.param("posterior.zarr", marks=pytest.mark.slow)])
def test_yardsticks_are_kept_for_the_images_they_are_about(tmp_path, monkeypatch, name):
    vae, data = small_pair(), small_data()
    monkeypatch.setattr(moments_module, "MEMORY", 50_000)  # several chunks
    fitted = hvae.yardsticks(data.train, data.test, sigma=0.4)
    images = concatenate(data.train.isel(image=slice(7)), data.test.isel(image=slice(None, None, -1)))
    with export_posterior(vae, images, yardsticks=fitted, path=tmp_path / name) as tree:
        kept = tree["yardsticks"]
        assert kept["log_density"].dims == ("yardstick", "image") and kept.attrs["sigma"] == 0.4
        assert kept["yardstick"].values.tolist() == fitted["yardstick"].values.tolist()
        assert kept["log_density"][:, :7].isnull().all()
        np.testing.assert_allclose(kept["log_density"][:, 7:], fitted["log_density"][:, ::-1], rtol=1e-6)
    assert "yardsticks" not in export_posterior(vae, data.test)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_files_name_no_place_of_the_machine_that_made_them(tmp_path, suffix):
    from pyro_hvae.storage.posterior_file import open_posterior

    vae, data = small_pair(), small_data()
    photographs = tmp_path / "photographs of me"
    data = dataclasses.replace(
        data, provenance={"kind": "natural", "source": str(photographs), "sources": [{"name": "a.png"}]}
    )
    hvae.fit(vae, data, steps=1, batch=20, out=tmp_path / "run", progress=False, device="cpu")
    assert hvae.export_posterior(vae, data, path=tmp_path / f"p.{suffix}", moment_draws=2, prior_samples=1) is not None
    with open_posterior(tmp_path / f"p.{suffix}") as tree:
        assert str(tmp_path) not in str(dict(tree.attrs)) and tree.attrs["file"] == f"p.{suffix}"
        assert '"source": "photographs of me"' in tree.attrs["configuration"]
    content = [
        p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and (p.name == f"p.{suffix}" or ".zarr" in str(p))
    ]
    assert content and not any(str(tmp_path).encode() in each for each in content)


def test_places_are_found_wherever_they_are():
    from pyro_hvae.storage.provenance import without_places

    given = {
        "a": "/home/me/x.png",
        "b": ["C:\\Users\\me\\y.png", "rel/z.png", 3, None],
        "c": {"d": ("/data/set/",)},
        "e": "1/2",
    }
    assert without_places(given) == {
        "a": "x.png",
        "b": ["y.png", "rel/z.png", 3, None],
        "c": {"d": ["set"]},
        "e": "1/2",
    }
