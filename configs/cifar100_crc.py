"""LipConvnet-5 on CIFAR-100 with projection pooling and the curvature head (CRC-Lip): the paper's recipe.

    python train.py --config=configs/cifar100_crc.py

ρ = 0.2 and γ = 0.75 (paper, section 7), gradients clipped to global norm 1.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.dataset = "cifar100"
    config.head = "crc"
    config.pooling = "projection"
    config.clip_norm = 1.0
    config.attack_radius = 0.2
    config.curvature_weight = 0.75
    return config
