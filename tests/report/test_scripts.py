"""Every script of analyses/ saves its figure and prints every number of its analysis; errors are a line each."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from analysis.test_guide_audit import plant as plant_audit
from planted import add_chains, add_gap
from planted_physiology import plant as plant_physiology

from pyro_hvae import analysis
from pyro_hvae.analysis.guide_audit import guide_audit
from pyro_hvae.analysis.results import collect
from pyro_hvae.report import ANALYSES
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.registry import AUDIT_ANALYSES
from pyro_hvae.report.text import formatted
from pyro_hvae.storage.audit_file import open_audit, write_audit
from pyro_hvae.storage.physiology_file import open_physiology, write_physiology
from pyro_hvae.storage.posterior_file import open_posterior

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "analyses").glob("*.py"))
#: The analysis that each script is of, by its public name.
NAMES = {
    "active_dimensions",
    "aggregate_posterior",
    "ancestral_samples",
    "bound_terms",
    "chain_convergence",
    "contextual_prior",
    "contrast_response",
    "contrast_uncertainty",
    "cross_orientation",
    "exciting_images",
    "gabor_fits",
    "grating_tuning",
    "guide_audit",
    "inference_gap",
    "inpainting",
    "layer_dependence",
    "modulation_fields",
    "noise_correlations",
    "projective_fields",
    "receptive_fields",
    "reconstruction",
    "sparseness",
    "surround_suppression",
    "texture_decoding",
    "texture_modulation",
    "texture_selectivity",
    "time_course",
    "trust",
    "unit_clusters",
    "v1_scorecard",
}
FUNCTIONS = {script.stem: script.stem for script in SCRIPTS} | {
    "texture_decoding": "decode_family", "reconstruction": "reconstructions",
}  # fmt: skip


def run(name, *arguments, monkeypatch):
    """Exit status of a script."""
    script = ROOT / "analyses" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    return stop.value.code


def without(group, name):
    def change(tree):
        tree[group] = xr.DataTree(tree[group].to_dataset().drop_vars(name))

    return change


@pytest.fixture
def file(planted, edit, tmp_path):
    """A file that the analysis of that name applies to."""

    def mask(tree):
        shown = np.arange(planted.size**2) % 9 > 0
        tiled = np.tile(shown, (tree["observed_data"].sizes["image"], 1))
        tree["observed_data"]["mask"] = xr.DataArray(tiled, dims=("image", "pixel"))

    def of(name):
        if name == "guide_audit":
            write_audit(plant_audit(images=20), tmp_path / "planted.nc")
            return tmp_path / "planted.nc"
        if name in PHYSIOLOGY_ANALYSES:
            write_physiology(plant_physiology(), tmp_path / "planted.nc")
            return tmp_path / "planted.nc"
        change = {"inpainting": mask, "inference_gap": add_gap, "chain_convergence": add_chains}.get(name)
        return edit(planted.path, change, "planted.nc") if change else planted.path

    return of


def test_there_is_a_script_for_every_analysis():
    """By hand, beside the registry: one that is missing in both would not be missed."""
    assert {script.stem for script in SCRIPTS} == NAMES
    assert {*ANALYSES, *PHYSIOLOGY_ANALYSES, *AUDIT_ANALYSES} == NAMES


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_saves_a_figure_and_prints_the_numbers_of_its_analysis(script, file, tmp_path, monkeypatch, capsys):
    path = file(script.stem)
    assert run(script.stem, path, "--out", tmp_path / "figures", monkeypatch=monkeypatch) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [figure.name for figure in (tmp_path / "figures").iterdir()] == [f"{script.stem}-planted.png"]
    assert (tmp_path / "figures" / f"{script.stem}-planted.png").read_bytes().startswith(b"\x89PNG")
    function = guide_audit if script.stem == "guide_audit" else getattr(analysis, FUNCTIONS[script.stem])
    opening = open_physiology if script.stem in PHYSIOLOGY_ANALYSES else open_posterior
    with (open_audit if script.stem == "guide_audit" else opening)(path) as tree:
        entries = collect(function(tree))
    assert entries
    for entry in entries:
        unit = "" if entry["unit"] == "1" else f" {entry['unit']}"
        assert f"{entry['title']} {formatted(entry)}{unit} (n = {entry['n']})" in printed
    # The science is in the script: it says something that the table does not.
    captions = 1
    notes = sum(line.startswith("note: ") for line in printed)
    assert len(printed) > 2 + len(entries) + notes + captions


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("inpainting", None, "inpainting does not apply: the file lacks observed_data/mask"),
        (
            "trust",
            lambda tree: tree.__delitem__("sample_stats"),
            "lacks sample_stats/pareto_k or evidence/pareto_k, sample_stats/ess or evidence/ess",
        ),
        ("contextual_prior", without("constant_data", "z2_field"), "lacks constant_data/z2_field"),
        ("projective_fields", without("constant_data", "sigma"), "lacks constant_data/sigma"),
        ("texture_decoding", without("constant_data", "family"), "lacks constant_data/family"),
    ],
)
def test_what_a_file_lacks_is_said_in_one_line(planted, edit, tmp_path, monkeypatch, capsys, name, change, message):
    path = edit(planted.path, change) if change else planted.path
    assert run(name, path, "--out", tmp_path / "figures", monkeypatch=monkeypatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ") and line.endswith(message)
    assert not list((tmp_path / "figures").iterdir())


def test_a_file_that_fails_is_named_and_the_others_are_done(planted, tmp_path, monkeypatch, capsys):
    absent = tmp_path / "absent.nc"
    assert run("bound_terms", absent, planted.path, "--out", tmp_path, monkeypatch=monkeypatch) == 1
    printed = capsys.readouterr()
    assert printed.err == (
        f"{absent}: there is no posterior file {absent}; make one with `pyro-hvae export RUN --out FILE`\n"
    )
    assert "bound, natural, elbo" in printed.out
    assert [path.name for path in tmp_path.glob("*.png")] == ["bound_terms-planted.png"]


def test_a_missing_audit_is_answered_with_how_to_make_an_audit(tmp_path, monkeypatch, capsys):
    absent = tmp_path / "absent.nc"
    assert run("guide_audit", absent, "--out", tmp_path, monkeypatch=monkeypatch) == 1
    assert capsys.readouterr().err == (
        f"{absent}: there is no audit {absent}; make one with `pyro-hvae audit RUN --out FILE`\n"
    )


def test_scripts_load_neither_torch_nor_pyro():
    code = "import runpy, sys\nfor script in sys.argv[1:]: runpy.run_path(script)\n"
    code += "print([m for m in ('torch', 'pyro') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code, *map(str, SCRIPTS)], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.strip() == "[]", found.stderr
