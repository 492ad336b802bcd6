"""LipConvnet-5 on CIFAR-10 with max pooling and LLN: the paper's recipe.

python train.py --config=configs/cifar10.py --config.data_dir=DIR
"""

from lipjax.config import default_config


def get_config():
    return default_config()
