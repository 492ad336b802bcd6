"""One's own pictures, a folder a class (docs/own_data.md): LipConvnet-5 with the curvature head, for some hundred.

    python train.py --config=configs/own_data.py --config.data.data_dir=pictures --workdir=runs/own
    python certify.py --workdir=runs/own

Pictures are brought to 32×32: config.data.image_size, a side or (height, width); how: config.data.fit.

Measured (seed 0): on 500 CIFAR-10 test pictures (JPEG mirror) of five classes, 100 of them held out, 58.00 % standard
and 51.00 % certified at 36/255, after 2 min 24 s of CPU time (2 cores).
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "folder"
    config.data.data_dir = "pictures"
    config.data.image_size = 32
    config.model.init_channels = 8
    config.model.head = "crc"
    config.loss.name = "crc"
    config.model.hidden = 64
    config.optimizer.clip_norm = 1.0
    config.loss.attack_radius = 36 / 255
    config.run.epochs = 40
    config.run.batch_size = 50
    return config
