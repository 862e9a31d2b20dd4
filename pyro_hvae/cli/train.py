"""``pyro-hvae train``: a published system on natural images, into a run directory."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING, Any

from pyro_hvae.cli.parsing import at_least, quoted
from pyro_hvae.errors import HVAEError

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
    parser.add_argument(
        "--steps", type=at_least(1), help="number of updates (default: the recipe's; tens of millions as published)"
    )
    parser.add_argument(
        "--recipe", help="published (default), or fast: start, rate, clipping and schedules that get there in minutes"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--compile",
        default="auto",
        choices=("auto", "always", "never"),
        help="compile the step; auto: from 5000 steps on",
    )

    pair = parser.add_argument_group("model and guide")
    pair.add_argument("--guide", help="another guide than the published one: ladder, top_down, bottom_up, mean_field")
    pair.add_argument("--dim-z1", type=at_least(1))
    pair.add_argument("--dim-z2", type=at_least(1))
    pair.add_argument("--families", nargs="+", metavar="F", help="laplace or normal, one a layer, z1's first")
    pair.add_argument("--noise", type=float, help="standard deviation of the observation noise (0.4)")
    pair.add_argument("--learn-noise", action="store_true", default=None)
    pair.add_argument(
        "--start",
        help="another start than the recipe's: default; linear_regime; ica: z1 at the independent components of the patches; "
        "ica,energies: and z2 at their energies; energies alone: the pair of --from, its z2 restarted",
    )
    pair.add_argument("--from", dest="source", metavar="RUN", help="take the generative model of a trained run")
    pair.add_argument("--train", help="both, guide or model: what is trained (with --from, guide keeps the model)")

    data = parser.add_argument_group("images")
    data.add_argument(
        "--images", metavar="SOURCE", help="embedded (default), a folder, or an image, array or pickle file"
    )
    data.add_argument("--patches", metavar="FILE", help="patches saved before (PatchData.save), instead of --images")
    data.add_argument("--train-patches", type=at_least(1), metavar="N")
    data.add_argument("--test-patches", type=at_least(1), metavar="N")
    data.add_argument("--contrast", help="none (default), or unit_norm: each patch divided by its norm")

    how = parser.add_argument_group("training")
    how.add_argument("--objective", help="elbo, importance_weighted or renyi")
    how.add_argument("--particles", type=at_least(1), metavar="K")
    how.add_argument("--alpha", type=float, help="order of the Rényi bound")
    how.add_argument("--gradient", help="standard, stl, dreg, rao_blackwell, rao_blackwell_stl or rao_blackwell_dreg")
    how.add_argument("--batch", type=at_least(1))
    how.add_argument(
        "--learning-rate", metavar="SCHEDULE", help="a number, or step:value pairs such as 0:1e-3,8000:1e-4"
    )
    how.add_argument(
        "--beta", action="append", metavar="SITE=SCHEDULE", help="such as z2=0:0.1,10000:1; may be repeated"
    )
    how.add_argument("--clip", type=float, metavar="NORM", help="shorten longer gradients to this norm")
    how.add_argument("--skip", type=float, metavar="NORM", help="leave out steps with a longer gradient")
    how.add_argument("--precision", help="float32, tf32 (CUDA) or bfloat16: of matrix products")
    how.add_argument("--seed", type=at_least(0))
    how.add_argument("--checkpoint-every", type=at_least(1), metavar="STEPS")
    how.add_argument("--evaluate-every", type=at_least(1), metavar="STEPS")
    how.add_argument("--log-every", type=at_least(1), metavar="STEPS")
    parser.set_defaults(run=run)


# Arguments that concern where and how far, not what: allowed when a run is resumed with its own settings.
_RESUMABLE = {"command", "run", "preset", "out", "overwrite", "resume", "steps", "device", "compile", "images"}
_COMPILE: dict[str, bool | str] = {"auto": "auto", "always": True, "never": False}


def run(arguments: argparse.Namespace) -> int:
    """Train; the exit code after a signal is 128 plus its number, as shells have it."""
    if arguments.resume and arguments.preset is None:
        given = [name for name, value in vars(arguments).items() if value is not None and name not in _RESUMABLE]
        if given:
            options = ", ".join("--" + name.replace("_", "-") for name in given)
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
    if result.path is None:  # one of several processes, of which another has written the run
        return 0
    print(f"{result.path}: {result.step} steps, held-out ELBO {float(result.history.test_elbo[-1]):.1f} nats an image")
    print(f"next: pyro-hvae export {quoted(result.path)} --out {quoted(result.path / 'posterior.nc')}")
    return 0


def _begin(arguments: argparse.Namespace) -> Any:
    from pyro_hvae.published import build, preset
    from pyro_hvae.training.config import default_objective
    from pyro_hvae.training.fit import fit
    from pyro_hvae.training.run_directory import check_run_target

    if not arguments.resume:
        check_run_target(arguments.out, overwrite=arguments.overwrite)
    seed = 0 if arguments.seed is None else arguments.seed
    published = preset(arguments.preset)
    data = _data(arguments, published.patch, seed)
    energies = arguments.start == "energies"
    vae = build(
        arguments.preset,
        guide=arguments.guide,
        dim_z1=arguments.dim_z1,
        dim_z2=arguments.dim_z2,
        families=arguments.families,
        noise=arguments.noise,
        learn_noise=bool(arguments.learn_noise),
        recipe="published" if arguments.recipe is None else arguments.recipe,
        start="default" if energies or arguments.source is not None else arguments.start,
        data=data,
        seed=seed,
    )
    if energies:
        vae = _restarted(arguments, vae, data, seed)
    elif arguments.source is not None:
        vae = _on_model_of(arguments, vae)
    objective = default_objective(
        vae,
        name=arguments.objective,
        num_particles=arguments.particles,
        gradient=arguments.gradient,
        alpha=arguments.alpha,
    )
    options = {
        name: value
        for name in (
            "batch",
            "learning_rate",
            "train",
            "clip",
            "skip",
            "precision",
            "checkpoint_every",
            "evaluate_every",
            "log_every",
        )
        if (value := getattr(arguments, name)) is not None
    }
    return fit(
        vae,
        data,
        steps=arguments.steps,
        objective=objective,
        beta=_betas(arguments.beta),
        out=arguments.out,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        device=arguments.device,
        compile=_COMPILE[arguments.compile],
        seed=seed,
        **options,
    )


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


def _betas(given: list[str] | None) -> dict[str, str] | None:
    if given is None:
        return None
    for text in given:
        if "=" not in text:
            raise HVAEError(f"--beta {text}: expected SITE=SCHEDULE, such as z2=1.25 or z2=0:0.1,10000:1")
    return dict(text.split("=", 1) for text in given)


def _data(arguments: argparse.Namespace, size: int, seed: int) -> PatchData:
    from pyro_hvae.stimuli import PatchData, natural_patches

    cutting = ("images", "train_patches", "test_patches", "contrast")
    if arguments.patches is not None:
        if given := [name for name in cutting if getattr(arguments, name) is not None]:
            raise HVAEError(f"--patches are cut already; --{given[0].replace('_', '-')} cannot be applied to them")
        return PatchData.load(arguments.patches)
    contrast = {} if arguments.contrast is None else {"contrast": arguments.contrast}
    return natural_patches(
        size,
        "embedded" if arguments.images is None else arguments.images,
        train=arguments.train_patches,
        test=arguments.test_patches,
        seed=seed,
        **contrast,
    )


def _resume(arguments: argparse.Namespace) -> Any:
    from pyro_hvae.training.fit import resume

    return resume(
        arguments.out,
        steps=arguments.steps,
        device=arguments.device,
        compile=_COMPILE[arguments.compile],
        images=arguments.images,
    )
