"""Draws the pictures of README and model pages: graphical models, and projective fields of small trained systems.

    python docs/figures.py              # trains five small systems into runs/figures (about 25 minutes on one core), then draws
    python docs/figures.py --front      # the README's alone: a trained pair that ships, and its published guide trained anew

The systems have the published structure on 12×12-pixel patches of the photographs that scikit-image and scikit-learn install:
small enough for the fields of z1 to become localized within minutes, where 20×20 pixels take far longer. A system whose
run is complete is not trained again; one that was interrupted is resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

import pyro_hvae as hvae
from pyro_hvae.analysis import decode_family, gabor_fits, modulation_fields, projective_fields, style
from pyro_hvae.analysis.modulation_fields import plot_bars
from pyro_hvae.stimuli import concatenate
from pyro_hvae.training.run_directory import RunDirectory

HERE = Path(__file__).parent
SIZE, DIM_Z1, DIM_Z2 = 12, 162, 10  # z1: 1.125 × pixels, as published
STEPS = 12_000
FIELDS = 49  # shown of each layer
PARTICLES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
DPI = 170

Edges = Sequence[tuple[str, str]]
MODELS: dict[str, Edges] = {
    "linear": [("z1", "x")],
    "markov": [("z2", "z1"), ("z1", "x")],
    "skip": [("z2", "z1"), ("z1", "x"), ("z2", "x")],
}
GUIDES: dict[str, Edges] = {
    "one_layer": [("x", "z1")],
    "top_down": [("x", "z2"), ("x", "z1"), ("z2", "z1")],
    "bottom_up": [("x", "z1"), ("z1", "z2")],
    "mean_field": [("x", "z1"), ("x", "z2")],
}
TITLES = {
    "one_layer": "q\none layer",
    "top_down": "q\ntop-down",
    "bottom_up": "q\nbottom-up",
    "mean_field": "q\nmean field",
}


# -- training

ONE = dict(pixels=SIZE**2, dims=(DIM_Z1,))
TWO = dict(pixels=SIZE**2, dims=(DIM_Z1, DIM_Z2))


def top_down() -> hvae.TopDownGuide:
    return hvae.TopDownGuide(**TWO, hidden_x=((200,), (100,)), hidden_z=((100,),), hidden_joint=((200,),))


def bottom_up() -> hvae.BottomUpGuide:
    return hvae.BottomUpGuide(**TWO, hidden=((200, 200), (200, 100)))


def markov() -> hvae.MarkovModel:
    return hvae.MarkovModel(**TWO, hidden=((100,),))


SYSTEMS = {
    "linear": lambda: hvae.HVAE(hvae.LinearModel(**ONE), hvae.MeanFieldGuide(**ONE, hidden=((200, 200),))),
    "td": lambda: hvae.HVAE(markov(), top_down()),
    "skip": lambda: hvae.HVAE(hvae.SkipModel(**TWO, hidden=((100,),), skip_hidden=(100, DIM_Z1)), top_down()),
    "chain": lambda: hvae.HVAE(markov(), bottom_up()),
}


def rate(steps: int, top: float = 5e-4) -> str:
    """The demo's learning rate: up over the first 5 per cent, down over the last 40."""
    return f"0:{top / 10:g},{steps // 20}:{top:g},{6 * steps // 10}:{top:g},{steps}:{top / 10:g}"


def train(name: str, steps: int, runs: Path, data: hvae.stimuli.PatchData) -> Path:
    """Train a system by the demo's recipe, or go on where an earlier call stopped; the run directory."""
    torch.manual_seed(0)
    if name == "swapped":  # the bottom-up guide alone, on td's generative model
        vae, part, steps = hvae.load(runs / "td").with_guide(bottom_up()), "guide", steps // 2
        hvae.start_in_linear_regime(vae, guide_only=True)
    else:
        vae, part = hvae.start_in_linear_regime(SYSTEMS[name]()), "both"
    # With a bottom-up guide z1 cannot be integrated out of the bound.
    gradient = "standard" if isinstance(vae.guide, hvae.BottomUpGuide) else "rao_blackwell"
    beta = {"z1": "1"} | ({"z2": f"0:0.1,{steps // 2}:1"} if part == "both" and "z2" in vae.sites else {})
    # SkipVAE needs a lower rate: at 1e-3 it fell apart around step 4000. As published, 2/5 of the others'.
    learning_rate = rate(steps, 2e-4) if name == "skip" else rate(steps)
    out = runs / name
    begun = any(out.glob("checkpoints/*"))
    hvae.fit(
        vae, data, steps=steps, learning_rate=learning_rate, beta=beta, clip=300, batch=256, train=part, out=out, resume=begun,
        objective=hvae.ELBO(gradient=gradient), overwrite=out.exists() and not begun,
    )  # fmt: skip
    return out


