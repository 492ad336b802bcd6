"""LipConvnet-5 on CIFAR-100 with max pooling and LLN: the paper's recipe.

python train.py --config=configs/cifar100.py
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.dataset = "cifar100"
    return config
