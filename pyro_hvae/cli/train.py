"""``pyro-hvae train``: a published system on natural images, into a run directory."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING, Any

from pyro_hvae.cli.parsing import add_device, add_images, add_options, cutting, given, quoted
from pyro_hvae.errors import HVAEError
from pyro_hvae.published import PairOptions, Training

if TYPE_CHECKING:
    from pyro_hvae.programs import HVAE
    from pyro_hvae.stimuli import PatchData


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a published system",
        description="Train a published system. What is not given is the recipe's; its schedules are stretched to --steps.",
    )
    parser.add_argument("preset", nargs="?", help="see `pyro-hvae presets`; may be left out with --resume")
    parser.add_argument("--out", required=True, metavar="DIR", help="run directory")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in DIR")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR, with its own settings")
    add_device(parser)
    parser.add_argument(
        "--watch", metavar="FILE.html", help="keep a page with the terms of the bound and the fields of z1 up to date"
    )

    pair = parser.add_argument_group("model and guide")
    add_options(pair, PairOptions)
    pair.add_argument("--families", nargs="+", metavar="F", help="laplace or normal, one a layer, z1's first")
    pair.add_argument(
        "--from",
        dest="source",
        metavar="RUN",
        help="take the generative model of a trained run (--train guide keeps it as it is); with --start energies its pair, "
        "z2 restarted",
    )
    add_images(parser.add_argument_group("images"))

    how = parser.add_argument_group("training")
    add_options(how, Training, but=["beta"])
    how.add_argument(
        "--beta", action="append", metavar="SITE=SCHEDULE", help="such as z2=0:0.1,10000:1; may be repeated"
    )
    parser.set_defaults(run=run)


# Arguments that concern where and how far, not what: allowed when a run is resumed with its own settings.
_RESUMABLE = {"command", "run", "preset", "out", "overwrite", "resume", "steps", "device", "compile", "images", "watch"}


def run(arguments: argparse.Namespace) -> int:
    """Train; the exit code after a signal is 128 plus its number, as shells have it."""
    if arguments.resume and arguments.preset is None:
        others = [name for name, value in vars(arguments).items() if value is not None and name not in _RESUMABLE]
        if others:
            options = ", ".join("--" + name.replace("_", "-") for name in others)
            raise HVAEError(f"--resume goes on with the run's own settings; {options} cannot change them")
        result = _resume(arguments)
    elif arguments.preset is None:
        raise HVAEError("give a preset to train (`pyro-hvae presets` lists them), or --resume")
    else:
        result = _begin(arguments)
    if result.interrupted and result.path is not None:
        again = f"pyro-hvae train --resume --out {quoted(result.path)}"
        print(f"stopped by {result.interrupted} at step {result.step}; go on with: {again}")
    if result.interrupted:
        return 128 + signal.Signals[result.interrupted]
    if result.stopped:
        print(f"stopped at step {result.step}: {result.stopped}")
    if result.path is None:  # one of several processes, of which another has written the run
        return 0
    print(f"{result.path}: {result.step} steps, held-out ELBO {float(result.history.test_elbo[-1]):.1f} nats an image")
    print(f"next: pyro-hvae export {quoted(result.path)} --out {quoted(result.path / 'posterior.nc')}")
    return 0


def _begin(arguments: argparse.Namespace) -> Any:
    from pyro_hvae.published import build, preset
    from pyro_hvae.stimuli.patches import side_of
    from pyro_hvae.training.fit import fit_with
    from pyro_hvae.training.run_directory import check_run_target

    if not arguments.resume:
        check_run_target(arguments.out, overwrite=arguments.overwrite)
    published, options = preset(arguments.preset), given(arguments, PairOptions)
    training = Training(**given(arguments, Training) | {"beta": _betas(arguments.beta)})
    size = published.patch if arguments.pixels is None else side_of(arguments.pixels, "the model")
    data = _data(arguments, size, training.seed)
    energies = arguments.start == "energies"
    if energies or arguments.source is not None:
        options["start"] = "default"
    vae = build(arguments.preset, families=arguments.families, data=data, seed=training.seed, **options)
    if energies:
        vae = _restarted(arguments, vae, data, training.seed)
    elif arguments.source is not None:
        vae = _on_model_of(arguments, vae)
    return fit_with(
        vae,
        data,
        training,
        out=arguments.out,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        device=arguments.device,
        callbacks=_watching(arguments),
    )


def _watching(arguments: argparse.Namespace) -> list[Any]:
    """The page of --watch."""
    from pyro_hvae.training.watch import WatchPage

    return [] if arguments.watch is None else [WatchPage(arguments.watch)]


def _on_model_of(arguments: argparse.Namespace, built: HVAE) -> HVAE:
    """The generative model of --from under the guide asked for."""
    from pyro_hvae.programs import HVAE
    from pyro_hvae.programs.ladder import LadderGuide
    from pyro_hvae.starts import check_starts, start_in_linear_regime
    from pyro_hvae.training.run_directory import load

    starts = check_starts("default" if arguments.start is None else arguments.start)
    if set(starts) - {"linear_regime"}:
        raise HVAEError(
            f"--start {arguments.start} starts the model too, which --from takes from {arguments.source}; give linear_regime, "
            "which then concerns the guide alone, or leave --from out"
        )
    source = load(arguments.source)
    if isinstance(built.guide, LadderGuide):  # reads from its model, and starts in closed form
        vae = source.with_guide("ladder", **built.guide.config)
    else:
        vae = HVAE(source.model, built.guide, preset=built.preset)
    vae.preset, vae.recipe = built.preset, built.recipe
    return start_in_linear_regime(vae, guide_only=True) if starts else vae


def _restarted(arguments: argparse.Namespace, built: HVAE, data: PatchData, seed: int) -> HVAE:
    """The pair of --from with its z2 restarted."""
    import torch

    from pyro_hvae.starts import start_from_energies
    from pyro_hvae.training.run_directory import load

    if arguments.source is None:
        raise HVAEError("--start energies restarts z2 of a trained pair: name its run with --from RUN")
    vae = load(arguments.source)
    if vae.config != built.config:
        raise HVAEError(f"{arguments.source} holds another pair than {arguments.preset} with these options; give the preset, "
                        "guide and sizes that it was trained with")  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return start_from_energies(vae, torch.from_numpy(data.train["x"].values[:4000]))


def _betas(texts: list[str] | None) -> dict[str, str] | None:
    if texts is None:
        return None
    for text in texts:
        if "=" not in text:
            raise HVAEError(f"--beta {text}: expected SITE=SCHEDULE, such as z2=1.25 or z2=0:0.1,10000:1")
    return dict(text.split("=", 1) for text in texts)


def _data(arguments: argparse.Namespace, size: int, seed: int) -> PatchData:
    from pyro_hvae.stimuli import PatchData, natural_patches

    options = cutting(arguments)
    return (
        natural_patches(size, seed=seed, **options) if arguments.patches is None else PatchData.load(arguments.patches)
    )


def _resume(arguments: argparse.Namespace) -> Any:
    from pyro_hvae.training.fit import resume

    return resume(
        arguments.out,
        steps=arguments.steps,
        device=arguments.device,
        compile="auto" if arguments.compile is None else arguments.compile,
        images=arguments.images,
        callbacks=_watching(arguments),
    )
