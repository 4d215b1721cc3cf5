"""Pictures as inputs: a photograph that is always at hand, and a user's own files, read and prepared alike."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from conformance.cases.inputs import Input, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet's training pictures, on a scale where white is 1.

From `datasets/imagenet.lua` of facebook/fb.resnet.torch, computed from a random subset; torchvision, timm and
transformers took it over, so published weights expect it.
"""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue over ImageNet's training pictures; same source as `IMAGENET_MEAN`."""

RESIZED_TO_CROPPED = (256, 224)
"""Shorter side after resizing, and side of the crop from the centre; other sizes keep the proportion."""

LONGEST_TO_SHORTEST = 64
"""Largest ratio of sides that is resized whole; of a more elongated picture only the middle is used.

Resized whole, a picture of 1x100000 pixels would be gigabytes.
"""

SIXTEEN_BITS = (2**16 - 1,)
WHITE_LEVELS: dict[str, tuple[int, ...]] = {
    "I;16": SIXTEEN_BITS,
    "I;16B": SIXTEEN_BITS,
    "I;16L": SIXTEEN_BITS,
    "I;16N": SIXTEEN_BITS,
    "I": (2**8 - 1, 2**16 - 1, 2**31 - 1),
    "F": (1, 2**8 - 1, 2**16 - 1),
}
"""Pillow mode of more than 8 bits to the levels that may be white: the first that the brightest pixel does not exceed.

Files of 32-bit pixels do not say what is white, and few use all the bits. Black is 0.
"""

SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
"""File formats whose pixels Pillow reads into its 32-bit mode "I" though they have 16 bits, so that white is known."""


def photograph(size: int = 224) -> Input:
    """Load a real photograph, of Grace Hopper, which matplotlib ships, so that nothing is downloaded.

    Returns:
        An `Input` named "photograph", of shape (1, 3, size, size).

    Raises:
        InputError: If matplotlib was installed without its sample data, or `size` is not positive.

    Example:
        >>> photograph().images.shape
        (1, 3, 224, 224)
    """
    from matplotlib.cbook import get_sample_data

    path = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
    images = preprocess(read_picture(path), size)
    return Input("photograph", images, f"Grace Hopper, the sample photograph {path.name} that matplotlib ships")


def read_images(paths: Sequence[str | Path], size: int = 224) -> list[Input]:
    """Read a user's own pictures, prepared as the photograph is.

    Returns:
        One `Input` per path, in their order, of shape (1, 3, size, size). Its name is the file's; where two files have
        the same, the later one is numbered.

    Raises:
        InputError: If any of the files cannot be read as a picture; all of them are reported together. If `size` is not
            positive.

    Example:
        >>> read_images([Path("cat.png")])
        Traceback (most recent call last):
        ...
        conformance.cases.inputs.InputError: 1 of 1 images cannot be read
        cat.png: expected a picture that Pillow can read, got no readable file (No such file or directory)
    """
    images, problems = [], []
    for path in paths:
        try:
            picture = read_picture(Path(path))
        except InputError as error:
            problems.append(str(error))
        else:
            images.append(preprocess(picture, size))
    if problems:
        raise InputError("\n".join([f"{len(problems)} of {len(paths)} images cannot be read", *problems]))
    names = unique_names(paths)
    return [Input(name, image, f"the file {path}") for name, image, path in zip(names, images, paths, strict=True)]


def unique_names(paths: Sequence[str | Path]) -> Iterator[str]:
    """Yield each path's file name, with a number where another path has taken it.

    Example:
        >>> list(unique_names([Path("a/cat.png"), Path("b/cat.png"), Path("cat-2.png")]))
        ['cat.png', 'cat-3.png', 'cat-2.png']
    """
    own_names = {Path(path).name for path in paths}
    taken: set[str] = set()
    for path in map(Path, paths):
        name, number = path.name, 1
        while name in taken or (number > 1 and name in own_names):
            number += 1
            name = f"{path.stem}-{number}{path.suffix}"
        taken.add(name)
        yield name


