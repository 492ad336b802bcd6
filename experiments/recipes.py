"""The recipes that are compared at equal cost, as changes of the default config of lipjax 0.1."""

from typing import Any

from ml_collections import ConfigDict

from experiments.methods import CIFAR100, CIFAR100_CRC, CONE, CRC, TAYLOR
from lipjax.config import default_config
from lipjax.configs import bronet_cifar10, cifar10, lipnext_cifar10, liresnet_cifar10
from lipjax.workdir import flattened

Changes = dict[str, Any]


def one_cycle(rate: float = 0.2) -> Changes:
    """The rate grows linearly in 15 % of the steps and falls to 0 as a cosine."""
    schedule = {"schedule.name": "warmup_cosine_decay_schedule", "schedule.warmup_steps": 0.15}
    return {"optimizer.learning_rate": rate} | {f"optimizer.{key}": value for key, value in schedule.items()}


def adaptive(name: str, rate: float) -> Changes:
    """Another optimiser of optax, with its own rate and no weight decay."""
    return one_cycle(rate) | {"optimizer.name": name, "optimizer.weight_decay": 0.0}


def loss(name: str, pixels: float, **options: Any) -> Changes:
    """A loss of margins with ε = pixels / 255."""
    return {"loss.name": name, "loss.epsilon": pixels / 255} | {f"loss.{key}": value for key, value in options.items()}


def patches(side: int, channels: int, epochs: int) -> Changes:
    """side × side pixels become channels first: of 2×2 the network works at 16×16 and below."""
    return {"model.patch": side, "model.init_channels": channels, "run.epochs": epochs}


_EMMA, _SMALL = loss("emma", 36), patches(2, 16, 8)

# At U, the time of 4 epochs of the first one: one thing after the other is changed.
AT_U: dict[str, Changes] = {
    "lipjax 0.1: cross entropy, SGD with drops": {},
    "EMMA, SGD with drops": _EMMA,
    "EMMA, one-cycle": _EMMA | one_cycle(),
    "EMMA, one-cycle, 16×16": _EMMA | one_cycle() | _SMALL,
    "EMMA, one-cycle, 8×8": _EMMA | one_cycle() | patches(4, 32, 12),
    "EMMA, one-cycle, 16×16, rate 0.1": _EMMA | one_cycle(0.1) | _SMALL,
    "EMMA, one-cycle, 16×16, rate 0.4": _EMMA | one_cycle(0.4) | _SMALL,
    "EMMA, one-cycle, 16×16, batch 64, rate 0.1": _EMMA | one_cycle(0.1) | _SMALL | {"run.batch_size": 64},
    "EMMA, one-cycle, 16×16, batch 256": _EMMA | one_cycle() | patches(2, 16, 9) | {"run.batch_size": 256},
    "EMMA, one-cycle, 16×16, NAdam": _EMMA | adaptive("nadam", 2e-3) | _SMALL,
    "EMMA, one-cycle, 16×16, Muon": _EMMA | adaptive("muon", 2e-2) | _SMALL,
    "EMMA, one-cycle, 16×16, no weight decay": _EMMA | one_cycle() | _SMALL | {"optimizer.weight_decay": 0.0},
    "EMMA, one-cycle, 16×16, learned scale": loss("emma", 36, trainable_scale=True) | one_cycle() | _SMALL,
    "EMMA, one-cycle, 16×16, 24 channels": _EMMA | one_cycle() | patches(2, 24, 3),
    "EMMA, one-cycle, 16×16, LipConvnet-10": _EMMA | one_cycle() | patches(2, 16, 4) | {"model.depth": 10},
    "EMMA, one-cycle, 16×16, degree 3 at norm 1.4": _EMMA
    | one_cycle()
    | patches(2, 16, 10)
    | {"model.degree": 3, "model.norm": 1.4},
    "EMMA, one-cycle, 16×16, curvature head": _EMMA
    | one_cycle()
    | _SMALL
    | {"model.head": "crc", "optimizer.clip_norm": 1.0},
}

# The network and optimiser that were best above, each loss at several ε.
DIAL: dict[str, Changes] = {
    "cross entropy": one_cycle() | _SMALL,
    **{f"EMMA, ε = {pixels}/255": loss("emma", pixels) | one_cycle() | _SMALL for pixels in (18, 36, 72, 108)},
    **{f"offset, ε = {pixels}/255": loss("offset", pixels) | one_cycle() | _SMALL for pixels in (36, 72, 144)},
    **{
        f"logit annealing, ε = {pixels}/255": loss("logit_annealing", pixels) | one_cycle() | _SMALL
        for pixels in (45, 90)
    },
}


