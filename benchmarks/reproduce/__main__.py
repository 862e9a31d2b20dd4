"""The papers' findings on natural images: train, export, measure, and say what holds.

    python benchmarks/reproduce --images van_hateren --textures textures --out runs/reproduce     # `make reproduce`
    python benchmarks/reproduce --small --out runs/reproduce-small                                # `make reproduce-small`

Every run is restartable: what is done is not done again, a run that was stopped goes on from its checkpoint. Each result lands
as one row in ``--results``, and the tables of ``docs/reproduction.md`` are written anew after each. All systems come with their
first seed before any comes with its second. ``--jobs`` trains several at a time, each in a process of its own: a single run
leaves a GPU idle for most of its time. Texture families are synthesised from the photographs of ``--textures`` (an hour of one
core for ten), into ``--synthesised``; crops of the same photographs are the control.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from claims import CLAIMS, SMALL_CLAIMS, judged
from measuring import measure
from systems import System, small_systems, systems

import pyro_hvae as hvae
from pyro_hvae.stimuli import PatchData, natural_patches, synthesised_patches, texture_patches
from pyro_hvae.synthesis import synthesise
from pyro_hvae.training.fit import torch_device
from pyro_hvae.training.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction.json"
PAGE = ROOT / "docs" / "reproduction.md"
CROPS = {"crops, own": "own", "crops, natural": "natural"}
"""The control: crops of the photographs through the families' own intensity histograms, or through that of natural images."""
COUNTS = {"train": 2500, "test": 1500, "seed": 1}
CURVES = ("TDVAE20", "TDVAE20, ladder", "TDVAE20, published recipe", "TDVAE20, ladder, 300,000 steps")
"""Systems whose held-out ELBO is kept over the steps."""


def patches(arguments: argparse.Namespace, size: int, train: int) -> PatchData:
    """Natural patches of a size, cut once."""
    file = arguments.out / f"patches-{size}-{train}.nc"
    if not file.exists():
        natural_patches(size=size, source=arguments.images, train=train, test=10_000).save(file)
    return PatchData.load(file)


def labelled(arguments: argparse.Namespace, data: PatchData) -> dict[str, PatchData]:
    """Texture patches: synthesised families, each through its own intensity histogram ([C22]), then the controls."""
    file = arguments.out / f"synthesised-{data.size}.nc"
    if not file.exists():
        images = synthesise(arguments.textures, folder=arguments.synthesised, images=2)
        synthesised_patches(images, out=file, transform=data.transform, size=data.size, **COUNTS)
    crops = {
        name: texture_patches(data.size, arguments.textures, transform=data.transform, intensity=intensity, **COUNTS)
        for name, intensity in CROPS.items()
    }
    return {"synthesised": PatchData.load(file)} | crops


