"""LipNeXt on CIFAR-10 at the size of a CPU: 8×8 pixels of patches 4, 8 blocks of 128 channels.

    python train.py --config=configs/lipnext_cifar10_small.py

Orthogonal mixing and shifts of LipNeXt (arXiv 2601.18513), EMMA with a ramp of ε and a learned scale of the logits,
NAdam.  Not run by us for 20 epochs.  For 4 of CIFAR-10 (JPEG mirror; seed 0, no clipping, a tenth of the training
images held out and judged by the estimate of training): 49.38 % standard, 41.64 / 34.02 / 26.48 % certified at 36, 72
and 108 over 255; with an eighth of the channels shifted, as in the paper, 47.98 % and 40.08 / 32.32 / 24.66 %; with
half of them 49.20 % and 41.54 / 33.48 / 25.96 %.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model = {"name": "lipnext", "width": 128, "depth": 8, "patch": 4, "shift": 0.25}
    config.loss = {"name": "emma", "epsilon": 72 / 255, "ramp": 0.5, "trainable_scale": True}
    config.optimizer = {
        "name": "nadam",
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
        "clip_norm": 3.0,
        "schedule": {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.1},
    }
    config.run.epochs = 20
    return config
