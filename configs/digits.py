"""LipConvnet-5 on the UCI digits (8×8), LLN: the demo.

    python train.py --config=configs/digits.py

The images are small and centred, so crops and flips would only lose certified accuracy; a larger std than the data's
keeps the logits small, so that the loss goes on widening margins.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.dataset = "digits"
    config.crop_padding = 0
    config.flip = False
    config.mean = (0.305,)
    config.std = 0.35
    config.init_channels = 8
    config.epochs = 100
    config.batch_size = 64
    config.learning_rate = 0.5
    config.radii = "0.25,0.5,0.75,1.0"
    return config
