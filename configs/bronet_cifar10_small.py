"""BRONet on CIFAR-10, small: 4 reflectors of 64 channels at 16×16, 2 dense layers of 256, curvature head, 18 epochs.

    python train.py --config=configs/bronet_cifar10_small.py

Block reflectors (ICML 2025) in the network and by the recipe of configs/liresnet_cifar10_small.py.  Measured on
CIFAR-10 (JPEG mirror), seed 0, 10,000 test images, proven: 70.50 % standard, 61.26 / 51.05 / 41.82 % certified at 36 /
72 / 108 over 255; trained and certified in 69 minutes on one CPU core beside other programs.
"""

from lipjax.configs import liresnet_cifar10_small


def get_config():
    config = liresnet_cifar10_small.get_config()
    config.model.name = "bronet"
    config.run.epochs = 18
    return config
