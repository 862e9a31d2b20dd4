"""Gradient estimators: how the values at which a bound is evaluated hang on the guide's parameters.

Each draws a :class:`~pyro_hvae.bounds.traces.PairTrace` that an objective reduces to a bound in the same way; they differ in
what the bound's gradient then is.

``standard``
    Reparametrised values; the gradient of the bound as written.
``stl``
    Sticking the landing (Roeder, Wu, Duvenaud 2017): the guide's parameters are stopped in log q, whose score has
    expectation zero. Unbiased for averages over particles (the ELBO), not inside an importance-weighted bound.
``dreg``
    Doubly reparametrised (Tucker, Lawson, Gu, Maddison 2019), for any Rényi order alpha and any beta per site: see
    :func:`path_scale`. It is ``stl`` at alpha = 1.
``rao_blackwell``
    z1, to which the image is linear-Gaussian, is not sampled: see :func:`expected_log_likelihood`. In an importance-weighted
    or Rényi bound the weight is then that of the layers above, with a lower bound of log p(x | z2, …) inside.
``rao_blackwell_stl``, ``rao_blackwell_dreg``
    The same, and ``stl`` or ``dreg`` for the layers above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_hvae.bounds.structure import Structure
from pyro_hvae.bounds.traces import Clamp, PairTrace, log_prob, replay_model, sample_sites, trace_pair, vectorise
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.program import is_stochastic, nodes

LINEAR_SITE = "z1"


def _is_latent(msg: Mapping[str, Any]) -> bool:
    return is_stochastic(msg) and not msg["is_observed"]


# -- stl and dreg ----------------------------------------------------------------------------------------------------


class _Cut(Messenger):
    """Record each site's value, connected to the parameters through this site alone; hand it on detached."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}
        self.subsamples: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.subsamples[msg["name"]] = msg["value"]
        if _is_latent(msg):
            self.values[msg["name"]] = msg["value"]
            msg["value"] = msg["value"].detach()


class _Rejoin(Messenger):
    """Give each site of the stopped guide its value, connected to the values above it and to the live parameters.

    The connection to the values above runs through the stopped networks, the one to the parameters through the value
    that :class:`_Cut` recorded: two separate paths, so that a hook on the latter scales what reaches the parameters
    without touching what flows up to the other sites.
    """

    def __init__(self, cut: _Cut):
        super().__init__()
        self.cut = cut

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if _is_latent(msg):
            live = self.cut.values[msg["name"]]
            upward = reparametrised(msg["name"], msg["fn"], live.detach())
            msg["value"], msg["done"] = live + (upward - upward.detach()), True
        elif msg["name"] in self.cut.subsamples:
            msg["value"], msg["done"] = self.cut.subsamples[msg["name"]], True


def reparametrised(name: str, fn: Any, value: Tensor) -> Tensor:
    """``value``, a draw of ``fn``, as it moves with the parameters of ``fn`` while its random numbers stay.

    :raises HVAEError: for a distribution that is neither of a location-scale family, nor a Normal with a covariance, nor has a
        method ``rsample_at`` that does this (as :class:`~pyro_hvae.programs.product.LaplaceNormalProduct` has).
    """
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    if hasattr(fn, "rsample_at"):
        return fn.rsample_at(value)
    if isinstance(fn, torch.distributions.MultivariateNormal):
        tril, centred = fn.scale_tril, (value - fn.loc).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(tril, centred, upper=False).detach()
        return fn.loc + (tril @ noise).squeeze(-1)
    if not (fn.has_rsample and hasattr(fn, "loc") and hasattr(fn, "scale")):
        raise HVAEError(
            f"site {name} is a {type(fn).__name__}; the stl and dreg gradients need a location-scale family (Laplace, "
            "Normal, …), or a distribution with a method rsample_at. Use gradient='standard'"
        )
    return fn.loc + fn.scale * ((value - fn.loc) / fn.scale).detach()


class _WithShared(nn.Module):
    """A guide and the modules that it reads from, under one name each."""

    def __init__(self, guide: nn.Module):
        super().__init__()
        self.guide, self.shared = guide, nn.ModuleList(getattr(guide, "shared", ()))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.guide(*args, **kwargs)


