"""LiResNet on CIFAR-10, 0.75 million parameters: 4 layers of 64 channels, 2 dense of 256, curvature head, 24 epochs.

    python train.py --config=configs/liresnet_cifar10_small.py

The network of Hu et al. (NeurIPS 2023), small, with the head of Singla & Feizi (NeurIPS 2022), EMMA, whose ε grows over
the first half, Muon of the kernels and one cycle; ε and the rate were chosen on held-out images (docs/recipes.md).
Measured on CIFAR-10 (JPEG mirror), seed 0, 10,000 test images, proven: 70.56 % standard, 61.08 / 51.61 / 42.07 %
certified at 36 / 72 / 108 over 255, trained on one CPU core beside other programs; with NAdam and ε = 72/255 69.39 and
59.40 / 48.76 / 37.83 %, with that, model.head=lln and ε = 90/255 65.39 and 55.52 / 45.79 / 35.66 %.
aaronbembenek/liresnet publishes 59.98 % and 50.97 / 42.94 / 34.88 % of 0.82 million parameters after 30 epochs, by
power iteration and with RandAugment.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.name = "liresnet"
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
    config.run.epochs = 24
    return config
