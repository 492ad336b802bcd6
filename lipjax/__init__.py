"""Image classifiers with proven l2 robustness: layers that state their proof, certified heads, deterministic radii."""

from lipjax import layers, models, ops
from lipjax.models import LipConvnet, Network, Proven, certify, fold, prove

__all__ = ["LipConvnet", "Network", "Proven", "certify", "fold", "layers", "load_trained", "models", "ops", "prove"]


def __getattr__(name):
    """`load_trained` is imported when asked for: orbax and the datasets come with it."""
    if name == "load_trained":
        from lipjax.workdir import load_trained

        return load_trained
    raise AttributeError(f"module 'lipjax' has no attribute {name!r}")
