"""LipConvnet-5 on CIFAR-100 by the recipe of configs/cifar10.py, which was chosen on CIFAR-10 (docs/recipes.md).

    python train.py --config=configs/cifar100.py

Not run by us at this size.  The recipe of the paper is configs/paper/cifar100.py.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar100"
    config.model.patch = 2
    config.model.init_channels = 64
    config.loss = {"name": "emma", "epsilon": 36 / 255}
    config.optimizer.learning_rate = 0.2
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.15}
    return config
