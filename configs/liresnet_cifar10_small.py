"""LiResNet of 0.62 million parameters on CIFAR-10: 4 layers of 64 channels at 16×16, 2 dense ones of 256, 24 epochs.

    python train.py --config=configs/liresnet_cifar10_small.py

The network of Hu et al. (NeurIPS 2023), small, with EMMA, whose ε grows over the first half, NAdam and one cycle.
Measured on CIFAR-10 (JPEG mirror), seed 0, 10,000 test images, proven: 65.39 % standard, 55.52 / 45.79 / 35.66 %
certified at 36 / 72 / 108 over 255, after 41 minutes on one core of a busy CPU.  aaronbembenek/liresnet publishes
59.98 % and 50.97 / 42.94 / 34.88 % of 0.82 million parameters after 30 epochs, by power iteration and with RandAugment.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.name = "liresnet"
    config.model.width = 64
    config.model.depth = 4
    config.model.dense_depth = 2
    config.loss.name = "emma"
    config.loss.epsilon = 90 / 255
    config.loss.ramp = 0.5
    config.optimizer.name = "nadam"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 3.0
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.15}
    config.run.epochs = 24
    return config
