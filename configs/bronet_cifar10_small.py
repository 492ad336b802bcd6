"""BRONet on CIFAR-10, small: 4 reflectors of 64 channels at 16×16, 2 dense layers of 256, curvature head, 18 epochs.

    python train.py --config=configs/bronet_cifar10_small.py

Block reflectors (ICML 2025) in the network and by the recipe of configs/liresnet_cifar10_small.py.  Measured on
CIFAR-10 (JPEG mirror), seed 0, 10,000 test images, proven: 70.50 % standard, 61.26 / 51.05 / 41.82 % certified at 36 /
72 / 108 over 255, in 69 minutes on one CPU core beside other programs.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.name = "bronet"
    config.model.width = 64
    config.model.depth = 4
    config.model.dense_depth = 2
    config.model.head = "crc"
    config.model.hidden = 512
    config.loss.name = "emma"
    config.loss.epsilon = 108 / 255
    config.loss.ramp = 0.5
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.adam_learning_rate = 2e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 3.0
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.15}
    config.run.epochs = 18
    return config
