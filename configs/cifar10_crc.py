"""LipConvnet-5 on CIFAR-10 with projection pooling and the curvature head (CRC-Lip): the paper's recipe.

    python train.py --config=configs/cifar10_crc.py

ρ = 36/255 and γ = 0.5 (paper, section 7), gradients clipped to global norm 1.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.head = "crc"
    config.pooling = "projection"
    config.clip_norm = 1.0
    return config
