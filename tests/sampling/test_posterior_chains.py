import numpy as np
import pytest
import torch
from oracles import affine_model, joint_gaussian, quadrature_posteriors, rank_test, simulate, softplus_model, z_scores

from pyro_hvae.sampling import adaptive_hmc
from pyro_hvae.sampling.collapsed import Collapsed, UpperLayers, decoupled
from pyro_hvae.sampling.gibbs import gibbs
from pyro_hvae.sampling.kernels import Kernels
from pyro_hvae.sampling.posterior_chains import Plain


def start(model, images, chains, seed):
    """Latents from the prior, and standard deviations of one."""
    torch.manual_seed(seed)
    layers = UpperLayers(model)
    shape = (chains, images)
    upper = layers.draw_upper(shape) if model.layers > 1 else model.A.new_zeros(*shape, 0)
    p = layers.p_z1(upper)
    z1 = p.sample() if model.layers > 1 else p.sample(shape)
    return {"z1": z1} | {f"z{l}": z for l, z in layers.split(upper).items()}


def collapsed(model, x, chains, warmup, seed):
    begun = start(model, len(x), chains, seed)
    spread = x.new_ones(len(x), sum(model.dims[1:]))
    return Collapsed(model, x, begun, spread, warmup, decoupled(model), Kernels(model.families[0]))


def plain(model, x, chains, warmup, seed):
    return Plain(model, x, start(model, len(x), chains, seed), start(model, len(x), 16, seed), warmup)


MADE = {"collapsed": collapsed, "plain": plain}


def sample(made, model, x, num_samples, *, warmup=100, chains=16, thin=1, seed=0, **options):
    """Draws ``(chain, draw, image, latent)``."""
    with torch.no_grad():
        state = MADE[made](model, x, chains, warmup, seed)
        for _ in range(warmup):
            state.sweep(adapt=True)
        kept = []
        for _ in range(num_samples):
            for _ in range(thin):
                state.sweep(adapt=False, **options)
            kept.append(torch.cat([state.sites()[site] for site in model.sites], -1))
    return torch.stack(kept, 1).numpy()


GAUSSIAN = {
    "one layer": dict(dims=(3,)),
    "two layers": dict(dims=(4, 2)),
    "three layers": dict(dims=(3, 2, 2)),
    "overcomplete skip": dict(dims=(6, 2), pixels=4, skip=True),
}


#: The collapsed sampler in make test; the plain one, whose parts have tests of their own, with the slow ones.
BOTH = ["collapsed", pytest.param("plain", marks=pytest.mark.slow)]


@pytest.mark.parametrize("made", BOTH)
@pytest.mark.parametrize("options", GAUSSIAN.values(), ids=GAUSSIAN)
def test_agrees_with_the_exact_gaussian_posterior(options, made):
    model = affine_model(**options, seed=2)
    _, x = simulate(model, 3)
    mean, covariance = joint_gaussian(model).posterior(x.numpy())
    draws = sample(made, model, x, 200, warmup=60)
    z = z_scores(draws, mean, np.broadcast_to(np.diag(covariance), mean.shape))
    assert np.abs(z[0]).max() < 4 and np.abs(z[1]).max() < 4


