"""LiResNet of 0.82 million parameters on CIFAR-10: 6 layers of 64 channels at 16×16, 4 dense ones of 256, 30 epochs.

    python train.py --config=configs/liresnet_cifar10_small.py

The recipe of the paper (Hu et al., NeurIPS 2023) at the size that aaronbembenek/liresnet publishes: EMMA with ε from
0.1 to 3 times 36/255 over the first half, NAdam at 1e-3, Lookahead, gradients clipped at 3, 2 epochs of warm-up and a
cosine.  There: 59.98 % standard and 50.97 / 42.94 / 34.88 % certified at 36 / 72 / 108 over 255, by power iteration,
with RandAugment, which is left out here.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.name = "liresnet"
    config.loss.name = "emma"
    config.loss.epsilon = 108 / 255
    config.loss.start = 1 / 30
    config.loss.ramp = 0.5
    config.optimizer.name = "nadam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 3.0
    config.optimizer.lookahead = 6
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 2 / 30}
    config.run.epochs = 30
    config.run.batch_size = 256
    return config