def liresnet(width: int, pixels: float, epochs: int, name: str = "liresnet") -> Changes:
    """Four convolutions of LiResNet or BRONet and two dense layers of 256, with the optimiser of its authors."""
    network = {"model.name": name, "model.width": width, "model.depth": 4, "model.dense_depth": 2}
    more = {"optimizer.clip_norm": 3.0, "run.epochs": epochs}
    return network | loss("emma", pixels, ramp=0.5) | adaptive("nadam", 2e-3) | more


def muon(rate: float = 2e-2) -> Changes:
    """Muon of the kernels, NAdam's rate of the rest."""
    return {"optimizer.name": "muon", "optimizer.learning_rate": rate, "optimizer.adam_learning_rate": 2e-3}


_CURVATURE: Changes = {"model.head": "crc", "model.hidden": 512}


def lipnext(pixels: float, epochs: int) -> Changes:
    """Eight blocks of 128 channels at 8×8, with the optimiser of its authors."""
    network = {"model.name": "lipnext", "model.width": 128, "model.depth": 8, "model.shift": 0.25}
    return (
        network
        | loss("emma", pixels, ramp=0.5, trainable_scale=True)
        | adaptive("nadam", 3e-3)
        | {"run.epochs": epochs}
    )


# The architectures, each with the optimiser of its authors, at about U.
NETWORKS: dict[str, Changes] = {
    "LipConvnet-5, 16×16": _EMMA | one_cycle() | _SMALL,
    "LiResNet, 4 layers of 32 channels": liresnet(32, 72, 8),
    "LiResNet, curvature head": liresnet(32, 72, 8) | _CURVATURE,
    "LiResNet, curvature head, Muon": liresnet(32, 72, 8) | _CURVATURE | muon(),
    "LiResNet, curvature head, Muon, ε = 144/255": liresnet(32, 144, 8) | _CURVATURE | muon(),
    "LiResNet, curvature head, Muon, ε = 90/255, rate 0.01": liresnet(32, 90, 8) | _CURVATURE | muon(1e-2),
    "LiResNet, curvature head, Muon, ε = 108/255, rate 0.01": liresnet(32, 108, 8) | _CURVATURE | muon(1e-2),
    "LiResNet, curvature head, Muon, ε = 90/255, rate 0.005": liresnet(32, 90, 8) | _CURVATURE | muon(5e-3),
    "LipNeXt, 8 blocks of 128 channels": lipnext(72, 7),
    "BRONet, 4 layers of 32 channels": liresnet(32, 72, 7, "bronet"),
    "BRONet, curvature head, Muon, ε = 108/255, rate 0.01": liresnet(32, 108, 7, "bronet") | _CURVATURE | muon(1e-2),
}

# With 100 classes, each with a curvature head: eight epochs.
_LIRESNET_100 = CIFAR100 | liresnet(32, 72, 8) | _CURVATURE
_MUON_100 = _LIRESNET_100 | loss("emma", 108, ramp=0.5) | muon(1e-2)
_BRONET_100 = _MUON_100 | {"model.name": "bronet", "run.epochs": 7}
NETWORKS_100: dict[str, Changes] = {
    "LiResNet, 4 layers of 32 channels, ε = 72/255": _LIRESNET_100,
    "the same with Muon": _LIRESNET_100 | muon(),
    "the same with Muon, ε = 108/255": _LIRESNET_100 | loss("emma", 108, ramp=0.5) | muon(),
    "the same with Muon, ε = 144/255": _LIRESNET_100 | loss("emma", 144, ramp=0.5) | muon(),
    "the same with Muon, ε = 144/255, rate 0.01": _LIRESNET_100 | loss("emma", 144, ramp=0.5) | muon(1e-2),
    "the same with Muon, ε = 108/255, rate 0.01": _MUON_100,
    "the same with Muon, ε = 72/255, rate 0.01": _LIRESNET_100 | muon(1e-2),
    "the same with Muon, ε = 90/255, rate 0.04": _LIRESNET_100 | loss("emma", 90, ramp=0.5) | muon(4e-2),
    "the same with ε = 36/255": _LIRESNET_100 | loss("emma", 36, ramp=0.5),
    "the same with ε = 144/255": _LIRESNET_100 | loss("emma", 144, ramp=0.5),
    "BRONet, 4 layers of 32 channels, ε = 72/255": CIFAR100 | liresnet(32, 72, 7, "bronet") | _CURVATURE,
    "BRONet with Muon, ε = 108/255, rate 0.01": _BRONET_100,
    "LipNeXt, 8 blocks of 128 channels, ε = 72/255": CIFAR100 | lipnext(72, 7) | _CURVATURE,
    "LipConvnet-5, 16×16, ε = 36/255": CIFAR100
    | _EMMA
    | one_cycle()
    | _SMALL
    | _CURVATURE
    | {"optimizer.clip_norm": 1.0},
}