LAPLACE = {
    "one layer": dict(dims=(2,)),
    "two layers": dict(dims=(1, 1)),
    "skip": dict(dims=(1, 1), skip=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("options", LAPLACE.values(), ids=LAPLACE)
def test_agrees_with_quadrature(options, made):
    model = softplus_model(**options)
    _, x = simulate(model, 3)
    exact = quadrature_posteriors(model, x)
    draws = sample(made, model, x, 300)
    z = z_scores(draws, np.stack([e.mean for e in exact]), np.stack([np.diag(e.covariance) for e in exact]))
    assert np.abs(z[0]).max() < 4.5 and np.abs(z[1]).max() < 4.5


@pytest.mark.slow
def test_agrees_with_gibbs():
    model = softplus_model((5, 2), pixels=6, seed=3)
    _, x = simulate(model, 4)
    judge = gibbs(model, x, num_samples=400, warmup=150, chains=16, leapfrog_steps=5, seed=1)["posterior"]
    theirs = np.concatenate([judge[site].values for site in model.sites], -1)
    ours = sample("collapsed", model, x, 400, warmup=150)
    ours_mean, theirs_mean = ours.mean((0, 1)), theirs.mean((0, 1))
    for power in (lambda d: d, lambda d: (d - theirs_mean) ** 2):
        chains = [power(draws).mean(1) for draws in (ours, theirs)]  # independent, so their spread is the error
        error = np.sqrt(sum(c.var(0, ddof=1) / len(c) for c in chains))
        assert np.abs((chains[0].mean(0) - chains[1].mean(0)) / error).max() < 4.5
    assert ours_mean.shape == (4, 7)


def calibration_p_values(made="collapsed", **options):
    """SBC of every coordinate of z1 and z2 and of the log likelihood: 800 simulations, 16 rank bins of 50 each."""
    model = softplus_model((2, 1), pixels=2, noise=1.0, seed=4)
    z, x = simulate(model, 800, seed=5)
    draws = sample(made, model, x, 15, warmup=50, chains=1, thin=4, seed=6, **options)[0]
    truth = torch.cat([z[site] for site in model.sites], -1).numpy()

    def log_likelihood(z1):
        return -0.5 * ((x - model.to_image(torch.as_tensor(z1))) / model.sigma).square().sum(-1).numpy()

    pairs = [(truth[:, i], draws[..., i]) for i in range(3)]
    pairs.append((log_likelihood(truth[:, :2]), log_likelihood(draws[..., :2])))
    return [rank_test(*pair) for pair in pairs]


@pytest.mark.parametrize("made", MADE)
def test_simulation_based_calibration(made):
    p = calibration_p_values(made)
    assert min(p) > 0.01 / len(p), p


@pytest.mark.slow
def test_calibration_whatever_the_number_of_cycles():
    p = calibration_p_values(cycles=4)
    assert min(p) > 0.01 / len(p), p


@pytest.mark.parametrize("made", BOTH)
def test_calibration_sees_a_missing_rejection(made, monkeypatch):
    def always_accepts(self, log_density, position, leapfrogs):
        new = position + self._physical(torch.randn_like(position))
        return new, torch.full_like(position[..., 0], 0.8), position[..., 0] > torch.inf

    monkeypatch.setattr(adaptive_hmc.AdaptiveHMC, "_transition", always_accepts)
    assert min(calibration_p_values(made)) < 1e-4


@pytest.mark.slow
def test_calibration_sees_an_auxiliary_that_is_not_made_up_for(monkeypatch):
    """D above G without its root: the likelihood would count some of the image twice."""
    right = Collapsed.__init__

    def spoilt(self, *arguments):
        right(self, *arguments)
        object.__setattr__(self.decoupling, "root", 0.5 * self.decoupling.root)

    monkeypatch.setattr(Collapsed, "__init__", spoilt)
    assert min(calibration_p_values()) < 1e-4


@pytest.mark.parametrize("made", BOTH)
def test_adaptation(made):
    model = softplus_model((5, 2), pixels=6, seed=3)
    _, x = simulate(model, 4)
    with torch.no_grad():
        state = MADE[made](model, x, 4, 120, 0)
        for _ in range(120):
            state.sweep(adapt=True)
        step, factor = state.moves.step.clone(), state.moves.factor.clone()
        rates = torch.stack([state.sweep(adapt=False)[0].mean(0) for _ in range(50)]).mean(0)
    assert (rates > 0.55).all() and (rates < 0.99).all()
    assert torch.equal(state.moves.step, step) and torch.equal(state.moves.factor, factor)
    assert state.moves.leapfrogs in adaptive_hmc.LEAPFROGS


def test_divergences_are_counted():
    moves = adaptive_hmc.AdaptiveHMC(torch.full((1, 1), 100.0), 10)
    _, probability, divergent = moves.move(lambda u: -0.5 * u.square().sum(-1), torch.ones(3, 1, 1), adapt=False)
    assert divergent.all() and (probability == 0).all()


@pytest.mark.parametrize("family", ["laplace", "normal"])
def test_kernels_have_the_derivatives_of_their_values(family):
    torch.manual_seed(0)
    loc, center = torch.randn(2, 3, 4, dtype=torch.float64)
    scale, width = 0.5 + torch.rand(3, 4, dtype=torch.float64), torch.full((4,), 0.7, dtype=torch.float64)
    kernels = Kernels(family)
    inputs = [t.requires_grad_() for t in (loc, scale, center)]
    assert torch.autograd.gradcheck(lambda *t: kernels.log_normaliser(*t, width), inputs)


@pytest.mark.parametrize("family", ["laplace", "normal"])
def test_kernels_draw_from_what_they_say(family):
    torch.manual_seed(0)
    loc, center = (torch.randn(1, 4, dtype=torch.float64).expand(40_000, 4) for _ in range(2))
    z, mean, variance = Kernels(family).draw(
        loc, torch.full_like(loc, 0.6), center, torch.full((4,), 0.7, dtype=torch.float64)
    )
    assert (((z - mean).mean(0)) / (variance[0] / 40_000).sqrt()).abs().max() < 4
    torch.testing.assert_close(z.var(0), variance[0], rtol=0.05, atol=0)