def read_picture(path: Path) -> Image:
    """Read the picture in a file, upright, in RGB; of an animation the first frame.

    Raises:
        InputError: If the file is not there, not a picture, truncated or damaged, or so large in pixels that it may be
            an attack (Pillow's decompression bomb); the message says which.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading from a pipe might never end
            raise _refusal(path, "a directory" if path.is_dir() else "a pipe or a device")
        with path.open("rb") as file:
            first_bytes = file.read(8)
    except OSError as error:
        raise _refusal(path, f"no readable file ({error.strerror})") from error
    if not first_bytes:
        raise _refusal(path, "an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return to_rgb(to_eight_bits(ImageOps.exif_transpose(image), image.format))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _refusal(path, f"too many pixels ({error})") from error
    except UnidentifiedImageError as error:
        raise _refusal(path, f"a file that starts with {first_bytes!r}, as no known picture does") from error
    except InputError as error:
        raise _refusal(path, str(error)) from error
    except Exception as error:  # a decoder raises whatever it trips over: OSError, SyntaxError, zlib.error, IndexError
        raise _refusal(path, f"a truncated or damaged one ({error or type(error).__name__})") from error


def _refusal(path: Path, came: str) -> InputError:
    """The error for a file that is not a whole picture."""
    return InputError(f"{path}: expected a picture that Pillow can read, got {came}")


def to_eight_bits(image: Image, file_format: str | None = None) -> Image:
    """Scale a grey image of 16 or 32 bits to the 8 bits of mode "L"; return any other image as it is.

    Pillow's own conversion does not scale: it makes everything white that is above 255.

    Args:
        image: Of any mode.
        file_format: Pillow's name of the format that it was read from, if known; some formats tell what is white.

    Raises:
        InputError: If no level in `WHITE_LEVELS` is white for this image.
    """
    from PIL import Image

    mode = "I;16" if image.mode == "I" and file_format in SIXTEEN_BIT_FORMATS else image.mode
    if mode not in WHITE_LEVELS:
        return image
    pixels = np.asarray(image).astype(np.float64)
    brightest = pixels.max()  # NaN, where there is one: no level is at least NaN
    white = next((level for level in WHITE_LEVELS[mode] if brightest <= level), None)
    if white is None:
        raise InputError(f"pixels up to {brightest:g} where mode {mode} allows {WHITE_LEVELS[mode][-1]}")
    return Image.fromarray(np.rint(pixels.clip(0, white) * 255 / white).astype(np.uint8))


def to_rgb(image: Image) -> Image:
    """Convert an image to mode "RGB", over white where it is transparent.

    The one grey or colour that a 16-bit PNG may declare transparent counts as opaque: Pillow has lost its low bits.

    Args:
        image: Of any mode of at most 8 bits a channel.
    """
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")


def preprocess(picture: Image, size: int = 224) -> NDArray[np.float32]:
    """Turn a picture into what a network takes: resized, cropped from the centre, normalised as torchvision does.

    The shorter side becomes size * 256 / 224 (bilinear, antialiased), the centre of size x size stays.

    Args:
        picture: In mode "RGB", of any size.
        size: Side of the result.

    Returns:
        (1, 3, size, size) float32, C-contiguous.

    Raises:
        InputError: If `size` is not positive.
    """
    if size < 1:
        raise InputError(f"size must be positive, not {size}")
    pixels = np.asarray(_centre(_resized(_shortened(picture), size), size), dtype=np.float64)
    normalised = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[np.newaxis], dtype=np.float32)


def _shortened(picture: Image) -> Image:
    """Cut out the middle of a picture that is too elongated to resize; return any other as it is."""
    longest = LONGEST_TO_SHORTEST * min(picture.size)
    # As much goes on the left as on the right: the centre of the picture does not move.
    cut = [max(0, (side - longest) // 2) for side in picture.size]
    return picture.crop((cut[0], cut[1], picture.width - cut[0], picture.height - cut[1]))


def _resized(picture: Image, size: int) -> Image:
    """Resize a picture, in its own proportion, to the shorter side that a crop of `size` is taken from."""
    from PIL import Image

    resized, cropped = RESIZED_TO_CROPPED
    shorter = size * resized // cropped
    # Rounded down as torchvision does; half a pixel would move the whole picture.
    width, height = (int(shorter * side / min(picture.size)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _centre(picture: Image, size: int) -> Image:
    """Crop the size x size pixels in the middle of a picture, which has at least those."""
    left, top = (round((side - size) / 2) for side in picture.size)
    return picture.crop((left, top, left + size, top + size))
