"""What a network is made of, before it is trained."""

import jax
import jax.numpy as jnp

from lipjax.models import Classifier


def table(model: Classifier) -> str:
    """The layers with the shapes of their inputs, outputs and variables, by `nn.tabulate`."""
    image = jnp.zeros((1, *model.shape_of_images()))
    return model.tabulate(
        jax.random.key(0),
        image,
        depth=1,
        console_kwargs={"width": 160, "force_terminal": False, "force_jupyter": False},
    )
