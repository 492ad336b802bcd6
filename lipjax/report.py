"""Figures of certificates."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lipjax.certificates import Certificate


def plot_certified_accuracy(path: Path, certificate: Certificate, labels: np.ndarray, title: str) -> None:
    """Write a PNG of certified accuracy against the l2 radius; at radius 0 the curve starts at standard accuracy."""
    radii = np.sort(certificate.radius[np.isfinite(certificate.radius)])
    # Certified accuracy is the fraction with radius > ε, a step function that falls at each image's own radius.
    accuracy = 1 - np.arange(1, len(radii) + 1) / len(certificate.radius)
    standard = float(np.mean(certificate.prediction == labels))
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.step(np.concatenate([[0.0], radii]), 100 * np.concatenate([[standard], accuracy]), where="post")
    axes.set(xlabel="l2 radius, pixels in [0, 1]", ylabel="certified accuracy, %", title=title)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
