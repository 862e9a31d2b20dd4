"""``pyro-hvae demo``: train, swap the guide, export, analyse, report; a few minutes on two cores."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pyro_hvae.cli.parsing import at_least
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.pareto_limits import GOOD_K

STEPS = 4000


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser("demo", help="train a small TDVAE, swap its guide, and write a report")
    parser.add_argument("--out", default="runs/demo", metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR")
    parser.add_argument(
        "--steps", type=at_least(2), default=STEPS, help=f"training steps ({STEPS}); half as many for the other guide"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Everything a first look needs, from photographs to the report."""
    from pyro_hvae.export.posterior import export_posterior
    from pyro_hvae.programs import GenerativeModel
    from pyro_hvae.published import build
    from pyro_hvae.report import analyse
    from pyro_hvae.starts import start_in_linear_regime
    from pyro_hvae.stimuli import concatenate, natural_patches, texture_patches
    from pyro_hvae.training.fit import fit

    out, overwrite = Path(arguments.out), arguments.overwrite
    _check(out, overwrite)
    steps = arguments.steps
    print("1/5  whitened 20×20 patches of the photographs in scikit-image and scikit-learn")
    data = natural_patches(20, train=64_000, test=2_000)
    assert data.transform is not None
    textures = texture_patches(20, transform=data.transform, train=1_800, test=900)
    images = concatenate(data.test, textures.train, textures.test)

    print(f"2/5  TDVAE20 with the ladder guide, z1 started at independent components, {steps} steps")
    vae = build("TDVAE20", guide="ladder", recipe="fast", data=data, seed=0)
    fit(vae, data, steps=steps, out=out / "ladder", overwrite=overwrite)

    half = steps // 2
    print(f"3/5  the same generative model with the published top-down guide, {half} steps of the guide alone")
    other = start_in_linear_regime(vae.with_guide("top_down"), guide_only=True)
    fit(other, data, steps=half, beta=1.0, train="guide", out=out / "top_down", overwrite=overwrite)

    print("4/5  posteriors of held-out and texture patches")
    paths = [out / "ladder.nc", out / "top_down.nc"]
    assert isinstance(vae.model, GenerativeModel)
    strongest = vae.model.A.norm(dim=0).argsort(descending=True)[:40].tolist()
    for pair, path in zip((vae, other), paths, strict=True):
        export_posterior(
            pair, images, transform=data.transform, path=path, moment_draws=32, units=strongest,
            evidence=1000, evidence_images=200, overwrite=overwrite,
        ).close()  # fmt: skip

    print("5/5  analyses and report")
    report = analyse(paths, out, overwrite=overwrite)
    results = json.loads((out / "results.json").read_text())["results"]
    _print_comparison(results)
    for line in claims(results, *(path.stem for path in paths)):
        print(line)
    print(f"\nreport: {report}")
    print("next:   pyro-hvae train ChainVAE20 --recipe fast --steps 20000 --out runs/chain")
    return 0


def _check(out: Path, overwrite: bool) -> None:
    """Refuse a directory that holds anything but an earlier demo; every part of that is replaced by its own writer."""
    from pyro_hvae.storage.writing import check_directory, kind_of

    check_directory(out)
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise HVAEError(f"{out} exists; use --overwrite to replace it, or another --out")
        if kind_of(out / "ladder" / "config.json") != "pyro_hvae.run":
            raise HVAEError(f"{out} does not hold an earlier demo, so it is not overwritten; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


def _print_comparison(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from pyro_hvae.report.page import comparison

    files = list(dict.fromkeys(entry["file"] for entry in results))
    table = Table("", *(f"{name} guide" for name in files), "unit", title="The two guides on the same generative model")
    for row in comparison(results):
        table.add_row(row["title"], *(cell["text"] if cell else "–" for cell in row["cells"]), row["unit"])
    console = Console()
    (console if console.is_terminal else Console(width=110)).print(table)


def claims(results: list[dict[str, Any]], ladder: str, other: str) -> list[str]:
    """What the demo is to show, a line each with ``holds`` or ``does not hold`` and the numbers.

    :param results: of ``results.json``.
    :param ladder, other: the files of the two guides, as the results name them.
    """
    found = {(e["file"], e["analysis"], e["name"]): e.get("value") for e in results}

    def value(analysis: str, name: str, file: str = ladder) -> float:
        number = found.get((file, analysis, name))
        return float("nan") if number is None else float(number)

    localized, active = value("gabor_fits", "localized_count"), value("active_dimensions", "count[z1]")
    energy = value("gabor_fits", "goodness[localized]")
    z2, norm = (value("texture_decoding", f"accuracy[{feature}]") for feature in ("z2_mean", "norm"))
    trust = {file: value("trust", "below_07[natural]", file) for file in (ladder, other)}
    fields = f"{localized:.0f} of {active:.0f} localized, a Gabor function explains {energy:.0%} of the median one"
    shares = ", ".join(f"{share:.0%} ({file})" for file, share in trust.items())
    lines = [
        (localized > 0.5 * active and energy > 0.7, f"z1 fields are Gabor-like: {fields}"),
        (
            z2 > norm,
            f"z2 tells texture families apart better than contrast does: {z2:.2f} against {norm:.2f} from patch norm",
        ),
        (max(trust.values()) > 0, f"the posterior of some images can be believed: k-hat below {GOOD_K} for {shares}"),
    ]
    said = [f"{'holds:' if holds else 'does not hold:':15s} {text}" for holds, text in lines]
    if trust[ladder] == trust[other] or not max(trust.values()) > 0:
        return [
            *said,
            "Which guide to believe: neither is shown to be the better one; resample, refine (--refine) or sample.",
        ]
    best = max(trust, key=lambda file: trust[file])
    return [
        *said,
        f"Which guide to believe: {best}, whose importance weights say so for more images of the same model. What noise "
        "correlations the other one has are its own as much as the model's.",
    ]
