"""LipConvnet on the UCI digits.

    python train.py --config=configs/digits.py
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.dataset = "digits"
    config.crop_padding = 1
    config.flip = False
    config.mean = (0.305,)
    config.std = 0.25
    config.init_channels = 16
    config.epochs = 40
    config.batch_size = 64
    config.radii = "0.25,0.5,0.75,1.0"
    return config
