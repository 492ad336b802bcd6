"""What a network is made of, before it is trained."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lipjax.models import Classifier


def overview(model: Classifier, variables: Mapping[str, Any]) -> str:
    """One line: parameters and the proven Lipschitz bound of the features."""
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    bound = model.lipschitz_bound(model.tightened(variables))
    return f"{type(model).__name__}: {count:,} parameters, Lip(features) <= {bound:.6g} before training"


def table(model: Classifier) -> str:
    """The layers with the shapes of their inputs, outputs and variables, by `nn.tabulate`."""
    image = jnp.zeros((1, *model.shape_of_images()))
    return model.tabulate(
        jax.random.key(0),
        image,
        depth=1,
        console_kwargs={"width": 160, "force_terminal": False, "force_jupyter": False},
    )
