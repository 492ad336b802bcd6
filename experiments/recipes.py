"""The recipes that are compared at equal cost, as changes of the default config of lipjax 0.1."""

from typing import Any

Changes = dict[str, Any]

ONE_CYCLE: Changes = {
    "optimizer.learning_rate": 0.2,
    "optimizer.schedule.name": "warmup_cosine_decay_schedule",
    "optimizer.schedule.warmup_steps": 0.15,
}


def emma(pixels: float) -> Changes:
    """EMMA with ε = pixels / 255."""
    return {"loss.name": "emma", "loss.epsilon": pixels / 255}


def sixteen(channels: int, epochs: int) -> Changes:
    """2×2 pixels become channels first, so that the network works at 16×16 and below."""
    return {"model.patch": 2, "model.init_channels": channels, "run.epochs": epochs}


# At U, the time of 4 epochs of the first one.
AT_U: dict[str, Changes] = {
    "cross entropy, SGD with drops (lipjax 0.1)": {},
    "EMMA 36, SGD with drops": emma(36),
    "EMMA 36, one-cycle": emma(36) | ONE_CYCLE,
    "EMMA 36, one-cycle, 16×16, 16 channels": emma(36) | ONE_CYCLE | sixteen(16, 8),
    "EMMA 36, one-cycle, 16×16, 24 channels": emma(36) | ONE_CYCLE | sixteen(24, 3),
    "EMMA 36, one-cycle, degree 2": emma(36) | ONE_CYCLE | {"model.degree": 2, "model.norm": 1.0, "run.epochs": 8},
}
