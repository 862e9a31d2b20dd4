"""What the yardsticks reach on patches of a folder of photographs, and how long each takes.

    python benchmarks/yardsticks.py [--images FOLDER] [--size 20] [--train 60000] [--test 4000] [--sigma 0.4]

Prints a line a yardstick: mean log density of held-out and of training patches (nats a patch), standard error over the held-out
patches, seconds. ``docs/yardsticks.md`` tells what they are.
"""

from __future__ import annotations

import argparse

import numpy as np

import pyro_hvae as hvae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="embedded", help="a folder of photographs (default: the embedded ones)")
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--train", type=int, default=60_000)
    parser.add_argument("--test", type=int, default=4_000)
    parser.add_argument("--sigma", type=float, default=0.4)
    arguments = parser.parse_args()
    data = hvae.stimuli.natural_patches(
        arguments.size, arguments.images, train=arguments.train, test=arguments.test, seed=0
    )
    found = hvae.yardsticks(data.train, data.test, sigma=arguments.sigma, limit=arguments.train)
    density = found["log_density"]
    error = density.std("image", ddof=1) / np.sqrt(density.sizes["image"])
    print(
        f"{found.attrs['train']} training, {density.sizes['image']} held-out patches, {found.attrs['dims']} dimensions"
    )
    print(f"{'yardstick':22}{'held out':>10}{'s.e.':>7}{'training':>10}{'iterations':>12}{'seconds':>9}")
    for name in density["yardstick"].values:
        row = found.sel(yardstick=name)
        print(
            f"{name!s:22}{float(row['log_density'].mean()):10.2f}{float(error.sel(yardstick=name)):7.2f}"
            f"{float(row['train_log_density']):10.2f}{int(row['iterations']):12}{float(row['seconds']):9.1f}"
        )


if __name__ == "__main__":
    main()
