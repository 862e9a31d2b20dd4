"""``pyro-hvae audit``: how much of a guide's posterior, and of its noise correlations, is real."""

from __future__ import annotations

import argparse

from pyro_hvae.cli.parsing import add_device, add_out, add_run, add_seed, at_least, open_run


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "audit", help="compare a guide with a long-run sampler of the same model's posterior"
    )
    add_run(parser)
    add_out(parser, "audit file (.nc); the figure goes beside it (.png)")
    parser.add_argument("--limit", type=at_least(1), default=16, metavar="N", help="held-out images (16)")
    parser.add_argument(
        "--units", type=at_least(2), default=40, metavar="N", help="z1 units correlated, the largest fields (40)"
    )
    parser.add_argument("--reference", help="exact, gibbs or nuts (default: the best that applies)")
    parser.add_argument(
        "--samples", type=at_least(1), default=1000, metavar="N", help="of the reference, a chain (1000)"
    )
    parser.add_argument("--warmup", type=at_least(1), default=500, metavar="N")
    parser.add_argument("--chains", type=at_least(1), default=4)
    add_device(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the audit and its figure; print the numbers."""
    from pathlib import Path

    from pyro_hvae.export.audit import audit
    from pyro_hvae.report.audit_report import audit_report
    from pyro_hvae.storage.audit_file import check_audit_target
    from pyro_hvae.storage.writing import FIGURE, check_target

    out = Path(arguments.out)
    picture = out.with_suffix(".png")
    check_audit_target(out, overwrite=arguments.overwrite)
    check_target(picture, overwrite=arguments.overwrite, schema=FIGURE)
    vae, directory, _ = open_run(arguments)
    tree = audit(
        vae,
        directory.held_out().isel(image=slice(arguments.limit)),
        units=arguments.units,
        reference=arguments.reference,
        num_samples=arguments.samples,
        warmup=arguments.warmup,
        chains=arguments.chains,
        path=out,
        overwrite=arguments.overwrite,
        seed=arguments.seed,
    )
    print(f"How much of the guide's posterior is real: {arguments.source}")
    print(audit_report(tree, picture, overwrite=arguments.overwrite))
    print(out)
    return 0
