"""What the package promises as a package: names, light imports, arrows between its rooms."""

import subprocess
import sys
from pathlib import Path

import pytest

import pyro_hvae

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", pyro_hvae.__all__)
def test_every_public_name_is_there(name):
    assert getattr(pyro_hvae, name) is not None
    assert name in dir(pyro_hvae)


def test_the_names_of_the_contract_are_public():
    contract = (
        "build HVAE MarkovModel LinearModel SkipModel TopDownGuide BottomUpGuide MeanFieldGuide stimuli fit ELBO "
        "ImportanceWeightedELBO RenyiELBO export_posterior analysis load"
    )
    assert set(contract.split()) <= set(pyro_hvae.__all__)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = pyro_hvae.biuld


@pytest.mark.parametrize(
    "module",
    [
        "pyro_hvae",
        "pyro_hvae.analysis",
        "pyro_hvae.storage.posterior_file",
        "pyro_hvae.stimuli",
        "pyro_hvae.cli",
        "pyro_hvae.densities.yardsticks",
    ],
)
def test_light_modules_load_neither_torch_nor_pyro(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'pyro', 'safetensors') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_import_arrows_hold():
    """The contracts of pyproject.toml; `make lint` runs the same."""
    result = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_analysis_requirements_are_those_of_the_package():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements-analysis.txt").read_text().splitlines()
    listed = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    heavy = (
        "torch",
        "pyro-ppl",
        "safetensors",
        "rich",
        "psutil",
        "distributed",
        "pillow",
        "tifffile",
        "threadpoolctl",
        "shtab",
    )
    assert listed == {d for d in project["dependencies"] if not d.startswith(heavy)}
