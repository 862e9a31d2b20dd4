"""The report holds everything that applies and says why the rest does not; numbers and page agree with the functions."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
import xarray as xr
from analysis.test_guide_audit import plant as plant_audit
from planted import Planted, add_gap, only_analyses

from pyro_hvae import analysis as public
from pyro_hvae.analysis import collect, style
from pyro_hvae.errors import HVAEError
from pyro_hvae.report import ANALYSES, analyse
from pyro_hvae.report.page import comparison
from pyro_hvae.report.registry import find
from pyro_hvae.report.text import formatted
from pyro_hvae.storage.audit_file import write_audit
from pyro_hvae.storage.posterior_file import open_posterior

#: What applies to a planted file, by the public name of its function: all but what needs masked images or a split of the gap.
FUNCTIONS = {
    "trust": "trust",
    "bound_terms": "bound_terms",
    "active_dimensions": "active_dimensions",
    "aggregate_posterior": "aggregate_posterior",
    "projective_fields": "projective_fields",
    "gabor_fits": "gabor_fits",
    "modulation_fields": "modulation_fields",
    "receptive_fields": "receptive_fields",
    "contextual_prior": "contextual_prior",
    "layer_dependence": "layer_dependence",
    "sparseness": "sparseness",
    "texture_decoding": "decode_family",
    "texture_selectivity": "texture_selectivity",
    "noise_correlations": "noise_correlations",
    "reconstruction": "reconstructions",
    "ancestral_samples": "ancestral_samples",
}
APPLY = set(FUNCTIONS)
LACKING = {"inpainting", "inference_gap", "chain_convergence"}
KEYS = {"analysis", "name", "title", "value", "n", "unit", "file"}
#: The pictures with which the report of a posterior file begins.
OPENING = ("projective_fields", "modulation_fields", "texture_decoding", "trust")


def strict(path):
    """JSON as the standard has it: no NaN, no infinities."""

    def refuse(constant):
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def numbers(page):
    """The objects of results.json beside a report, a number each."""
    return strict(page.parent / "results.json")["results"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Fewer images than elsewhere: here it matters what is reported, not how well it is estimated."""
    truth = {"natural": 80, "train": 24, "test": 16, "units": 14}
    return Planted(tmp_path_factory.mktemp("planted") / "planted.nc", **truth).write()


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures are most of the time of a report; they are drawn where they matter."""
    monkeypatch.setattr(style.Picture, "png", lambda picture: b"not drawn")
    for name, analysis in list(ANALYSES.items()):
        empty = dataclasses.replace(analysis, plot=lambda dataset: style.Picture(None, ""))
        monkeypatch.setitem(ANALYSES, name, empty)


@pytest.fixture
def few(monkeypatch):
    """Two analyses only, where it does not matter which."""
    monkeypatch.setattr("pyro_hvae.report.report.COMPARISONS", {})
    with only_analyses("bound_terms", "reconstruction"):
        yield


@pytest.fixture(scope="module")
def report(planted, tmp_path_factory):
    return analyse(planted.path, tmp_path_factory.mktemp("report"))


def test_every_analysis_is_in_results_with_value_uncertainty_n_unit_and_origin(report, planted):
    results = numbers(report)
    assert {entry["analysis"] for entry in results} == APPLY | LACKING
    for entry in results:
        if entry["analysis"] not in APPLY:
            assert entry["value"] is None and "does not apply" in entry["message"]
            continue
        assert set(entry) >= KEYS
        assert ("se" in entry) != ("interval" in entry)
        assert entry["n"] > 0 or entry["value"] is None  # no unit of that kind
        assert entry["file"] == "planted"
        assert "message" not in entry
    (file,) = strict(report.parent / "results.json")["files"].values()
    assert (file["path"], file["kind"]) == (str(planted.path), "posterior file")
    assert (file["attributes"]["preset"], file["attributes"]["schema_version"]) == ("planted", "1")


def test_the_origin_of_a_file_stands_once_in_its_results(report):
    text = (report.parent / "results.json").read_text(encoding="utf-8")
    for once in ("0" * 40, "moment_draws", "planted.nc"):  # commit, configuration, path
        assert text.count(once) == 1
    assert len(text) < 100_000


def test_results_are_those_of_the_functions(report, planted):
    results = {(entry["analysis"], entry["name"]): entry for entry in numbers(report)}
    with open_posterior(planted.path) as tree:
        for name, function in FUNCTIONS.items():
            for entry in collect(getattr(public, function)(tree)):
                found = results.pop((name, entry["name"]))
                for key in ("value", "se", "n", "unit", "title"):
                    expected = entry.get(key)
                    assert found.get(key) == (
                        pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected
                    )
    assert {name for name, _ in results} == LACKING


def test_page_is_self_contained_and_has_every_figure(report):
    page = report.read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "http" not in page.replace("http-equiv", "")
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    files = sorted((report.parent / "figures").glob("*.png"))
    assert [path.name for path in files] == sorted(f"{name}-planted.png" for name in APPLY)
    assert sorted(base64.b64decode(picture) for picture in pictures) == sorted(path.read_bytes() for path in files)
    assert re.findall(r'<h2 id="(\w+)">', page) == ["findings", "glance", *ANALYSES, "provenance"]
    # each section's table holds all numbers of its analysis, not only those at a glance
    entries = [entry for entry in numbers(report) if "message" not in entry]
    sections = dict(zip(re.findall(r'<h2 id="(\w+)">', page), page.split("<h2 id=")[1:], strict=True))
    for name in APPLY:
        expected = [formatted(entry) for entry in entries if entry["analysis"] == name]
        assert re.findall(r'<td>(.*?)<span class="n">', sections[name]) == expected
    # the page begins with sentences and pictures; numbers are folded
    opening = sections["findings"]
    assert re.findall(r'<h3 id="opening-(\w+)">', opening) == list(OPENING)
    assert opening.count("<li>") == 3 and opening.count("data:image/png") == 4 and "<table>" not in opening
    assert all("data:image/png" not in sections[name] for name in OPENING)
    assert all(f'href="#opening-{name}"' in sections[name] for name in OPENING)
    assert page.count("<details><summary>") == 1 + len(APPLY)
    assert "<p>Which dimensions of each layer are in use. z1 is judged by" in page
    assert "&#34;z1&#34;: 112" in page  # the configuration


#: Rows of the table at a glance of a planted file with evidence.
GLANCE = """
images whose moments can be trusted, natural
images whose moments can be trusted, texture
bound, natural, elbo
bound, texture, elbo
log evidence, natural
log evidence, texture
log p(x) minus ELBO, natural
active dimensions, z1
active dimensions, z2
KL[q||p], z1
KL[q||p], z2
KL of the aggregate posterior of z2 from its prior
median area of projective fields, z1
median area of projective fields, z2
localized z1 fields
energy explained by a Gabor function, localized
similarity of receptive and projective fields
modulation common to all z1 units
modulation explained by properties of z1 units, place
modulation explained by properties of z1 units, orientation
modulation explained by properties of z1 units, frequency
modulation explained by properties of z1 units, all
effect of a z2 dimension on the prior of z1, location
effect of a z2 dimension on the prior of z1, log scale
z1 variance that comes through z2, natural
z1 variance that comes through z2, texture
population sparseness of z1, natural, treves rolls
lifetime sparseness of z1, natural, treves rolls
texture family decoded from, pixels
texture family decoded from, norm
texture family decoded from, power spectrum
texture family decoded from, z1 mean
texture family decoded from, z2 mean
texture family decoded from, z1 correlation
texture-selective z2 dimensions
correspondence of noise and signal correlations, within
correspondence of noise and signal correlations, across
mean absolute noise correlation, natural
mean absolute noise correlation, texture
explained variance, natural
explained variance, texture
excess kurtosis of pixels, samples
excess kurtosis of pixels, observed
"""


def cells(html):
    """Rows of the first table: header, text of its one cell."""
    table = html[html.index("<tbody>") : html.index("</table>")]
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)<span class="n">n = (\d+)</span></td>', table)
    return [(title, text, int(n)) for title, text, n in rows]


def test_the_table_at_a_glance_has_the_main_numbers_of_every_analysis(planted, edit, tmp_path, undrawn):
    def add(tree):
        elbo = tree["bound"]["elbo"].values
        columns = {"log_evidence": elbo + 3.0, "standard_error": 0.1, "ess": 50.0, "pareto_k": 0.5}
        rows = {name: ("image", values + 0 * elbo) for name, values in columns.items()}
        tree["evidence"] = xr.DataTree(xr.Dataset(rows, attrs={"num_particles": 500}))
        add_gap(tree)

    page = analyse(edit(planted.path, add), tmp_path / "out")
    found = cells(page.read_text(encoding="utf-8"))
    assert [title for title, _, _ in found] == GLANCE.strip().splitlines()
    by_title = {title: (text, n) for title, text, n in found}
    assert by_title["active dimensions, z1"] == ("70 [70, 70]", 112)
    results = numbers(page)
    gap = {e["name"]: e["value"] for e in results if e["analysis"] == "bound_terms"}
    text, n = by_title["log evidence, natural"]
    assert float(text.split(" ± ")[0].replace("\u2212", "-")) == pytest.approx(gap["bound[natural, elbo]"] + 3, abs=0.1)
    assert n == planted.natural


def test_an_existing_report_is_refused_and_replaced_on_request(report, planted, tmp_path, few):
    with pytest.raises(HVAEError, match=r"report\.html.* exists; .*overwrite"):
        analyse(planted.path, report.parent)
    (tmp_path / "posterior-of-mine.nc").write_text("mine")
    analyse(planted.path, tmp_path)
    before = (tmp_path / "report.html").stat().st_mtime_ns
    figure = next((tmp_path / "figures").iterdir())
    (tmp_path / "figures" / "stale.png").write_bytes(figure.read_bytes())
    analyse(planted.path, tmp_path, overwrite=True)
    assert (tmp_path / "report.html").stat().st_mtime_ns > before
    assert (tmp_path / "posterior-of-mine.nc").read_text() == "mine"
    assert not (tmp_path / "figures" / "stale.png").exists()


def test_several_files_stand_side_by_side(plant, tmp_path, undrawn):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (
        plant("a/posterior.nc"),
        plant("b/posterior.zarr", z2_active=4, z2_collapsed=4, seed=5, train=30, test=30),
    )
    page = analyse([first.path, second.path], tmp_path / "out")
    rows = {row["title"]: row for row in comparison(numbers(page))}
    assert [cell["text"] for cell in rows["active dimensions, z2"]["cells"]] == ["5 [5, 5]", "4 [4, 4]"]
    assert [cell["n"] for cell in rows["texture family decoded from, z2 mean"]["cells"]] == [120, 90]
    text = page.read_text(encoding="utf-8")
    assert "<th>a (planted, TopDownGuide)</th><th>b (planted, TopDownGuide)</th>" in text
    assert len(list((tmp_path / "out" / "figures").glob("*-b.png"))) == len(APPLY)


def messages(page):
    text = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", text).replace("&#39;", "'")


def applied(page):
    return {entry["analysis"] for entry in numbers(page) if "message" not in entry}


@pytest.mark.parametrize(
    ("group", "kept", "said"),
    [
        ("bound", APPLY - {"bound_terms"}, "group bound is missing"),
        ("prior_predictive", APPLY - {"ancestral_samples"}, "group prior_predictive is missing"),
        ("posterior_predictive", APPLY - {"reconstruction"}, "group posterior_predictive is missing"),
        ("observed_data", {"trust", "bound_terms"}, "group observed_data is missing"),
        (
            "posterior_moments",
            {"trust", "bound_terms", "reconstruction", "ancestral_samples"},
            "variable posterior_moments/z1_mean is missing",
        ),
        ("constant_data", {"trust", "bound_terms", "reconstruction"}, "group constant_data is missing"),
        ("sample_stats", APPLY - {"trust"}, "trust does not apply: the file lacks sample_stats/pareto_k or evidence/"),
    ],
)
def test_a_missing_group_costs_only_what_needs_it(planted, edit, tmp_path, undrawn, group, kept, said):
    page = analyse(edit(planted.path, lambda tree: tree.__delitem__(group)), tmp_path / "out")
    assert applied(page) == kept
    assert said in messages(page)
    for name in APPLY - kept:
        assert f"{name} does not apply: the file lacks {group}/" in messages(page)
    assert "failed with" not in messages(page)


def test_one_family_no_active_dimension_and_nan_leave_the_rest(plant, edit, tmp_path, undrawn):
    def spoil(tree: xr.DataTree) -> None:
        tree["constant_data"]["A"] = 0.0 * tree["constant_data"]["A"]
        tree["bound"]["elbo"][:] = float("nan")
        tree["posterior_moments"]["z2_mean"][3] = float("nan")
        tree.attrs["objective"] = float("nan")

    page = analyse(edit(plant(families=("bark",)).path, spoil), tmp_path / "out")
    of_fields = {
        "gabor_fits",
        "modulation_fields",
        "noise_correlations",
        "sparseness",
        "receptive_fields",
        "contextual_prior",
        "layer_dependence",
    }
    assert applied(page) == APPLY - {"texture_decoding", "texture_selectivity", "bound_terms"} - of_fields
    said = messages(page)
    assert "decoding needs at least two texture families, the file has ['bark']" in said
    assert "no image has finite values in bound/elbo" in said
    assert "z1: no active dimension" in said
    assert "no z1 unit is active, so there are no fields to fit" in said
    assert "1 of 400 images left out: posterior_moments/z2_mean is not finite there" in said
    assert "failed with" not in said


def test_one_image_gives_numbers_without_errors(plant, tmp_path, undrawn):
    page = analyse(plant(natural=1, train=0, test=0).path, tmp_path / "out")
    few = {"texture_decoding", "texture_selectivity", "noise_correlations", "receptive_fields"}
    few |= {"contextual_prior", "modulation_fields"}
    assert applied(page) == APPLY - few
    said = messages(page)
    assert "the variance of posterior means needs at least two images" in said
    assert "need a family (or natural images) of at least 10 images" in said
    assert "(no interval)" in said
    assert "failed with" not in said


def test_a_one_layer_file_is_analysed(planted, edit, tmp_path, undrawn):
    def drop(tree: xr.DataTree) -> None:
        for group in ("posterior_moments", "bound", "constant_data", "posterior"):
            flat = tree[group].to_dataset()
            tree[group] = xr.DataTree(
                flat.drop_vars([name for name in flat.data_vars if "z2" in name]).drop_dims("z2_dim", errors="ignore")
            )

    page = analyse(edit(planted.path, drop), tmp_path / "out")
    assert applied(page) == APPLY - {
        "aggregate_posterior",
        "contextual_prior",
        "layer_dependence",
        "modulation_fields",
        "texture_selectivity",
    }
    assert "zero noise correlation by construction" in messages(page)
    assert "there is no layer above it" in messages(page)
    assert "Incomplete file" not in messages(page)
    assert "failed with" not in messages(page)


def test_masked_images_are_inpainted(planted, edit, tmp_path, undrawn):
    def mask(tree: xr.DataTree) -> None:
        observed = tree["observed_data"]
        shown = np.ones(observed["x"].shape, bool)
        shown[:, 44:48] = False
        observed["mask"] = xr.DataArray(shown, dims=("image", "pixel"))

    page = analyse(edit(planted.path, mask), tmp_path / "out")
    assert applied(page) == APPLY | {"inpainting"}


def test_a_bottom_up_file_says_that_its_noise_correlations_are_zero(planted, edit, tmp_path, undrawn):
    def silence(tree: xr.DataTree) -> None:
        moments = tree["posterior_moments"]
        moments["z1_variance_from_z2"][:] = 0.0
        moments["z1_correlation"].values[:] = np.eye(planted.units)

    page = analyse(edit(planted.path, silence), tmp_path / "out")
    assert messages(page).count("zero noise correlation by construction") >= 2  # correlations and their decoding
    names = {entry["name"] for entry in numbers(page)}
    assert "accuracy[z1_correlation]" not in names
    assert "accuracy[z2_mean]" in names


def test_a_sweep_gets_figures_of_all_files_together(plant, tmp_path, undrawn):
    """Three files: two sizes of z2, two numbers of particles."""
    small = {"natural": 40, "train": 12, "test": 6, "draws": 30}
    paths = [
        plant(f"{n}-{k}.nc", z2_active=n, z2_collapsed=n, particles=k, **small).path
        for n, k in ((3, 1), (5, 1), (5, 10))
    ]
    page = analyse(paths, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "figures").glob("*by_*.png")} == {
        "bound_by_particles.png",
        "active_by_size.png",
    }
    for title, caption in (
        ("Bound by number of particles", "Single-sample bound and its terms"),
        ("Active dimensions by size of z2", "Active dimensions against the number of z2 dimensions"),
    ):
        assert re.search(rf"{title}\. {caption}[^<]* n = 3 models", messages(page))


def test_an_audit_among_the_files_adds_its_section(planted, tmp_path, few):
    write_audit(plant_audit(real=0.5), tmp_path / "audit.nc")
    write_audit(plant_audit(images=8, r_hat=np.full(8, 1.5)), tmp_path / "stuck.nc")
    page = analyse([planted.path, tmp_path / "audit.nc", tmp_path / "stuck.nc"], tmp_path / "out")
    results = numbers(page)
    (real,) = [entry for entry in results if entry["name"] == "real[guide]"]
    assert abs(real["value"] - 0.5) < 4 * real["se"] and real["file"] == "audit"
    assert {entry["analysis"] for entry in results if entry["file"] == "planted"} == {
        "bound_terms",
        "reconstruction",
    }
    assert (tmp_path / "out" / "figures" / "guide_audit-audit.png").exists()
    text = page.read_text(encoding="utf-8")
    assert '<h2 id="guide_audit">How much of the guide&#39;s posterior is real</h2>' in text
    section = text[text.index('<h2 id="guide_audit">') :]
    assert "<th>audit</th><th>stuck</th><th>unit</th>" in section, "a column an audit, none of posterior files"
    assert section.count("data:image/png") == 1
    said = messages(page)
    assert "the reference converged for none of 8 images" in said
    assert "audit, reference: gibbs" in said
    alone = analyse(tmp_path / "audit.nc", tmp_path / "alone")
    assert applied(alone) == {"guide_audit"} and "Posterior report: audit" in messages(alone)


def test_an_analysis_that_crashes_or_cannot_be_drawn_costs_nothing_else(planted, tmp_path, few, monkeypatch):
    def crash(*_):
        raise ZeroDivisionError("planted crash")

    whole = find("bound_terms")
    monkeypatch.setitem(ANALYSES, "bound_terms", dataclasses.replace(whole, function=crash))
    monkeypatch.setitem(ANALYSES, "reconstruction", dataclasses.replace(find("reconstruction"), plot=crash))
    monkeypatch.setitem(ANALYSES, "whole", dataclasses.replace(whole, name="whole"))
    page = analyse(planted.path, tmp_path / "out")
    assert applied(page) == {"reconstruction", "bound_terms"}
    failed = [entry for entry in numbers(page) if "message" in entry]
    assert [entry["message"] for entry in failed] == ["failed with ZeroDivisionError: planted crash"]
    # said at the top and in its section, for the analysis that crashed and for the picture that did
    assert messages(page).count("failed with ZeroDivisionError: planted crash") == 4
    assert [path.name for path in (tmp_path / "out" / "figures").glob("*.png")] == ["whole-planted.png"]


def test_files_that_cannot_be_opened_stop_before_anything_is_written(planted, tmp_path):
    cut = tmp_path / "cut.nc"
    cut.write_bytes(planted.path.read_bytes()[:5000])
    with pytest.raises(HVAEError, match="truncated"):
        analyse([planted.path, cut], tmp_path / "out")
    absent = tmp_path / "absent.nc"
    both = r"`pyro-hvae export RUN --out FILE` or `pyro-hvae audit RUN --out FILE` or `pyro-hvae physiology RUN --out DIR`$"
    with pytest.raises(
        HVAEError, match=rf"there is no posterior file, audit or physiology file {absent}; make one with {both}"
    ):
        analyse([planted.path, absent], tmp_path / "out")
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "else.nc")
    with pytest.raises(
        HVAEError,
        match=rf"is no posterior file, audit or physiology file: its attribute schema is ''; make one with {both}",
    ):
        analyse([planted.path, tmp_path / "else.nc"], tmp_path / "out")
    with pytest.raises(HVAEError, match="given twice"):
        analyse([planted.path, planted.path], tmp_path / "out")
    with pytest.raises(HVAEError, match="at least one posterior file"):
        analyse([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"value": -428.912, "se": 0.3349}, "−428.91 ± 0.33"),
        ({"value": 0.5156, "interval": [0.4911, 0.5401]}, "0.516 [0.491, 0.540]"),
        ({"value": 314, "interval": [314, 314]}, "314 [314, 314]"),
        ({"value": 5, "interval": [4, 6]}, "5 [4, 6]"),
        ({"value": 0.25, "se": None}, "0.250 (no interval)"),
        ({"value": None, "interval": [None, None]}, "not available"),
        ({"value": 12345.6, "se": 210.0}, "12346 ± 210"),
    ],
)
def test_numbers_are_printed_to_their_uncertainty(entry, text):
    assert formatted(entry) == text


def test_unknown_analyses_are_named_with_the_nearest():
    with pytest.raises(HVAEError, match="did you mean 'bound_terms'"):
        find("bound_term")