def trained(system: System, seed: int, data: PatchData, folder: Path) -> hvae.HVAE:
    """The pair of a run that is finished, or is finished now."""
    resumed = bool(list((folder / "checkpoints").glob("step-*.safetensors")))
    if resumed and RunDirectory.open(folder).latest().step >= system.steps:
        return hvae.load(folder).to(torch_device("auto"))
    vae = hvae.build(
        system.preset,
        recipe=system.recipe,
        data=data,
        seed=seed,
        start="default" if resumed else system.start,
        **system.options,
    )
    beta = None
    if system.beta2 is not None:
        beta = {"z2": f"0:{0.1 * system.beta2:g},{system.steps // 2}:{system.beta2:g}"}
    run = hvae.fit(
        vae, data, steps=system.steps, beta=beta, seed=seed, out=folder, resume=resumed,
        overwrite=not resumed and folder.exists(), recipe=system.recipe, log_every=max(100, system.steps // 1000),
        evaluate_every=max(1000, system.steps // 100), checkpoint_every=max(500, system.steps // 20),
    )  # fmt: skip
    if run.interrupted:
        raise SystemExit(f"{folder.name}: interrupted at step {run.step}; the same command goes on")
    return vae


def folder_name(system: System, seed: int) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{system.name}-seed{seed}").strip("-")


def remaining(todo: list[tuple[System, int]], seconds: dict[str, float]) -> str:
    """What is left, judged by runs of the same system or else of any."""
    known = list(seconds.values())
    if not known:
        return f"{len(todo)} runs"
    total = sum(seconds.get(system.name, sum(known) / len(known)) for system, _ in todo)
    return f"{len(todo)} runs, about {total / 3600:.1f} h"


def write_page(results: dict[str, Any]) -> None:
    """Put the tables between their marks in the page."""
    rows = {name: list(seeds.values()) for name, seeds in results["rows"].items()}
    lines = ["| claim | source | theirs | ours | verdict | counts as holding if |", "|---|---|---|---|---|---|"]
    for claim, text, verdict in judged(CLAIMS, rows):
        mark = f"**{verdict}**" if verdict != "not tested" else verdict
        lines.append(f"| {claim.statement} | {claim.source} | {claim.theirs} | {text} | {mark} | {claim.rule} |")
    page = PAGE.read_text(encoding="utf-8")
    for name, text in (("claims", "\n".join(lines)), ("systems", systems_table(results["rows"]))):
        page = re.sub(
            f"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=text: m[1] + t + "\n" + m[2], page, flags=re.S
        )
    PAGE.write_text(page, encoding="utf-8")


COLUMNS = {
    "steps": ("steps", ",.0f"), "ELBO": ("elbo, natural", ".1f"), "log p(x)": ("log p(x), natural", ".1f"),
    "active z1": ("active z1", ".0f"), "localized": ("localized z1", ".0f"), "active z2": ("active z2", ".0f"),
    "KL z2": ("z2_kl, natural", ".1f"),
    "z2 decodes": ("decode z2 mean, synthesised", ".2f"), "z1": ("decode z1 mean, synthesised", ".2f"),
    "noise corr.": ("decode z1 noise correlations, synthesised", ".2f"), "norm": ("decode norm, synthesised", ".2f"),
    "pixels": ("decode pixels, synthesised", ".2f"),
    "inside": ("slope inside, r = 5", ".2f"), "outside": ("slope outside, r = 5", ".2f"),
    "k-hat < 0.7": ("k-hat < 0.7", ".0%"), "min": ("minutes", ".1f"),
}  # fmt: skip


def systems_table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| system | seed | " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * (len(COLUMNS) + 1) + "|"]
    for name, seeds in rows.items():
        for seed, row in seeds.items():
            cells = [
                format(row[key], spec) if key in row and row[key] == row[key] else "–" for key, spec in COLUMNS.values()
            ]
            lines.append(f"| {name} | {seed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_process(arguments: argparse.Namespace, system: System, seed: int) -> dict[str, Any]:
    """Results of one run, made by another process; what it says goes to a log beside the run."""
    name = arguments.out / folder_name(system, seed)
    file, log = name.with_suffix(".json"), name.with_suffix(".log")
    command = [
        sys.executable,
        str(Path(__file__).parent),
        "--only",
        system.name,
        "--seeds",
        str(seed),
        "--results",
        str(file),
    ]
    for option in ("images", "textures", "synthesised", "out"):
        command += [f"--{option}", str(getattr(arguments, option))]
    with log.open("w") as stream:
        done = subprocess.run(command + ["--small"] * arguments.small, stdout=stream, stderr=subprocess.STDOUT)
    print(f"{system.name}, seed {seed}: {'done' if not done.returncode else f'failed, see {log}'}", flush=True)
    return json.loads(file.read_text()) if not done.returncode else {}


def keep(found: dict[str, Any], results: dict[str, Any], file: Path) -> None:
    """Add results of a run to those of all, on disk too."""
    for kind in ("rows", "curves"):
        for name, seeds in found.get(kind, {}).items():
            results.setdefault(kind, {}).setdefault(name, {}).update(seeds)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    if file == RESULTS:
        write_page(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="embedded", help="photographs: embedded, or a folder")
    parser.add_argument("--textures", default="embedded", help="texture photographs: embedded, or a folder")
    parser.add_argument("--small", action="store_true", help="fewer systems, patches and steps; writes no page")
    parser.add_argument("--only", nargs="*", default=[], metavar="SYSTEM", help="systems by name")
    parser.add_argument("--seeds", nargs="*", type=int, help="of the systems' seeds, these alone")
    parser.add_argument("--page", action="store_true", help="write the tables from the results, and train nothing")
    parser.add_argument(
        "--results", type=Path, help=f"default: {RESULTS.relative_to(ROOT)}, for --small OUT/results.json"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument(
        "--synthesised", type=Path, help="folder of synthesised texture images; default: OUT/textures.images"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    arguments = parser.parse_args()
    arguments.synthesised = arguments.synthesised or arguments.out / "textures.images"
    file = arguments.results or (arguments.out / "results.json" if arguments.small else RESULTS)
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    if arguments.page:
        return write_page(results)
    arguments.out.mkdir(parents=True, exist_ok=True)
    known = small_systems() if arguments.small else systems()
    for name in arguments.only:
        if name not in {s.name for s in known}:
            parser.error(f"unknown system {name!r}; known: {'; '.join(s.name for s in known)}")
    chosen = [s for s in known if not arguments.only or s.name in arguments.only]
    plan = sorted(((s, seed) for s in chosen for seed in s.seeds), key=lambda entry: entry[1])
    plan = [(s, seed) for s, seed in plan if arguments.seeds is None or seed in arguments.seeds]
    todo = [(s, seed) for s, seed in plan if str(seed) not in results["rows"].get(s.name, {})]
    seconds = {name: 60 * max(row["minutes"] for row in rows.values()) for name, rows in results["rows"].items()}
    results |= {
        "images": Path(arguments.images).name,
        "textures": Path(arguments.textures).name,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    if arguments.jobs > 1:
        for size, train in {
            (system.size, system.train_patches) for system, _ in todo
        }:  # what several read is made once
            labelled(arguments, patches(arguments, size, train))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for found in pool.map(lambda entry: in_process(arguments, *entry), todo):
                keep(found, results, file)
    while arguments.jobs == 1 and todo:
        system, seed = todo[0]
        print(f"{system.name}, seed {seed}; {remaining(todo, seconds)} to go", flush=True)
        began = time.perf_counter()
        data = patches(arguments, system.size, system.train_patches)
        folder = arguments.out / folder_name(system, seed)
        vae = trained(system, seed, data, folder)
        history = RunDirectory.open(folder).history()
        measured = measure(vae, data, labelled(arguments, data), folder, seed)
        row = {"steps": system.steps, "minutes": float(history["seconds"].sum()) / 60, **measured}
        found = {"rows": {system.name: {str(seed): {k: round(float(v), 5) for k, v in row.items()}}}}
        if system.name in CURVES:
            curve = [
                [int(step), round(float(elbo), 2)]
                for step, elbo in zip(history["evaluation"], history["test_elbo"], strict=True)
            ]
            found["curves"] = {system.name: {str(seed): curve}}
        keep(found, results, file)
        seconds[system.name] = time.perf_counter() - began
        todo = todo[1:]
    rows = {name: list(seeds.values()) for name, seeds in results["rows"].items()}
    for claim, text, verdict in judged(SMALL_CLAIMS if arguments.small else CLAIMS, rows):
        print(f"{verdict:14s} {claim.statement} ({claim.source})\n               {text}")


if __name__ == "__main__":
    main()