def posterior(run: Path) -> xr.DataTree:
    """Posterior moments of 400 held-out patches of a run, in memory."""
    return hvae.export_posterior(hvae.load(run), held_out(run, 400), moment_draws=16)


def held_out(run: Path, images: int) -> xr.Dataset:
    """The first held-out patches of a run."""
    dataset = RunDirectory.open(run).held_out()
    step = dataset.sizes["image"] // images
    return dataset.isel(image=slice(0, images * step, step))


# -- graphical models


def graph(axis: Axes, edges: Edges, title: str, *, dashed: bool, layers: int = 2) -> None:
    """Sites as circles, x observed (grey), in the plate of images; dashed arrows for a guide."""
    place = {name: np.array([0.0, 1.25 * level]) for level, name in enumerate(("x", "z1", "z2")[: layers + 1])}
    radius, bend = 0.33, {("z2", "x"): 0.45, ("x", "z2"): -0.45}
    for source, target in edges:
        way = place[target] - place[source]
        side = np.sign(bend.get((source, target), 0.0)) * np.array([way[1], -way[0]]) / np.linalg.norm(way)
        leave, arrive = way / np.linalg.norm(way) + side, -way / np.linalg.norm(way) + side
        arrow = FancyArrowPatch(
            place[source] + radius * leave / np.linalg.norm(leave),
            place[target] + radius * arrive / np.linalg.norm(arrive),
            arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=0, lw=1.1, ls=(0, (2.5, 1.5)) if dashed else "-",
            color=style.RED if dashed else style.BLUE,
            connectionstyle=f"arc3,rad={bend.get((source, target), 0.0)}",
        )  # fmt: skip
        axis.add_patch(arrow)
    for name, at in place.items():
        axis.add_patch(Circle(at, radius, fc="#d9d9d9" if name == "x" else "white", ec="black", lw=0.9, zorder=3))
        text = "x" if name == "x" else f"$z_{name[1]}$"
        axis.text(*at, text, ha="center", va="center", zorder=4, fontsize=9, style="italic")
    low, high = -0.8, 1.25 * layers + 0.5
    axis.add_patch(Rectangle((-0.95, low), 1.9, high - low, fill=False, ec=style.GREY, lw=0.6))
    axis.text(0.88, low + 0.06, "image", ha="right", va="bottom", fontsize=5.5, color=style.GREY)
    axis.set(xlim=(-1.0, 1.0), ylim=(low - 0.05, high + 0.05), aspect="equal")
    axis.set_axis_off()
    axis.set_title(title, fontsize=8)


def with_fields(model: str, guides: Sequence[str], tree: xr.DataTree) -> Figure:
    """The graphical model, the guides, and the strongest active projective fields of every layer."""
    fields = projective_fields(tree)
    layers = [str(site) for site in fields["site"].values]
    graphs = 1 + len(guides)
    ratios = [0.72] * graphs + [1.5] * len(layers)
    figure = style.figure(1.05 * sum(ratios) + 0.3, 1.95)
    axes = figure.subplots(1, len(ratios), width_ratios=ratios)
    graph(axes[0], MODELS[model], f"p\n{model}", dashed=False, layers=len(layers))
    for axis, guide in zip(axes[1:], guides, strict=False):
        graph(axis, GUIDES[guide], TITLES[guide], dashed=True, layers=len(layers))
    for axis, site in zip(axes[graphs:], layers, strict=True):
        power, active = fields[f"{site}_power"].values, fields[f"{site}_active"].values
        order = np.flatnonzero(active) if active.any() else np.arange(power.size)
        order = order[np.argsort(-power[order])][:FIELDS]
        of = f"{order.size} of {int(active.sum())} active" if active.any() else "none active, all shown"
        columns = int(np.ceil(np.sqrt(order.size)))
        style.show(axis, style.mosaic(fields[f"{site}_field"].values[order], columns))
        axis.set_title(f"$z_{site[1]}$ fields, {of}", fontsize=7)
    return figure


