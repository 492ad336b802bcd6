"""The paper's LipConvnet-5 on CIFAR-10 with projection pooling and the curvature head (CRC-Lip), 200 epochs.

    python train.py --config=configs/paper/cifar10_crc.py

ρ = 36/255 and γ = 0.5 (paper, section 7), gradients clipped to global norm 1.  The paper (Table 1): 79.36 % standard,
67.13 % certified at 36/255, 25.34 s an epoch on one RTX 2080 Ti.  Not run by us at this size.  At 8
channels, 512 hidden units and 4 epochs, on CIFAR-10 (JPEG mirror): 51.72 % and 42.22 %; with the layers of lipjax
(--config.model.polynomial=equiripple) 50.62 % and 41.06 %, and 51.97 % and 41.98 % with
--config.optimizer.learning_rate=0.2 too; means of two seeds.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.polynomial = "taylor"
    config.model.head = "crc"
    config.model.pooling = "projection"
    config.loss.name = "crc"
    config.optimizer.clip_norm = 1.0
    return config
