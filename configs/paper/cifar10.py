"""The paper's LipConvnet-5 on CIFAR-10 with max pooling and LLN: its layers, its loss, its schedule, 200 epochs.

    python train.py --config=configs/paper/cifar10.py

The Taylor series of 6 terms in training and 15 in evaluation, with its fast gradients.  The paper (Table 1, column
"Previous", exact gradients): 76.68 % standard, 60.09 % certified at 36/255, 30.63 s an epoch on one RTX 2080 Ti
(25.34 s with the fast gradient and the curvature head).  Not run by us at this size.  At 8 channels and 4 epochs, on
CIFAR-10 (JPEG mirror): 48.74 % and 30.45 % (docs/results.md), and with the layers of lipjax
(--config.model.polynomial=equiripple) 55.99 % and 36.58 %, means of two seeds (docs/orthogonal.md).
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.polynomial = "taylor"
    return config
