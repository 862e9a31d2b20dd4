"""``pyro-hvae predict``: a user's neurons predicted from the posteriors of the images that they were shown."""

from __future__ import annotations

import argparse

from pyro_hvae.cli.parsing import at_least


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser("predict", help="predict neurons from the posteriors of the images they were shown")
    parser.add_argument("source", metavar="FILE", help="posterior file of the images, in the order of the responses")
    parser.add_argument(
        "responses", metavar="RESPONSES", help="responses (image, repeat, neuron), .nc or .npz; NaN allowed"
    )
    parser.add_argument("--out", required=True, metavar="PNG", help="figure")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier figure")
    parser.add_argument("--method", default="ridge", help="ridge or lasso (ridge)")
    parser.add_argument("--folds", type=at_least(2), default=5, help="of the outer cross-validation (5)")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the numbers and save the figure."""
    from pyro_hvae.analysis.neural_prediction import neural_prediction, plot_neural_prediction, read_responses
    from pyro_hvae.report.text import numbers
    from pyro_hvae.storage.posterior_file import open_posterior
    from pyro_hvae.storage.writing import FIGURE, check_target

    check_target(arguments.out, overwrite=arguments.overwrite, schema=FIGURE)
    responses = read_responses(arguments.responses)
    with open_posterior(arguments.source, partial=True) as tree:
        found = neural_prediction(tree, responses, method=arguments.method, folds=arguments.folds, seed=arguments.seed)
    drawn = plot_neural_prediction(found)
    drawn.save(arguments.out, overwrite=arguments.overwrite)
    print(numbers(found))
    print(f"  {drawn.caption}\n  {arguments.out}")
    return 0
