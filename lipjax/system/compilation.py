"""The persistent compilation cache: the second run of a command starts at once."""

import jax

from lipjax.system.files import cache_folder


def use_cache() -> None:
    """Keep compiled programs in xla/ of `cache_folder`, unless jax is told otherwise or there is none."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None and (folder := cache_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
