"""LipConvnet-5 on CIFAR-10 by the recipe of docs/recipes.md for it, at the paper's width.

    python train.py --config=configs/cifar10.py

2×2 pixels become channels first, the loss is EMMA with ε = 36/255, and the rate grows in 15 % of the steps and falls as
a cosine.  Not run by us at this size.  LiResNet does better in the same time: configs/liresnet_cifar10_small.py.  The
recipe of the paper is configs/paper/cifar10.py.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.patch = 2
    config.model.init_channels = 64
    config.loss = {"name": "emma", "epsilon": 36 / 255}
    config.optimizer.learning_rate = 0.2
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.15}
    return config
