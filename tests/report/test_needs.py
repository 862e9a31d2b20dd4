"""Needs and headlines: typos fail when they are written, and what a file lacks is named."""

import pytest
import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.report.needs import Group, Headline, Variable


def tree(**groups):
    """A tree with the given names of scalar variables by group."""
    return xr.DataTree.from_dict({group: xr.Dataset(dict.fromkeys(names, 0.0)) for group, names in groups.items()})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Variable("constant_dta", "A"), "unknown group .* 'constant_dta'; did you mean 'constant_data'"),
        (lambda: Variable("evidence", "pareto_q"), "variable of the group evidence 'pareto_q'; did you mean 'pareto_k'"),
        (lambda: Variable("observed_data", "famly"), "unknown variable of the group observed_data 'famly'"),
        (lambda: Group("posterior_moment"), "posterior_moment'; did you mean 'posterior_moments'"),
        (lambda: Group("evidence"), "unknown group that every posterior file has 'evidence'"),
    ],
)  # fmt: skip
def test_a_typo_names_the_nearest(make, message):
    with pytest.raises(HVAEError, match=message):
        make()


@pytest.mark.parametrize(
    "need",
    [
        Variable("constant_data", "family"),
        Variable("observed_data", "mask"),
        Variable("posterior_moments", "z2_mean"),
        Variable("prior_predictive", "x_mean"),
    ],
)
def test_variables_of_the_schema_are_known_and_asked_for(need):
    assert need.missing(tree(**{need.group: [need.name]})) == []
    assert need.missing(tree(**{need.group: ["x_else"]})) == [f"{need.group}/{need.name}"]
    assert need.missing(tree(other=[need.name])) == [f"{need.group}/{need.name}"]


def test_either_of_several_is_enough():
    k = Variable("sample_stats", "pareto_k") | Variable("evidence", "pareto_k")
    assert k.missing(tree(sample_stats=["pareto_k"])) == k.missing(tree(evidence=["pareto_k", "ess"])) == []
    assert k.missing(tree(evidence=["ess"])) == ["sample_stats/pareto_k or evidence/pareto_k"]
    three = k | Variable("bound", "elbo")
    assert three.missing(tree(bound=["elbo"])) == []
    assert three.missing(tree()) == ["sample_stats/pareto_k or evidence/pareto_k or bound/elbo"]


def test_a_group_asks_for_the_layers_of_the_file():
    bound = Group("bound")
    one, three = (tree(posterior_moments=[f"z{k}_mean" for k in range(1, n + 1)]) for n in (1, 3))
    assert bound.missing(one) == ["bound/elbo", "bound/reconstruction", "bound/z1_kl"]
    three["bound"] = xr.DataTree(xr.Dataset(dict.fromkeys(["elbo", "reconstruction", "z1_kl", "z3_kl"], 0.0)))
    assert bound.missing(three) == ["bound/z2_kl"]
    assert Group("posterior_moments").missing(tree()) == [
        f"posterior_moments/z1_{m}" for m in ("mean", "variance", "kl")
    ]


@pytest.mark.parametrize(
    ("headline", "shown", "hidden"),
    [
        (Headline("count"), ["count", "count[z1]", "count[z2]"], ["counts[z1]", "localized_count"]),
        (Headline("real"), ["real[guide]"], ["reality", "realised[guide]"]),
        (Headline("ceiling", ("guide",)), ["ceiling[guide]"], ["ceiling[guided]", "ceiling[resampled]", "ceiling"]),
        (Headline("bound", ("natural", "elbo")), ["bound[natural, elbo]"], ["bound[natural]", "bound[texture, elbo]"]),
        (Headline("bound", ("natural",)), ["bound[natural, elbo]", "bound[natural, z1_kl]"], ["bound[texture, elbo]"]),
    ],
)
def test_headlines_choose_by_quantity_and_coordinates(headline, shown, hidden):
    assert [name for name in [*shown, *hidden] if headline.shows(name)] == shown
