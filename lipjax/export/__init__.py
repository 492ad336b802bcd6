"""Networks for other programs: StableHLO, ONNX, torch, plain arrays, each with its certificate (docs/export.md)."""

from lipjax.export.run import FORMATS, export_run

__all__ = ["FORMATS", "export_run"]
