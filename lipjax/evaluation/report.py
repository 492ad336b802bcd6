"""Figures of certificates and of learned pooling."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lipjax.evaluation import palette
from lipjax.evaluation.charts import Line, survival
from lipjax.layers import PointPool, PolylinePool, ProjectionPool
from lipjax.layers.container import leaves
from lipjax.layers.layer import own_of
from lipjax.models import Classifier

LEARNED = (ProjectionPool, PolylinePool, PointPool)


def plot_certified_accuracy(
    path: Path | IO[bytes],
    radius: np.ndarray,
    right: np.ndarray,
    closest: np.ndarray | None,
    title: str,
    until: float = 0.0,
) -> None:
    """Write a PNG of certified accuracy against the l2 radius; at radius 0 the curve starts at standard accuracy.

    radius (N,), pixels in [0, 1], whether each prediction is right (N,), and, of an attack, the distances (N,) of the
    closest misclassified points it found, up to the largest radius that it tried: the robust accuracy lies between the
    two curves.  Beyond that radius nothing is drawn of the attack.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    certified, attacked = curves(radius, right, closest, until)
    axes.step(certified.x, certified.y, where="post", color=palette.CERTIFIED.light, label=certified.name)
    if attacked is not None:
        axes.step(attacked.x, attacked.y, where="post", color=palette.ATTACKED.light, label=attacked.name)
        x = np.union1d(attacked.x, certified.x[certified.x <= attacked.x[-1]])
        below, above = (line.y[np.searchsorted(line.x, x, side="right") - 1] for line in (certified, attacked))
        look: dict[str, Any] = {"alpha": palette.BAND, "color": palette.ATTACKED.light, "linewidth": 0}
        axes.fill_between(x, below, above, step="post", label="between: not known", **look)
        axes.legend()
    axes.set(xlabel="l2 radius, pixels in [0, 1]", ylabel="accuracy, %", title=title)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")


def curves(
    radius: np.ndarray, right: np.ndarray, closest: np.ndarray | None, until: float = 0.0
) -> tuple[Line, Line | None]:
    """Accuracy in % against the radius, certified and, of an attack, attacked: see `plot_certified_accuracy`."""
    reach = float(radius[right & np.isfinite(radius)].max(initial=0.0))
    if closest is None:
        x, y = survival(radius, right, reach or 1.0)
        return Line("certified: at least", x, 100 * y, "certified", step=True), None
    x, y = survival(radius, right, max(reach, until) or 1.0)
    certified = Line("certified: at least", x, 100 * y, "certified", step=True)
    x, y = survival(closest, right, until)
    return certified, Line("attacked: at most", x, 100 * y, "attacked", step=True)


def plot_level_sets(path: Path, model: Classifier, variables: Mapping[str, Any], pairs: int = 4) -> None:
    """Write a PNG of the level sets of learned pooling (as the paper's Figure 1): a row per layer, a few channel pairs.

    The thick line is the level 0: the learned set where the output is a signed distance.  Each panel reaches 3 times
    as far as the parameters of its layer, at least to 3.

    Raises:
      ValueError: a network without learnable pooling.
    """
    pools = {name: layer for name, layer in leaves(model.parts()[0]) if isinstance(layer, LEARNED)}
    if not pools:
        raise ValueError(f"{type(model).__name__}: no layer is a pooling with something to learn")
    figure = Figure(figsize=(2.6 * pairs, 2.6 * len(pools)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (name, layer) in zip(figure.subplots(len(pools), pairs, squeeze=False), pools.items(), strict=True):
        params = functools.reduce(own_of, name.split("/"), variables)["params"]
        count = len(jax.tree.leaves(params)[0])
        reach = 3.0 if "theta" in params else 3 * max(1.0, *(float(np.abs(p).max()) for p in jax.tree.leaves(params)))
        ticks = np.linspace(-reach, reach, 201)
        points = jnp.asarray(np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2), jnp.float32)
        for axes, pair in zip(row, np.linspace(0, count - 1, pairs).round().astype(int), strict=True):
            own = jax.tree.map(lambda leaf, pair=pair: jnp.asarray(leaf)[pair : pair + 1], params)
            output = np.asarray(layer.apply({"params": own}, points)).reshape(len(ticks), len(ticks))
            axes.contour(ticks, ticks, output, levels=15, linewidths=0.6)
            if float(output.min()) < 0 < float(output.max()):
                axes.contour(ticks, ticks, output, levels=[0], linewidths=1.8, colors="black")
            axes.set(aspect="equal", title=f"{name.removesuffix('_pool')}, pair {pair}")
            axes.title.set_fontsize(8)
            axes.tick_params(labelsize=6)
    figure.savefig(path, dpi=110)
