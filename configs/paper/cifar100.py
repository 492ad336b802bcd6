"""The paper's LipConvnet-5 on CIFAR-100 with max pooling and LLN: its layers, its loss, its schedule, 200 epochs.

    python train.py --config=configs/paper/cifar100.py

The paper gives LipConvnet-5 in its appendix only; for LipConvnet-15 with fast gradients (Table 4) it has 47.97 %
standard and 33.84 % certified at 36/255.  Not run by us at this size.
"""

from lipjax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar100"
    config.model.polynomial = "taylor"
    return config
