"""LipNeXt L32 W1024 on CIFAR-10 (arXiv 2601.18513): 32 blocks of 1024 channels.

    python train.py --config=configs/lipnext_cifar10.py

The paper: 81.5 % standard, 71.2 / 59.2 / 45.9 % certified at 36, 72 and 108 over 255, with 64M parameters; here R has
the columns that are shifted alone, which is the same function of 38M.  Not run by us at this size.

Published are the blocks, 32 of them, norms over space at the end, EMMA, and LiResNet's recipe: NAdam at 1e-3 without
decay, gradients clipped to 3, Lookahead, 20 epochs of warm-up, a cosine, ε growing to 3 · 36/255 in the first half.
Not published, and ours: patches of 2 pixels (16×16 of them), β = 1/2, 1/8 of the channels shifted, 800 epochs and
batches of 256 as for LiResNet and BRONet.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.model = {"name": "lipnext", "width": 1024, "depth": 32, "patch": 2, "compute_dtype": "bfloat16"}
    config.loss = {"name": "emma", "epsilon": 3 * 36 / 255, "ramp": 0.5}
    config.optimizer = {
        "name": "nadam",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "clip_norm": 3.0,
        "lookahead": 5,
        "schedule": {"name": "warmup_cosine_decay_schedule", "warmup_steps": 20 / 800},
    }
    config.run.batch_size = 256
    config.run.epochs = 800
    return config
