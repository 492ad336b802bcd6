"""LiResNet of 83 million parameters on CIFAR-10: the published size, 12 layers of 512 channels, 8 dense ones of 2048.

    python train.py --config=configs/liresnet_cifar10.py

The recipe of the paper (Hu et al., NeurIPS 2023): EMMA with ε from 0.1 to 3 times 36/255 over the first half, NAdam at
1e-3, Lookahead, gradients clipped at 3, 20 epochs of warm-up and a cosine, 800 epochs.  Published without other images:
81.0 % standard and 69.8 / 56.3 / 42.9 % certified at 36 / 72 / 108 over 255, by power iteration and with RandAugment,
which is left out here; 87.0 and 78.1 / 66.6 / 53.5 % with 4 million generated ones, 768 to 256 real ones in each batch.
Not run by us at this size.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.name = "liresnet"
    config.model.width = 512
    config.model.depth = 12
    config.model.dense_width = 2048
    config.model.dense_depth = 8
    config.loss.name = "emma"
    config.loss.epsilon = 108 / 255
    config.loss.start = 1 / 30
    config.loss.ramp = 0.5
    config.optimizer.name = "nadam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 3.0
    config.optimizer.lookahead = 6
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 20 / 800}
    config.run.epochs = 800
    config.run.batch_size = 256
    return config
