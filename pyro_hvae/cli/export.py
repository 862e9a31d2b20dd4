"""``pyro-hvae export``: the posteriors of a trained run, as a posterior file."""

from __future__ import annotations

import argparse

from pyro_hvae.cli.parsing import add_device, add_out, add_run, add_seed, at_least, open_run, quoted


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser("export", help="write the posterior file of a run")
    add_run(parser)
    add_out(parser, "posterior file: .nc, or .zarr")
    parser.add_argument(
        "--patches", metavar="FILE", help="patches (PatchData.save): its test set, instead of the run's own"
    )
    parser.add_argument(
        "--limit", type=at_least(1), default=2000, metavar="N", help="natural patches used, at most (2000)"
    )
    parser.add_argument(
        "--textures",
        default="embedded",
        metavar="SOURCE",
        help="texture photographs to add: embedded, a folder, or none",
    )
    parser.add_argument(
        "--texture-patches", type=at_least(1), default=3000, metavar="N", help="of which a third are for testing"
    )
    parser.add_argument(
        "--texture-intensity",
        default="own",
        metavar="MAP",
        help="whose histogram is matched to the unit normal: own (of each family; the default), own_pooled, or natural",
    )
    parser.add_argument(
        "--texture-whitening", default="natural", metavar="FIT", help="natural (the run's; the default) or own"
    )
    parser.add_argument("--draws", type=at_least(0), default=0, metavar="N", help="posterior draws stored an image (0)")
    parser.add_argument(
        "--resample", type=at_least(1), metavar="K", help="choose each draw among K proposals by importance weight"
    )
    parser.add_argument(
        "--sampler",
        metavar="NAME",
        help="hmc: the model's own posterior, sampled, and not the guide's (default: the guide)",
    )
    parser.add_argument("--num-samples", type=at_least(1), metavar="N", help="draws of each chain of the sampler (350)")
    parser.add_argument("--warmup", type=at_least(1), metavar="N", help="transitions before them (150)")
    parser.add_argument("--chains", type=at_least(1), metavar="N", help="chains of the sampler (4)")
    parser.add_argument(
        "--moment-draws", type=at_least(2), default=64, metavar="N", help="draws of z2 for the moments of z1 (64)"
    )
    parser.add_argument("--units", type=at_least(0), nargs="*", default=(), metavar="J", help="z1 units to correlate")
    parser.add_argument(
        "--receptive-fields",
        type=at_least(0),
        default=100,
        metavar="N",
        help="images over which the guide's gradient dE[z1]/dx is averaged (100); 0 for none",
    )
    parser.add_argument(
        "--evidence",
        type=at_least(0),
        default=0,
        metavar="K",
        help="importance samples an image for log p(x) and k-hat (0: none)",
    )
    parser.add_argument(
        "--evidence-images",
        type=at_least(1),
        metavar="N",
        help="images, evenly spread, that --evidence is estimated for (all)",
    )
    parser.add_argument(
        "--refine",
        type=at_least(0),
        default=0,
        metavar="N",
        help="refine q of each image by N steps first (0); 200 are plenty",
    )
    parser.add_argument(
        "--gap",
        type=at_least(0),
        default=0,
        metavar="N",
        help="images for which log p(x) - ELBO is split into its causes (0)",
    )
    add_device(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file and print what to do with it."""
    from pathlib import Path

    import numpy as np

    from pyro_hvae.densities.matching import matched, outdated
    from pyro_hvae.errors import HVAEError
    from pyro_hvae.export.posterior import export_posterior
    from pyro_hvae.stimuli import PatchData, concatenate, texture_patches
    from pyro_hvae.stimuli.texture_preprocessing import check_texture_preprocessing
    from pyro_hvae.storage.posterior_file import SCHEMA
    from pyro_hvae.storage.writing import check_target

    check_target(arguments.out, overwrite=arguments.overwrite, schema=SCHEMA)
    check_texture_preprocessing(arguments.texture_intensity, arguments.texture_whitening)
    vae, run_directory, _ = open_run(arguments)
    images = PatchData.load(arguments.patches).test if arguments.patches else run_directory.held_out()
    sets = [images.isel(image=slice(arguments.limit))]
    transform = run_directory.transform()
    yardsticks = run_directory.yardsticks()
    if yardsticks is not None:
        sigma = getattr(vae.model, "sigma", yardsticks.attrs["sigma"])
        if other := outdated(yardsticks, sigma=float(sigma)):
            print(
                f"yardsticks left out, {other}: run `pyro-hvae yardstick {quoted(run_directory.path)}` to fit them again"
            )
        if other or not np.isfinite(matched(yardsticks, sets[0]["x"].values)).any():
            yardsticks = None
    if arguments.textures != "none" and transform is not None:
        third = arguments.texture_patches // 3
        textures = texture_patches(
            transform.size, arguments.textures, transform=transform, train=2 * third, test=third, seed=arguments.seed,
            intensity=arguments.texture_intensity, whitening=arguments.texture_whitening,
        )  # fmt: skip
        sets += [textures.train, textures.test]
    elif arguments.textures not in ("none", "embedded"):
        raise HVAEError(
            f"the patches of {arguments.source} arrived preprocessed, so there is no transform for the textures of "
            f"{arguments.textures}; give --textures none"
        )
    with export_posterior(
        vae,
        concatenate(*sets),
        draws=arguments.draws,
        resample=arguments.resample,
        sampler=arguments.sampler,
        num_samples=arguments.num_samples,
        warmup=arguments.warmup,
        chains=arguments.chains,
        moment_draws=arguments.moment_draws,
        units=arguments.units,
        receptive_fields=arguments.receptive_fields,
        evidence=arguments.evidence,
        evidence_images=arguments.evidence_images,
        refine=arguments.refine,
        gap=arguments.gap,
        yardsticks=yardsticks,
        transform=transform,
        path=arguments.out,
        overwrite=arguments.overwrite,
        seed=arguments.seed,
    ) as tree:
        print(f"{arguments.out}: {tree['observed_data'].sizes['image']} images")
        print(f"next: pyro-hvae analyse {quoted(arguments.out)} --out {quoted(Path(arguments.out).parent / 'report')}")
    return 0