def stopped(guide: Callable) -> Callable:
    """The guide with its parameters detached: values still carry gradients through it, parameters do not.

    Stopping locations and scales instead would also cut the path by which a value above moves the distribution below,
    and bias the gradient of every hierarchical guide.
    """
    if not isinstance(guide, nn.Module):
        raise HVAEError("the stl and dreg gradients stop the guide's parameters and need a guide that is an nn.Module, got "
                        f"{guide!r}; wrap it, or use gradient='standard'")  # fmt: skip

    def run(*args: Any, **kwargs: Any) -> Any:
        whole = _WithShared(guide)
        parameters = {name: p.detach() for name, p in whole.named_parameters()}
        return torch.func.functional_call(whole, parameters, args, kwargs)

    return poutine.block(run, hide_types=["param"])


def check_stopped(guide: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Refuse a guide whose parameters cannot be stopped from outside."""
    with torch.enable_grad():
        trace = poutine.trace(stopped(guide)).get_trace(*args, **kwargs)
        for name, node in sample_sites(trace, observed=False).items():
            reparametrised(name, node["fn"], node["value"].detach())
            if node["fn"].log_prob(node["value"].detach()).requires_grad:
                raise HVAEError(
                    f"site {name} still depends on parameters of {type(guide).__name__} that are not its module parameters "
                    "(pyro.param, or a PyroModule in the global store?), so they cannot be stopped; make them nn.Parameter, "
                    "set pyro.settings.set(module_local_params=True), or use gradient='standard'"
                )


def path_pair(
    model: Callable, guide: Callable, args: tuple, kwargs: Mapping[str, Any], num_particles: int
) -> tuple[PairTrace, dict[str, Tensor]]:
    """A pair whose log q has stopped parameters.

    :returns: the pair, and each site's value as it hangs on the guide's parameters (for :func:`path_scale`).
    """
    recorded, paths = _path_trace(guide, args, kwargs, num_particles)
    return replay_model(model, recorded, args, kwargs, num_particles), paths


def _path_trace(
    guide: Callable, args: tuple, kwargs: Mapping[str, Any], num_particles: int
) -> tuple[Trace, dict[str, Tensor]]:
    cut = _Cut()
    with cut:
        vectorise(guide, num_particles)(*args, **kwargs)
    with poutine.trace() as recorded, _Rejoin(cut):
        vectorise(stopped(guide), num_particles)(*args, **kwargs)
    return recorded.trace, cut.values


def path_scale(weights: Tensor, beta: Tensor, alpha: float) -> Tensor:
    """Factor c by which the path gradient of each particle must be multiplied at a site before it enters the parameters.

    With log w = log p(x|z) + Σ_l β_l (log p_l - log q_l) and normalised weights ŵ of w^(1-α), the score term of site l is
    -β_l Σ_i ŵ_i ∂ log q_l; exchanging it for a path derivative (∂ŵ_i / ∂ log w_i = (1-α) ŵ_i (1-ŵ_i)) leaves

        Σ_i ŵ_i c_i · d log w_i / d z_l · ∂ z_l,    c_i = 1 - β_l (1-α) (1-ŵ_i),

    which is ŵ_i² for the importance-weighted bound with β = 1 (Tucker et al. 2019, eq. 8).
    """
    return 1 - beta * (1 - alpha) * (1 - weights)


# -- rao_blackwell ---------------------------------------------------------------------------------------------------


class _AtMean(Messenger):
    """Put the mean where the linear site would be sampled."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == LINEAR_SITE and _is_latent(msg) and not msg["done"]:  # the model's is done: replayed
            msg["value"], msg["done"] = msg["fn"].mean, True


def mean_pair(
    model: Callable, guide: Callable, args: tuple, kwargs: Mapping[str, Any], num_particles: int
) -> PairTrace:
    """A pair in which z1 stands at its posterior mean given the sampled layers above."""
    with _AtMean():
        return trace_pair(model, guide, args, kwargs, num_particles)


def mean_path_pair(
    model: Callable, guide: Callable, args: tuple, kwargs: Mapping[str, Any], num_particles: int
) -> tuple[PairTrace, dict[str, Tensor]]:
    """:func:`mean_pair` for z1, :func:`path_pair` for the layers above.

    q(z1 | x, z2, …) keeps its live parameters: nothing of it is sampled, so its gradient has no score term.
    """
    with _AtMean():
        recorded, paths = _path_trace(guide, args, kwargs, num_particles)
    paths.pop(LINEAR_SITE)
    values = {name: node["value"] for name, node in sample_sites(recorded, observed=False).items() if name in paths}
    with poutine.trace() as live, _AtMean(), Clamp(values):
        vectorise(guide, num_particles)(*args, **kwargs)
    for name in paths:
        live.trace.nodes[name]["fn"] = recorded.nodes[name]["fn"]
    return replay_model(model, live.trace, args, kwargs, num_particles), paths


def expected_log_likelihood(pair: PairTrace, image: Mapping[str, Any], model: Any) -> Tensor:
    """E over z1 of log Normal(x; A z1 + …, sigma) given the layers above, ``(..., image)``.

    = log Normal(x; A E[z1] + …, sigma) - ½ Σ_pj A_pj² Var[z1_j] / sigma_p²; the variance of Laplace(b) is 2 b².

    :param pair: of :func:`mean_pair`: z1 stands at its mean.
    :param image: the observed site.
    :param model: its ``A`` is ``(pixel, z1_dim)``, times ``gain`` of the sites if it has such a method.
    """
    A = model.A
    variance, scale = nodes(pair.guide)[LINEAR_SITE]["fn"].variance, image["fn"].base_dist.scale
    if hasattr(model, "gain"):
        variance = variance * model.gain(_values(pair)).square()
    if any(scale.stride()):
        spread = 0.5 * ((variance @ A.square().T) / scale.square()).sum(-1)
    else:  # one number, expanded: a product with the columns' norms instead of one with the whole of A
        spread = 0.5 * (variance * (A.square().sum(0) / scale.flatten()[0].square())).sum(-1)
    return log_prob(image) - scale_and_mask(spread, mask=image["mask"])


def _values(pair: PairTrace) -> dict[str, Tensor]:
    return {name: node["value"] for name, node in pair.latents.items()}


@torch.no_grad()
def check_linear(
    model: Any,
    pair: PairTrace,
    args: tuple,
    kwargs: Mapping[str, Any],
    structure: Structure,
) -> None:
    """Refuse a pair in which z1 cannot be integrated out given the rest; says why."""
    why = "gradient='rao_blackwell' integrates z1 out given the other layers, "
    if LINEAR_SITE not in pair.latents or not isinstance(getattr(model, "A", None), Tensor):
        raise HVAEError(why + "and needs a latent site z1 and an attribute A (pixel, z1_dim) of the model")
    if below := ", ".join(sorted(structure.inferred_from[LINEAR_SITE])):
        raise HVAEError(why + f"but the guide infers {below} from z1 (bottom-up); use another gradient or guide")
    children = {name for name, above in structure.parents.items() if LINEAR_SITE in above}
    (observed, node), *others = pair.observed.items()
    if others or children != {observed}:
        raise HVAEError(why + f"but in the model {sorted(children)} depend on z1, where only the image should")
    if not isinstance(getattr(node["fn"], "base_dist", None), torch.distributions.Normal):
        raise HVAEError(why + f"but {observed} is {type(node['fn']).__name__}, where a Normal image is needed")
    trace = pair.guide.copy()
    z1: Any = trace.nodes[LINEAR_SITE]
    shift = torch.ones_like(z1["value"]).cumsum(-1).sin()
    trace.nodes[LINEAR_SITE] = z1 | {"value": z1["value"] + shift}
    moved = replay_model(model, trace, args, kwargs, pair.num_particles).observed[observed]["fn"].base_dist
    expected = shift @ model.A.T * (model.gain(_values(pair)) if hasattr(model, "gain") else 1)
    change = moved.loc - node["fn"].base_dist.loc
    if not torch.allclose(change, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())) or not torch.equal(
        moved.scale, node["fn"].base_dist.scale
    ):
        raise HVAEError(
            why + f"but the mean of {observed} is not A z1 + (what does not depend on z1), at constant noise"
        )
    if structure.analytic_form(LINEAR_SITE, pair) != "kl":
        raise HVAEError(why + "but there is no analytic KL between its two families")
