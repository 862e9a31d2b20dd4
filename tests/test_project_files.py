"""What describes the project outside of it: versions and dependencies agree, and every file is of its format."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_versions_agree():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]
    assert json.loads((ROOT / "codemeta.json").read_text())["version"] == PROJECT["version"]
    assert json.loads((ROOT / ".zenodo.json").read_text())["version"] == PROJECT["version"]
    assert (
        yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text())["context"]["version"] == PROJECT["version"]
    )


def test_the_conda_recipe_has_the_dependencies_of_the_package():
    """conda-forge calls torch pytorch; everything else by its own name."""
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text())
    ours = {re.sub(r"^torch(?=>)", "pytorch", d) for d in PROJECT["dependencies"]}
    theirs = {d.replace(" ", "") for d in recipe["requirements"]["run"]} - {f"python{PROJECT['requires-python']}"}
    assert theirs == ours
    assert json.loads((ROOT / "codemeta.json").read_text())["softwareRequirements"] == PROJECT["dependencies"]


def test_every_pinned_extra_is_pinned():
    pinned = {
        re.split("[=;]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    extras = [d for name in ("docs", "logging", "textures", "dev") for d in PROJECT["optional-dependencies"][name]]
    for dependency in [*PROJECT["dependencies"], *extras]:
        assert re.split("[>=]", dependency)[0].lower() in pinned, dependency


@pytest.mark.parametrize("file", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda file: file.name)
def test_files_of_the_code_host_are_yaml_with_what_it_needs(file):
    found = yaml.safe_load(file.read_text())
    if file.parent.name == "ISSUE_TEMPLATE" and file.name != "config.yml":
        assert {"name", "description", "body"} <= set(found)
        assert all({"type", "attributes"} <= set(part) for part in found["body"])
    if file.parent.name == "workflows":
        assert found["jobs"] and "make docs" in file.read_text()