# What was chosen, on the test split: read once, at the end.
BEST: dict[str, Changes] = {
    "lipjax 0.1, U": {},
    "EMMA, ε = 36/255, U": _EMMA | one_cycle() | _SMALL,
    "EMMA, ε = 108/255, U": loss("emma", 108) | one_cycle() | _SMALL,
    "EMMA, ε = 54/255, 24 channels, 10 U": loss("emma", 54) | one_cycle() | patches(2, 24, 32),
    "LiResNet, 4 layers of 32 channels, ε = 72/255, U": liresnet(32, 72, 8),
    "LiResNet, 4 layers of 32 channels, curvature head, ε = 72/255, U": liresnet(32, 72, 8) | _CURVATURE,
    "LiResNet, 4 layers of 64 channels, ε = 90/255, 10 U": liresnet(64, 90, 24),
    "LiResNet, 4 layers of 64 channels, curvature head, ε = 72/255, 10 U": liresnet(64, 72, 24) | _CURVATURE,
    "LiResNet, 4 layers of 64 channels, curvature head, Muon, ε = 108/255, 11 U": liresnet(64, 108, 24)
    | _CURVATURE
    | muon(1e-2),
    "LipNeXt, 8 blocks of 128 channels, ε = 90/255, 48 epochs": lipnext(90, 48),
    "BRONet, 4 layers of 64 channels, curvature head, Muon, ε = 108/255, 10 U": liresnet(64, 108, 18, "bronet")
    | _CURVATURE
    | muon(1e-2),
}

# CIFAR-100, exact pixels: the paper's recipe with its curvature head, in fewer epochs as they are longer, and ours.
BEST_100: dict[str, Changes] = {
    "the paper, CRC-Lip, U": CIFAR100 | CIFAR100_CRC | CRC | CONE | TAYLOR | {"run.epochs": 3},
    "EMMA, ε = 36/255, U": CIFAR100 | _EMMA | one_cycle() | _SMALL,
    "the paper, CRC-Lip, 10 U": CIFAR100 | CIFAR100_CRC | CRC | CONE | TAYLOR | {"run.epochs": 30},
    "LiResNet, 4 layers of 64 channels, ε = 72/255, 10 U": CIFAR100 | liresnet(64, 72, 24),
    "LiResNet, 4 layers of 32 channels, ε = 72/255, U": CIFAR100 | liresnet(32, 72, 8),
    "LiResNet, 4 layers of 32 channels, curvature head, ε = 72/255, 1.4 U": _LIRESNET_100,
    "LiResNet, 4 layers of 64 channels, curvature head, ε = 72/255, 10 U": CIFAR100 | liresnet(64, 72, 24) | _CURVATURE,
    "LiResNet, 4 layers of 32 channels, curvature head, Muon, ε = 108/255, 1.5 U": _MUON_100,
    "LiResNet, 4 layers of 64 channels, curvature head, Muon, ε = 108/255, 10 U": _MUON_100
    | {"model.width": 64, "run.epochs": 20},
    "BRONet, 4 layers of 64 channels, curvature head, Muon, ε = 108/255, 9 U": _BRONET_100
    | {"model.width": 64, "run.epochs": 17},
    "LipNeXt, 8 blocks of 128 channels, curvature head, ε = 72/255, 10 U": CIFAR100 | lipnext(72, 64) | _CURVATURE,
}


def of_config(config: ConfigDict) -> Changes:
    """The changes that make it of the default config."""
    default = flattened(default_config().to_dict())
    return {key: value for key, value in flattened(config.to_dict()).items() if default.get(key) != value}


# The architectures at the sizes and by the recipes of their papers; of LipConvnet the recipe of configs/cifar10.py too.
PUBLISHED: dict[str, Changes] = {
    "LipConvnet-5, the paper": CRC | CONE | TAYLOR,
    "LipConvnet-20, the paper": CRC | CONE | TAYLOR | {"model.depth": 20},
    "LipConvnet-40, the paper": CRC | CONE | TAYLOR | {"model.depth": 40},
    "LipConvnet-5, configs/cifar10.py": of_config(cifar10.get_config()),
    "LiResNet, 12 × 512": of_config(liresnet_cifar10.get_config()),
    "BRONet, 12 × 512": of_config(bronet_cifar10.get_config()),
    "LipNeXt, 32 × 1024": of_config(lipnext_cifar10.get_config()),
}