def bound_against_particles(runs: Mapping[str, Path], images: int) -> Figure:
    """Importance-weighted bounds of guides on one generative model, against the number of particles."""
    figure = style.figure(5.0, 2.1)
    axes = figure.subplots(1, 3, width_ratios=[0.62, 0.75, 2.2])
    graph(axes[0], MODELS["markov"], "p\nmarkov", dashed=False)
    graph(axes[1], GUIDES["top_down"], TITLES["top_down"], dashed=True)
    axis = axes[2]
    styles = {"top-down": (style.RED, "o", "-"), "bottom-up": (style.PURPLE, "s", "--")}
    for label, run in runs.items():
        vae = hvae.load(run)
        x = torch.from_numpy(held_out(run, images)["x"].values)
        weights = []
        with torch.no_grad():
            torch.manual_seed(0)
            for batch in x.split(10):
                expanded = batch.repeat_interleave(PARTICLES[-1], 0)
                one = hvae.ImportanceWeightedELBO(1).evaluate(vae.model, vae.guide, expanded)
                weights.append(one.bound.double().reshape(len(batch), -1))
        log_w = torch.cat(weights)  # (image, particle): every K is the mean over disjoint groups of the same draws
        bounds = [
            (log_w[:, : log_w.shape[1] // k * k].reshape(len(x), -1, k).logsumexp(-1) - np.log(k)).mean(1)
            for k in PARTICLES
        ]
        mean = np.array([float(b.mean()) for b in bounds])
        colour, marker, line = styles[label]
        axis.plot(PARTICLES, mean, color=colour, marker=marker, ls=line, ms=3, label=f"{label} guide")
        print(label, dict(zip(PARTICLES, mean.round(1).tolist(), strict=True)))
    axis.set(xscale="log", xlabel="particles K", ylabel="bound (nats an image)")
    axis.legend()
    return figure


def guides() -> Figure:
    """The recognition models over two layers, side by side."""
    names = ("top_down", "bottom_up", "mean_field")
    figure = style.figure(3.2, 1.75)
    for axis, name in zip(figure.subplots(1, 3), names, strict=True):
        graph(axis, GUIDES[name], TITLES[name].removeprefix("q\n"), dashed=True)
    return figure


# -- the README's


def swapped(vae: hvae.HVAE, data: hvae.stimuli.PatchData, out: Path) -> hvae.HVAE:
    """The published top-down guide, trained on a pair's model."""
    torch.manual_seed(0)
    other = hvae.start_in_linear_regime(vae.with_guide("top_down"), guide_only=True)
    begun = any(out.glob("checkpoints/*"))
    options = dict(steps=4000, beta=1.0, batch=200, clip=300, learning_rate="0:5e-4,2400:5e-4,4000:5e-5", train="guide")
    hvae.fit(other, data, out=out, resume=begun, overwrite=out.exists() and not begun, **options)
    return other


def front(runs: Path) -> Figure:
    """A reference: its programs, what z1 and z2 do, decoding of texture, and noise correlations under two guides."""
    vae = hvae.load_reference("TDVAE20-ladder")
    data = hvae.stimuli.natural_patches(train=200_000, test=5_000)  # those it was trained on
    textures = hvae.stimuli.texture_patches(transform=data.transform, train=1_800, test=900)
    images = concatenate(data.test.isel(image=slice(400)), textures.train, textures.test)
    other = swapped(vae, data, runs / "front")
    fits = gabor_fits(hvae.export_posterior(vae, data.test.isel(image=slice(100)), moment_draws=8, receptive_fields=0))
    units = fits["unit"].values[fits["localized"].values.astype(bool)][:40]
    trees = [
        hvae.export_posterior(pair, images, units=units.tolist(), moment_draws=64, receptive_fields=0)
        for pair in (vae, other)
    ]
    tree = trees[0]
    figure = style.figure(style.FULL, 4.6)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    axes = top.subplots(1, 5, width_ratios=[0.6, 0.6, 1.5, 1.25, 1.25])
    graph(axes[0], MODELS["markov"], "p\nmodel", dashed=False)
    graph(axes[1], GUIDES["top_down"], "q\nladder", dashed=True)
    fields = projective_fields(tree)
    order = np.argsort(-fields["z1_power"].values)[:FIELDS]
    style.show(axes[2], style.mosaic(fields["z1_field"].values[order], 7))
    axes[2].set_title(f"$z_1$ fields, {len(order)} of {int(fields['z1_active'].sum())} active", fontsize=7)
    modulation = modulation_fields(tree)
    largest = float(np.quantile(np.abs(modulation["modulation"].values[:6]), 0.99))
    # The least common ones of the strongest: a gain of all units is contrast, and no picture.
    shown = np.argsort(modulation["dim_common"].values[:8])[:2]
    for axis, k in zip(axes[3:], shown, strict=True):
        plot_bars(axis, modulation, modulation["modulation"].values[k], largest, data.size)
        axis.set_title(f"$z_2$ [{int(modulation['z2_dim'][k])}]: louder, quieter", fontsize=7)
    axes = bottom.subplots(1, 3, width_ratios=[1.3, 1, 1])
    decoding = decode_family(tree, ["pixels", "norm", "power_spectrum", "z1_mean", "z2_mean"])
    names = [str(f).replace("_", " ") for f in decoding["feature"].values]
    value, interval = decoding["accuracy"].values, decoding["accuracy_interval"].values
    colours = [style.GREY if not name.startswith("z") else style.BLUE for name in names]
    axes[0].bar(names, value, color=colours, yerr=np.abs(interval.T - value), error_kw={"lw": 0.8})
    axes[0].axhline(float(decoding.attrs["chance"]), ls="--", lw=0.8, color="black")
    axes[0].set(ylabel="texture family decoded", ylim=(0, 1))
    axes[0].set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    matrices = [t["posterior_moments"]["z1_correlation"].values[400:].mean(0) for t in trees]
    for matrix in matrices:
        np.fill_diagonal(matrix, np.nan)
    limit = float(np.nanquantile(np.abs(np.stack(matrices)), 0.99))
    for axis, matrix, name in zip(axes[1:], matrices, ("ladder", "top-down"), strict=True):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"noise correlations, {name}", fontsize=7)
    bottom.colorbar(image, ax=axes[1:], label="correlation of $z_1$", shrink=0.8)
    return figure


# -- files


def save(figure: Figure, path: Path) -> None:
    """Write a PNG and print its size."""
    figure.savefig(path, dpi=DPI, facecolor="white", pil_kwargs={"optimize": True})
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Train what is missing; draw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/figures"), help="where the systems are trained")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images", type=int, default=100, help="held-out images of the bounds")
    parser.add_argument("--out", type=Path, default=HERE / "figures")
    parser.add_argument("--front", action="store_true", help="the README's picture alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with rc_context(style.RC):
        save(front(options.runs), options.out / "readme.png")
    if options.front:
        return
    data = hvae.stimuli.natural_patches(SIZE, train=64_000, test=2_000)
    runs = {name: train(name, options.steps, options.runs, data) for name in (*SYSTEMS, "swapped")}
    trees = {name: posterior(runs[name]) for name in SYSTEMS}
    with rc_context(style.RC):
        figures = {
            "linear_vae": with_fields("linear", ["one_layer"], trees["linear"]),
            "tdvae": with_fields("markov", ["top_down"], trees["td"]),
            "skip_vae": with_fields("skip", ["top_down"], trees["skip"]),
            "chain_vae": with_fields("markov", ["bottom_up"], trees["chain"]),
            "guides": guides(),
            "td_iwae": bound_against_particles({"top-down": runs["td"], "bottom-up": runs["swapped"]}, options.images),
        }
        for name, figure in figures.items():
            save(figure, options.out / f"{name}.png")


if __name__ == "__main__":
    main()
