"""LipConvnet-5 on CIFAR-10 with max pooling and LLN: the schedule of the paper, 200 epochs, 32 initial channels.

    python train.py --config=configs/cifar10.py

The paper (Table 1, column "Previous", exact gradients): 76.68 % standard, 60.09 % certified at 36/255, 30.63 s an epoch
on one RTX 2080 Ti (25.34 s with the fast gradient and the curvature head).  Not run by us at this size.  At 8 channels
and 4 epochs, on CIFAR-10 (JPEG mirror): 55.99 % and 36.58 %, mean of two seeds (docs/orthogonal.md);
with the paper's layers (--config.model.polynomial=taylor) 46.81 % and 30.80 % (seed 0).
"""

from lipjax.config import default_config


def get_config():
    return default_config()
