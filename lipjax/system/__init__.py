"""The machine: devices, processes, signals, compilation, progress, files.  Knows no theorem."""
