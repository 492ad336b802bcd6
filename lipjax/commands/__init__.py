"""The commands lipjax-train and lipjax-certify: flags, help, and errors in one line."""

import logging

# It warns where it finds no folder for its cache, which `system.files.cache_folder` has told.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
