"""Hidden units of the published networks, which guides and models given by name take."""

from __future__ import annotations

from typing import Any

# Hidden units of [C22], by guide, for one, two and more layers. Layers beyond the published two repeat the upper one.
_PUBLISHED: dict[bool, dict[str, tuple[tuple[int, ...], ...]]] = {
    False: {
        "a": ((500,),),
        "b": ((300, 100),),
        "c": ((100, 300, 500),),
        "d": ((500,),),
        "first": ((500, 500),),
        "upper": ((500, 300, 100),),
        "p": ((500,),),
        "skip": ((500, 450),),
    },
    True: {
        "a": ((2000,),),
        "b": ((1000, 500, 250),),
        "c": ((250, 500, 1000, 2000),),
        "d": ((2000,),),
        "first": ((2000, 2000),),
        "upper": ((2000, 1000, 500, 250),),
        "p": ((2000,),),
        "skip": ((2000, 1800),),
    },
}


def published_hidden(pixels: int, layers: int) -> dict[str, dict[str, Any]]:
    """Constructor arguments with the hidden units of [C22] for each model and guide name.

    The 40-pixel networks are used from 1600 pixels on, the 20-pixel ones below. The 40-pixel bottom-up and mean-field
    networks were not published; they scale the 20-pixel ones as [C22] scaled the others.
    """
    h = _PUBLISHED[pixels >= 1600]
    above = layers - 1
    return {
        "linear": {},
        "markov": {"hidden": h["p"] * above},
        "skip": {"hidden": h["p"] * above, "skip_hidden": h["skip"][0]},
        "top_down": {"hidden_x": h["a"] + h["b"] * above, "hidden_z": h["c"] * above, "hidden_joint": h["d"] * above},
        "bottom_up": {"hidden": h["first"] + h["upper"] * above},
        "mean_field": {"hidden": h["first"] + h["upper"] * above},
        "ladder": {},  # the bottom-up networks of the top-down guide, by default
    }
