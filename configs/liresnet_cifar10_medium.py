"""LiResNet on CIFAR-10, 1.7 million parameters: that of liresnet_cifar10_small.py with 7 layers of 128 channels.

    python train.py --config=configs/liresnet_cifar10_medium.py

For a GPU: batches of 256, 50 epochs.  On CIFAR-10 (JPEG mirror), seed 0, 10,000 test images, proven: 72.92 % standard,
63.31 / 53.09 / 42.59 % certified at 36 / 72 / 108 over 255.  That training had two parts: on an H100 8,791 steps of
12 ms by the schedule of 64 epochs, until the time there was over, and on a CPU the last 959 by that of 50 epochs.
"""

from lipjax.configs import liresnet_cifar10_small


def get_config():
    config = liresnet_cifar10_small.get_config()
    config.model.width = 128
    config.model.depth = 7
    config.model.neck_width = 64
    config.run.batch_size = 256
    config.run.epochs = 50
    return config
