"""The networks whose training steps `python -m benchmarks.gpu` measures."""

from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from lipjax.config import default_config
from lipjax.configs import bronet_cifar10, lipnext_cifar10, liresnet_cifar10, liresnet_cifar10_small

_LIPCONVNET = {"model.patch": 1, "model.init_channels": 32}

# Their configs, and what differs in them; those first that take longest to compile.
NETWORKS: dict[str, tuple[ModuleType | None, dict[str, Any]]] = {
    "LiResNet, 12 × 512": (liresnet_cifar10, {}),
    "BRONet, 12 × 512": (bronet_cifar10, {}),
    "LipNeXt, 32 × 1024": (lipnext_cifar10, {}),
    "LiResNet, 8 × 128, curvature head, Muon": (
        liresnet_cifar10_small,
        {"model.width": 128, "model.depth": 8, "run.batch_size": 256},
    ),
    "LiResNet, 8 × 96": (
        liresnet_cifar10,
        {"model.width": 96, "model.depth": 8, "model.neck_width": 64, "model.dense_width": 256, "model.dense_depth": 2},
    ),
    "LipConvnet-20, 32 channels": (None, _LIPCONVNET | {"model.depth": 20}),
    "LipConvnet-5, 32 channels": (None, _LIPCONVNET),
    "LipConvnet-5, 32 channels, exact gradient": (None, _LIPCONVNET | {"model.gradient": "exact"}),
}


def config_of(network: str, **changes: Any) -> ConfigDict:
    """The config of one of NETWORKS, and other changes, by flattened keys."""
    module, own = NETWORKS[network]
    config = default_config()
    if module is not None:
        config.update(module.get_config())
    with config.ignore_type():
        config.update_from_flattened_dict(own | changes)
    return config
