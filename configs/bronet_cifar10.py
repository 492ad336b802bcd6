"""BRONet of 68 million parameters on CIFAR-10, the published size: 12 reflectors of 512 channels, 8 dense of 2048.

    python train.py --config=configs/bronet_cifar10.py

The recipe of the paper (ICML 2025): logit annealing with T = 0.75 and β = 5, NAdam at 1e-3 with decay 4e-5, Lookahead,
gradients clipped at 3, 20 epochs of warm-up and a cosine, batches of 256, 800 epochs.  Its loss has ξ = 2 in units of
logits, after a shift by EMMA; here ξ = √2 ε Lip with ε = 108/255, the end of its ramp.  Not run by us at this size.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model.name = "bronet"
    config.model.width = 512
    config.model.depth = 12
    config.model.dense_width = 2048
    config.model.dense_depth = 8
    config.loss.name = "logit_annealing"
    config.loss.epsilon = 108 / 255
    config.optimizer.name = "nadam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 4e-5
    config.optimizer.clip_norm = 3.0
    config.optimizer.lookahead = 6
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 20 / 800}
    config.run.epochs = 800
    config.run.batch_size = 256
    return config
