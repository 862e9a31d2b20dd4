"""results.json is what docs/results-schema.json says, and the schema refuses what it should."""

import copy
import json
from pathlib import Path

import pytest
from analysis.test_guide_audit import plant as plant_audit
from planted import only_analyses

from pyro_hvae.report import analyse
from pyro_hvae.storage.audit_file import write_audit

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "results-schema.json").read_text(encoding="utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "null": type(None)}
#: Keywords of JSON schema that the check below understands; description and the like say nothing that could be broken.
CHECKED = {"type", "const", "enum", "required", "properties", "additionalProperties", "items", "minItems", "maxItems",
           "minimum", "minProperties", "oneOf", "$ref"}  # fmt: skip
SAID = {"$schema", "$defs", "title", "description"}


def faults(value, schema, where="$"):
    """Where a value breaks a schema, as far as the keywords of :data:`CHECKED` go."""
    if "$ref" in schema:
        yield from faults(value, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], where)
    types = schema.get("type", list(TYPES))
    allowed = [TYPES[name] for name in ([types] if isinstance(types, str) else types)]
    if not any(isinstance(value, kind) for kind in allowed) or isinstance(value, bool):
        yield f"{where} is no {types}"
        return
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        yield f"{where} is {value!r}"
    if isinstance(value, dict):
        yield from (f"{where} lacks {name}" for name in schema.get("required", ()) if name not in value)
        if len(value) < schema.get("minProperties", 0):
            yield f"{where} is empty"
        others = schema.get("additionalProperties", {})
        for name, each in value.items():
            inner = schema.get("properties", {}).get(name, others)
            if inner is False:
                yield f"{where} has {name}"
            else:
                yield from faults(each, inner, f"{where}.{name}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{where} has {len(value)} items"
        for k, each in enumerate(value):
            yield from faults(each, schema.get("items", {}), f"{where}[{k}]")
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{where} is {value}"
    if "oneOf" in schema and sum(not [*faults(value, each, where)] for each in schema["oneOf"]) != 1:
        yield f"{where} is not one of {schema['oneOf']}"


def keywords(schema):
    """Every keyword that a schema uses, at any depth."""
    yield from schema
    for name in ("properties", "$defs"):
        for each in schema.get(name, {}).values():
            yield from keywords(each)
    for each in (schema.get("items"), schema.get("additionalProperties"), *schema.get("oneOf", ())):
        yield from keywords(each) if isinstance(each, dict) else ()


@pytest.fixture(scope="module")
def results(planted, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    write_audit(plant_audit(images=20), out / "audit.nc")
    with pytest.MonkeyPatch.context() as patch, only_analyses("bound_terms", "active_dimensions", "inpainting"):
        patch.setattr("pyro_hvae.report.report.COMPARISONS", {})
        analyse([planted.path, out / "audit.nc"], out / "report")
    return json.loads((out / "report" / "results.json").read_text(encoding="utf-8"))


def test_the_check_knows_every_keyword_of_the_schema():
    assert set(keywords(SCHEMA)) <= CHECKED | SAID


def test_results_follow_the_schema_and_refer_to_their_files(results):
    assert [*faults(results, SCHEMA)] == []
    assert {kind["kind"] for kind in results["files"].values()} == {"posterior file", "audit"}
    assert {entry["file"] for entry in results["results"]} == set(results["files"]) == {"planted", "audit"}
    names = [(entry["file"], entry["analysis"], entry["name"]) for entry in results["results"]]
    assert len(set(names)) == len(names)
    assert sum("message" in entry for entry in results["results"]) == 1  # inpainting, without masks


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda r: r["results"][0].pop("unit"), r"$.results[0] lacks unit"),
        (lambda r: r["results"][0].update(value="1"), "$.results[0].value is no ['number', 'null']"),
        (lambda r: r["results"][0].update(attributes={}), "$.results[0] has attributes"),
        (lambda r: r["results"][0].update(n=-1), "$.results[0].n is -1"),
        (lambda r: r["results"][0].update(interval=[0, 1, 2]), "$.results[0].interval has 3 items"),
        (lambda r: r["results"][0].pop("se"), "$.results[0] is not one of [{'required': ['se']}, {'required': ['interval']}]"),
        (lambda r: r["files"]["planted"].pop("findings"), "$.files.planted lacks findings"),
        (lambda r: r["files"]["planted"].update(kind="recording"), "$.files.planted.kind is 'recording'"),
        (lambda r: r.update(files={}), "$.files is empty"),
        (lambda r: r.update(schema_version=2), "$.schema_version is 2"),
    ],
)  # fmt: skip
def test_what_breaks_the_schema_is_noticed(results, change, fault):
    broken = copy.deepcopy(results)
    change(broken)
    assert fault in [*faults(broken, SCHEMA)]
