"""What a network is made of, before it is trained."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lipjax.models.lipconvnet import LipConvnet


def multiply_adds(model: LipConvnet) -> int:
    """Of the convolutions of one image in training: Σ d · H · W · k² · C² over the layers, d the degree of p."""
    return sum(
        model.polynomial.degree * (step.size * step.kernel_size * max(step.in_channels, step.features)) ** 2
        for step in model.steps()
    )


def overview(model: LipConvnet, variables: Mapping[str, Any]) -> str:
    """One line: parameters, multiply-adds and the proven Lipschitz bound of the features."""
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    bound = model.lipschitz_bound(model.tightened(variables))
    return (
        f"LipConvnet-{model.depth}: {count:,} parameters, {multiply_adds(model):,} multiply-adds of convolutions an "
        f"image, Lip(features) <= {bound:.6g} before training"
    )


def table(model: LipConvnet) -> str:
    """The layers with the shapes of their inputs, outputs and variables, by `nn.tabulate`."""
    image = jnp.zeros((1, model.input_size, model.input_size, model.in_channels))
    return model.tabulate(
        jax.random.key(0),
        image,
        depth=1,
        console_kwargs={"width": 160, "force_terminal": False, "force_jupyter": False},
    )
