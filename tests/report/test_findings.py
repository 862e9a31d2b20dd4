"""The three sentences of the report follow from the numbers, and say so where the finding is negative."""

import json

import numpy as np
import pytest
import xarray as xr
from planted import only_analyses

from pyro_hvae.analysis.results import quantity
from pyro_hvae.report import analyse
from pyro_hvae.report.findings import FOUND_FROM, findings


def fits(localized=80, active=100, goodness=0.9):
    variables = quantity("localized_count", [], localized, title="", unit="", n=active, interval=[localized, localized])
    both = [goodness, 0.1]
    variables |= quantity(
        "goodness", ["group"], both, title="", unit="", n=[localized, active - localized], se=[0.0, 0.0]
    )
    return xr.Dataset(variables, {"group": ["localized", "other"]})


def decoding(**scores):
    """Accuracies with intervals of ± 0.05; chance is 0.2."""
    scores = {"norm": 0.3, "power_spectrum": 0.5} | scores
    value = np.array([*scores.values()])
    bounds = np.stack([value - 0.05, value + 0.05], -1)
    variables = quantity("accuracy", ["feature"], value, title="", unit="", n=100, interval=bounds)
    return xr.Dataset(variables, {"feature": [*scores]}, {"chance": 0.2})


def activity(z2=5, sites=("z1", "z2")):
    counts = [100.0, z2][: len(sites)]
    variables = quantity(
        "count", ["site"], counts, title="", unit="", n=[100, 8][: len(sites)], se=np.zeros(len(sites))
    )
    variables["z2_active"] = xr.Variable("z2_dim", np.arange(8) < z2)
    return xr.Dataset(variables, {"site": [*sites]})


def trust(*shares):
    variables = quantity("trusted", ["set"], shares, title="", unit="", n=10, se=np.zeros(len(shares)))
    return xr.Dataset(variables, attrs={"verdict": "The guide's moments can be trusted for some."})


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (fits(), "z1 is a bank of localized, Gabor-like filters: 80 of 100 active units have localized fields, and a Gabor "
         "function explains 90% of the energy of the median one."),
        (fits(goodness=0.6), "z1 is a bank of localized filters that are no Gabor functions: 80 of 100 active units have "
         "localized fields, and a Gabor function explains 60% of the energy of the median one."),
        (fits(50), "z1 is no bank of localized filters: only 50 of 100 active units have localized fields; the others fill the "
         "patch."),
        (fits(0, goodness=np.nan), "z1 is no bank of localized filters: the fields of all 100 active units fill the patch."),
    ],
)  # fmt: skip
def test_what_z1_is(result, sentence):
    assert findings({"gabor_fits": result}, {})[0] == sentence


@pytest.mark.parametrize(
    ("z2", "beginning"),
    [
        (0.24, "z2 does not tell the texture families apart: "),
        (0.39, "z2 tells no more of texture than contrast does: "),
        (0.45, "z2 codes texture beyond contrast, but no more than the power spectrum tells: "),
        (0.59, "z2 codes texture beyond contrast, but no more than the power spectrum tells: "),
        (0.61, "z2 codes texture beyond contrast and power spectrum: "),
    ],
)
def test_what_z2_codes(z2, beginning):
    sentence = findings({"texture_decoding": decoding(z2_mean=z2), "active_dimensions": activity()}, {})[1]
    assert sentence == (
        f"{beginning}the family is decoded from its means with {z2:.2f} [{z2 - 0.05:.2f}, {z2 + 0.05:.2f}] correct, from the "
        "patch norm with 0.30 [0.25, 0.35], from the power spectrum with 0.50 [0.45, 0.55] (chance 0.20)."
    )


def test_a_z2_that_is_not_there_or_not_active_codes_nothing():
    decoded = decoding(z2_mean=0.9)
    collapsed = {"texture_decoding": decoded, "active_dimensions": activity(z2=0)}
    assert findings(collapsed, {})[1] == "z2 codes nothing: none of its 8 dimensions is active."
    absent = "There is no z2 that could code anything: the model has one layer."
    assert findings({"texture_decoding": decoded, "active_dimensions": activity(sites=("z1",))}, {})[1] == absent
    assert findings({"texture_decoding": decoding(z1_mean=0.9)}, {})[1] == absent


@pytest.mark.parametrize(
    ("shares", "finding"),
    [
        ((0.9, 1.0), "can be believed"),
        ((0.89, 1.0), "can be believed in part"),
        ((1.0, 0.5), "cannot be believed"),
        ((0.0,), "cannot be believed"),
    ],
)
def test_whether_the_posterior_can_be_believed_is_judged_by_the_worse_set(shares, finding):
    sentence = findings({"trust": trust(*shares)}, {})[2]
    assert sentence == f"The posterior {finding}: the guide's moments can be trusted for some."


def test_what_was_not_found_out_is_said_with_the_reason():
    assert findings({}, {"gabor_fits": "no z1 unit is active", "texture_decoding": "there are no labels."}) == [
        "What z1 is cannot be said: no z1 unit is active.",
        "What z2 codes cannot be said: there are no labels.",
        "Whether the posterior can be believed cannot be said: trust was not run.",
    ]


def test_the_report_of_a_planted_file_begins_with_its_truth(planted, tmp_path, monkeypatch):
    """70 Gabor functions; families on axes of z2 and alike in contrast; k-hat uniform in [0, 1]."""
    monkeypatch.setattr("pyro_hvae.report.report.COMPARISONS", {})
    with only_analyses(*FOUND_FROM):
        page = analyse(planted.path, tmp_path / "out").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    first, second, third = results["files"]["planted"]["findings"]
    assert first.startswith("z1 is a bank of localized, Gabor-like filters: 70 of 70 active units")
    assert second.startswith("z2 codes texture beyond contrast and power spectrum: ")
    assert third.startswith("The posterior cannot be believed: the guide's moments can be trusted for ")
    for sentence in (first, second, third):
        assert f"<li>{sentence.replace(chr(39), '&#39;')}</li>" in page
    assert page.index("<li>") < page.index("data:image/png") < page.index("<table>")
