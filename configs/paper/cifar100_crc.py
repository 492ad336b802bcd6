"""The paper's LipConvnet-5 on CIFAR-100 with projection pooling and the curvature head (CRC-Lip), 200 epochs.

    python train.py --config=configs/paper/cifar100_crc.py

ρ = 0.2 and γ = 0.75 (paper, section 7), gradients clipped to global norm 1.  The paper gives LipConvnet-5 in its
appendix only; for LipConvnet-15 (Table 4) it has 50.79 % standard and 37.50 % certified at 36/255, the latter against
the nine rivals of largest logit.  Not run by us at this size.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar100"
    config.model.polynomial = "taylor"
    config.model.head = "crc"
    config.model.pooling = "projection"
    config.loss.name = "crc"
    config.optimizer.clip_norm = 1.0
    config.loss.attack_radius = 0.2
    config.loss.curvature_weight = 0.75
    return config
