"""What training minimises, by name; every ε is an l2 distance of images, pixels in [0, 1]."""

from lipjax.training.losses.crc import Crc
from lipjax.training.losses.cross_entropy import CrossEntropy, Offset
from lipjax.training.losses.emma import Emma
from lipjax.training.losses.hinge_kr import HingeKR
from lipjax.training.losses.logit_annealing import LogitAnnealing
from lipjax.training.losses.loss import Loss, Moment

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "offset": Offset,
    "emma": Emma,
    "logit_annealing": LogitAnnealing,
    "hinge_kr": HingeKR,
    "crc": Crc,
}

__all__ = ["LOSSES", "CrossEntropy", "Loss", "Moment"]
