"""The persistent compilation cache: the second run of a command starts at once."""

import os
from pathlib import Path

import jax


def use_cache() -> None:
    """Keep compiled programs in $XDG_CACHE_HOME/lipjax/xla (~/.cache by default), unless jax is told otherwise."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lipjax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
