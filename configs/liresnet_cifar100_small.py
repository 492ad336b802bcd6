"""LiResNet on CIFAR-100, 0.80 million parameters: that of liresnet_cifar10_small.py, 20 epochs.

    python train.py --config=configs/liresnet_cifar100_small.py

Muon, ε and the rate were chosen on 5,000 held-out training images (docs/recipes.md).  Measured on CIFAR-100, seed 0,
10,000 test images, proven against all 99 rivals: 46.68 % standard, 35.52 / 26.19 / 19.27 % certified at 36 / 72 / 108
over 255, after 84 minutes on two threads of one CPU core; with NAdam, ε = 72/255 and 24 epochs 45.19 and 33.86 / 24.22
/ 16.75 %, after 39 minutes on one core of a faster machine.
"""

from lipjax.configs import liresnet_cifar10_small


def get_config():
    config = liresnet_cifar10_small.get_config()
    config.data.name = "cifar100"
    config.run.epochs = 20
    return config
