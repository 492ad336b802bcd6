"""LiResNet on CIFAR-100, 0.80 million parameters: that of liresnet_cifar10_small.py with Muon, ε = 144/255.

    python train.py --config=configs/liresnet_cifar100_small.py

Muon, ε and the rate were chosen on 5,000 held-out training images (docs/recipes.md).  Measured on CIFAR-100, seed 0,
10,000 test images, proven against all 99 rivals: @@
"""

from lipjax.configs import liresnet_cifar10_small


def get_config():
    config = liresnet_cifar10_small.get_config()
    config.data.name = "cifar100"
    config.loss.epsilon = 144 / 255
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.adam_learning_rate = 2e-3
    return config
