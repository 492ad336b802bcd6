"""LipConvnet-5 with the curvature head on the UCI digits (8×8): the demo.

    python train.py --config=configs/digits.py

The images are small and centred: crops and flips would only lose certified accuracy.  The attack radius is the one at
which certified accuracy is to be high.

Measured (seed 0; the released network): 99.17 % standard and 81.94 % certified at 0.5 on the 360 test images, after
35 s of CPU time; on another machine 81.39 %.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "digits"
    config.data.crop_padding = 0
    config.data.flip = False
    config.data.affine = 0.15
    config.model.mean = (0.305,)
    config.model.std = 0.35
    config.model.init_channels = 8
    config.model.head = "crc"
    config.model.hidden = 256
    config.loss.name = "crc"
    config.optimizer.clip_norm = 1.0
    config.optimizer.learning_rate = 0.4
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.15}
    config.loss.attack_radius = 0.5
    config.loss.curvature_weight = 0.1
    config.run.epochs = 100
    config.run.batch_size = 64
    config.run.radii = "0.25,0.5,0.75,1.0"
    return config
