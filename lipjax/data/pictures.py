"""Pictures from PNG, JPEG and WebP files, decoded by Pillow in parallel."""

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import tqdm
from PIL import Image, ImageOps

from lipjax.data.dataset import DataError, check_memory
from lipjax.data.options import DataOptions
from lipjax.system.memory import in_words

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")
# Of the side of a stored training image to that of the network's: 256 / 224, as is usual for ImageNet.
FACTOR = 8 / 7
_AT_ONCE = 1000  # items that wait for a thread
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


class Form(NamedTuple):
    """To what pictures are brought: (height, width), how (`DataOptions.fit`), channels; None: as they are."""

    size: tuple[int, int] | None = None
    fit: str = "crop"
    channels: int | None = None


def decoded(path: Path, form: Form) -> np.ndarray:
    """The picture of a file, (H, W, C) uint8.

    In this order: turned as its EXIF data say; palettes resolved; of 16 bits the upper 8 are kept; what is transparent
    laid over white; grey or RGB as `form.channels` says (None: C = 1 for grey pictures, 3 for others); resized with an
    antialiasing bicubic filter.  Of animations the first picture is taken; colour profiles are not applied.

    Raises:
      DataError: a file that is no such picture, or is damaged, by its name.
    """
    try:
        return decoded_file(path, form)
    except Exception as error:  # Pillow raises many types, of which SyntaxError and struct.error are two
        raise DataError(f"{path}: cannot be decoded as PNG, JPEG or WebP ({type(error).__name__}: {error})") from error


def decoded_file(file: Path | IO[bytes], form: Form) -> np.ndarray:
    """`decoded` of a path or an open file; raises whatever Pillow does."""
    with Image.open(file, formats=FORMATS) as opened:
        if "transparency" in opened.info and opened.mode != "P" and ";" in str(opened.tile[0][3]):
            raise ValueError("one colour of other than 8 bits is transparent (tRNS), which Pillow does not find")
        picture = _plain(ImageOps.exif_transpose(opened), form.channels)
    if form.size is not None:
        picture = _fitted(picture, form.size[::-1], form.fit)
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images (N, H, W, C) uint8 stretched to size, (height, width)."""
    found = np.empty((len(images), *size, images.shape[3]), np.uint8)

    def resize(index: int) -> None:
        for channel in range(images.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(images[index, :, :, channel]))
            found[index, :, :, channel] = np.asarray(plane.resize(size[::-1], Image.Resampling.BICUBIC))

    in_parallel(resize, range(len(images)), len(images), "resizing")
    return found


def _plain(picture: Image.Image, channels: int | None) -> Image.Image:
    """Of mode L or RGB."""
    channels = channels or (1 if picture.mode in _GREY else 3)
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"pixels from {values.min()} to {values.max()}; at most 16 bits are read")
        picture = Image.fromarray((values >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("L" if channels == 1 else "RGB")


def _fitted(picture: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    """Of the size (width, height)."""
    if fit == "stretch":
        return picture.resize(size, Image.Resampling.BICUBIC)
    return {"crop": ImageOps.fit, "pad": ImageOps.pad}[fit](picture, size, Image.Resampling.BICUBIC)


def stored_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which training images are kept for random crops that are resized to `size`."""
    height, width = (round(side * FACTOR) for side in size)
    return height, width


def forms_of(options: DataOptions) -> dict[str, Form]:
    """Of pictures for training, which are larger where random crops of them are resized, and for testing."""
    form = Form(options.size, options.fit, options.channels)
    if form.size is None or not options.resized_crop:
        return {"train": form, "test": form}
    return {"train": form._replace(size=stored_size(form.size)), "test": form}


def decode_into(images: np.ndarray, paths: Sequence[Path], form: Form, needed: str) -> None:
    """Decode so many files into images (N, H, W, C); a DataError names one of another shape, and says `needed`."""

    def decode(index: int) -> None:
        picture = decoded(paths[index], form)
        if picture.shape != images.shape[1:]:
            found, wanted = in_pixels(picture.shape), in_pixels(images.shape[1:])
            raise DataError(f"{paths[index]}: has {found}, needed: {wanted}{needed}")
        images[index] = picture

    in_parallel(decode, range(len(paths)), len(paths), "decoding")


def in_parallel(function: Callable[[Any], None], items: Iterable[Any], total: int, what: str) -> None:
    """Call a function that releases the interpreter's lock, in a thread a core, with a bar of progress."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with (
        ThreadPoolExecutor(cores) as pool,
        tqdm.tqdm(total=total, desc=what, unit=" images", disable=None, leave=False) as bar,
    ):
        waiting = iter(items)
        while block := list(itertools.islice(waiting, _AT_ONCE)):  # `map` takes all of its items at once
            for _ in pool.map(function, block):
                bar.update()


def in_pixels(shape: tuple[int, ...]) -> str:
    """(32, 48, 3) → '48×32 pixels of 3 channels', the width first."""
    return f"{shape[1]}×{shape[0]} pixels of {shape[2]} channel{'s' if shape[2] > 1 else ''}"


def tell_memory(what: str, size: int, say: Callable[[str], None]) -> None:
    """Say how much memory images will take; DataError if the machine has less."""
    say(f"{what}: {in_words(size)} of memory")
    check_memory(what, size)
