"""BRONet on CIFAR-10 at a small size: 6 reflectors of 64 channels at 16×16, 4 dense layers of 256, 30 epochs.

    python train.py --config=configs/bronet_cifar10_small.py

The recipe of configs/bronet_cifar10.py at the size and budget of the LiResNet of aaronbembenek/liresnet.  Not run by
us.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.name = "bronet"
    config.loss.name = "logit_annealing"
    config.loss.epsilon = 108 / 255
    config.optimizer.name = "nadam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 4e-5
    config.optimizer.clip_norm = 3.0
    config.optimizer.lookahead = 6
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 2 / 30}
    config.run.epochs = 30
    config.run.batch_size = 256
    return config
