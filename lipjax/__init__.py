"""Image classifiers with proven l2 robustness: layers that state their proof, certified heads, deterministic radii."""

from lipjax import data, layers, models, ops
from lipjax.models import LipConvnet, Network, Proven, bound, certify, fold, prove
from lipjax.system import versions

__all__ = ["LipConvnet", "Network", "Proven", "bound", "certify", "compare", "data", "fold", "layers"]
__all__ += ["load_pretrained", "load_trained", "models", "ops", "prove", "train"]

versions.warn()


def __getattr__(name):
    """These are imported when asked for: orbax comes with them, with `train` optax, with `compare` matplotlib."""
    if name == "compare":
        from lipjax.evaluation.compare import compare

        return compare
    if name == "__version__":
        from importlib import metadata

        return metadata.version("lipjax")
    if name == "load_pretrained":
        from lipjax.released import load_pretrained

        return load_pretrained
    if name == "load_trained":
        from lipjax.workdir import load_trained

        return load_trained
    if name == "train":
        from lipjax.training.loop import train

        return train
    raise AttributeError(f"module 'lipjax' has no attribute {name!r}")
