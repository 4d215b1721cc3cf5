"""Pictures: every one is read, or refused with a clear message; the photograph is torchvision's to the last digits."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conformance.cases.inputs import InputError
from conformance.cases.pictures import IMAGENET_MEAN, IMAGENET_STD, photograph, preprocess, read_images, unique_names

SIZE = 56
SIDE = 64
"""A picture of 64x64 is not resized for a crop of 56x56: each pixel of the result is one of the file's."""
MARGIN = (SIDE - SIZE) // 2

RAMP = np.tile(np.arange(SIDE, dtype=np.uint8) * 4 + 3, (SIDE, 1))
"""Greys from 3 to 255, left to right."""
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)
"""A picture that no rotation, reflection or swap of channels leaves as it is."""
EXIF_ORIENTATION = 0x0112
LEFT_ARE_TRANSPARENT = np.where(np.arange(SIDE) < SIDE // 2, 0, 255).astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    """The (56, 56, 3) 8-bit pixels that a 64x64 picture became, its normalisation undone."""
    (read,) = read_images([path], SIZE)
    assert read.images.shape == (1, 3, SIZE, SIZE)
    exact = (read.images[0].transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN) * 255
    np.testing.assert_allclose(exact, exact.round(), atol=1e-4)
    return exact.round().astype(int)


def crop(picture: np.ndarray) -> np.ndarray:
    """The centre of a (64, 64) or (64, 64, 3) picture, with three channels."""
    picture = np.broadcast_to(picture[..., np.newaxis], (SIDE, SIDE, 3)) if picture.ndim == 2 else picture
    return picture[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(int)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def grey_bits(image: np.ndarray, path: Path, **chunks: bytes) -> Path:
    """A PNG of 16-bit greys written by hand, so that no library's idea of its white is tested against itself."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, 0, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
            for name, data in parts.items()
        )
    )
    return path


class TestPhotograph:
    def test_is_one_normalised_image(self) -> None:
        made = photograph()
        assert made.name == "photograph"
        assert made.images.shape == (1, 3, 224, 224)
        assert made.images.dtype == np.float32
        assert made.images.flags.c_contiguous
        assert "Grace Hopper" in made.source
        assert "\n" not in made.source

    def test_has_the_brightness_and_contrast_of_a_photograph(self) -> None:
        images = photograph().images
        assert images.mean() == pytest.approx(-0.495, abs=0.01)
        assert images.std() == pytest.approx(1.288, abs=0.01)
        assert -2.12 < images.min() < -1.9
        assert 2.4 < images.max() < 2.65

    def test_takes_a_size(self) -> None:
        assert photograph(65).images.shape == (1, 3, 65, 65)

    def test_agrees_with_torchvision(self) -> None:
        from matplotlib.cbook import get_sample_data

        with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
            np.testing.assert_allclose(photograph().images, torchvision_preprocess(image), rtol=0, atol=1e-6)


def torchvision_preprocess(image: Image.Image) -> np.ndarray:
    from torchvision import transforms

    steps = [
        transforms.Resize(256, antialias=True),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    return transforms.Compose(steps)(image).numpy()[np.newaxis]


class TestPreprocess:
    @pytest.mark.parametrize(
        ("height", "width"), [(64, 64), (224, 224), (256, 301), (480, 321), (33, 35), (1000, 17), (12, 700)]
    )
    def test_agrees_with_torchvision_at_any_size(self, height: int, width: int) -> None:
        values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(values)
        np.testing.assert_allclose(preprocess(image), torchvision_preprocess(image), rtol=0, atol=1e-6)

    def test_normalises_by_imagenet_mean_and_deviation(self) -> None:
        images = preprocess(Image.new("RGB", (8, 8), (255, 0, 51)), 7)
        expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
        np.testing.assert_allclose(images, np.reshape(expected, (1, 3, 1, 1)) * np.ones((1, 3, 7, 7)), rtol=1e-6)
        assert images.dtype == np.float32
        assert images.flags.c_contiguous

    def test_one_pixel_fills_the_image(self) -> None:
        images = preprocess(Image.new("RGB", (1, 1), (255, 255, 255)))
        assert images.shape == (1, 3, 224, 224)
        np.testing.assert_allclose(images[0, 0], (1 - 0.485) / 0.229, rtol=1e-6)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_an_extremely_elongated_picture_shows_its_middle(self, axis: int) -> None:
        """Black before, white after the middle, 25000 times longer than wide; whole, it would become 5 GB of pixels."""
        line = np.repeat(np.uint8([0, 255]), 50_000).reshape((1, -1) if axis else (-1, 1)).repeat(4, axis=1 - axis)
        image = Image.fromarray(line).convert("RGB")
        images = np.moveaxis(preprocess(image)[0], axis + 1, -1)  # (channels, across, along)
        np.testing.assert_allclose(images[0, :, 0], -0.485 / 0.229, rtol=1e-6)
        np.testing.assert_allclose(images[0, :, -1], (1 - 0.485) / 0.229, rtol=1e-6)
        np.testing.assert_allclose(images[0, :, 111] + images[0, :, 112], (1 - 2 * 0.485) / 0.229, atol=0.03)

    @pytest.mark.parametrize("sides", [(100_000, 1), (1, 100_000), (1, 65), (2, 1)])
    def test_a_line_of_single_pixels_fills_the_image(self, sides: tuple[int, int]) -> None:
        images = preprocess(Image.new("RGB", sides, (255, 255, 255)))
        np.testing.assert_allclose(images[:, 0], np.full((1, 224, 224), (1 - 0.485) / 0.229), rtol=1e-6)

    @pytest.mark.parametrize("size", [1, 2, 7, 65, 225])
    def test_every_size_is_reached(self, size: int) -> None:
        assert preprocess(Image.new("RGB", (40, 30)), size).shape == (1, 3, size, size)

    @pytest.mark.parametrize("size", [0, -224])
    def test_refuses_a_size_that_no_image_has(self, size: int) -> None:
        with pytest.raises(InputError, match=f"size must be positive, not {size}"):
            preprocess(Image.new("RGB", (4, 4)), size)


class TestPictureModes:
    def test_rgb(self, tmp_path: Path) -> None:
        path = saved(Image.fromarray(COLOURS), tmp_path / "a.png")
        np.testing.assert_array_equal(pixels(path), crop(COLOURS))

    def test_grey(self, tmp_path: Path) -> None:
        path = saved(Image.fromarray(RAMP), tmp_path / "a.png")
        np.testing.assert_array_equal(pixels(path), crop(RAMP))

    def test_one_bit(self, tmp_path: Path) -> None:
        path = saved(Image.fromarray(RAMP > 127), tmp_path / "a.png")
        with Image.open(path) as image:
            assert image.mode == "1"
        np.testing.assert_array_equal(pixels(path), crop(np.where(RAMP > 127, 255, 0)))

    def test_palette(self, tmp_path: Path) -> None:
        image = Image.fromarray(COLOURS).quantize(64)
        path = saved(image, tmp_path / "a.png")
        np.testing.assert_array_equal(pixels(path), crop(np.asarray(image.convert("RGB"))))

    @pytest.mark.parametrize("transparency", [2, b"\xff\xff\x00", b"\xff\xff\x80"], ids=["index", "bytes", "half"])
    def test_palette_with_transparency_is_over_white(self, tmp_path: Path, transparency: int | bytes) -> None:
        image = Image.fromarray((RAMP // 86).astype(np.uint8), "L")
        image.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
        path = saved(image, tmp_path / "a.png", transparency=transparency)
        with Image.open(path) as opened:
            assert opened.mode == "P"
        last = [127, 127, 152] if transparency == b"\xff\xff\x80" else [255, 255, 255]
        palette = np.array([[200, 0, 0], [0, 100, 0], last])
        np.testing.assert_array_equal(pixels(path), crop(palette[RAMP // 86]))

    @pytest.mark.parametrize("file_format", ["png", "webp", "tiff"])
    def test_rgba_is_over_white(self, tmp_path: Path, file_format: str) -> None:
        alpha = np.broadcast_to(LEFT_ARE_TRANSPARENT, (SIDE, SIDE))
        image = Image.fromarray(np.dstack([COLOURS, alpha]))
        path = saved(image, tmp_path / f"a.{file_format}", **({"lossless": True} if file_format == "webp" else {}))
        with Image.open(path) as opened:
            assert opened.mode == "RGBA"
        expected = np.where(alpha[..., np.newaxis] == 0, 255, COLOURS)
        np.testing.assert_array_equal(pixels(path), crop(expected))

    def test_half_transparent_black_is_grey(self, tmp_path: Path) -> None:
        path = saved(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 128)), tmp_path / "a.png")
        assert np.unique(pixels(path)).tolist() == [127]

    def test_grey_with_alpha_is_over_white(self, tmp_path: Path) -> None:
        alpha = np.broadcast_to(LEFT_ARE_TRANSPARENT, (SIDE, SIDE))
        path = saved(Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(alpha.copy())]), tmp_path / "a.png")
        np.testing.assert_array_equal(pixels(path), crop(np.where(alpha == 0, 255, RAMP)))

    def test_a_transparent_colour_is_white(self, tmp_path: Path) -> None:
        grey = saved(Image.fromarray(RAMP), tmp_path / "grey.png", transparency=int(RAMP[0, 20]))
        colour = saved(Image.fromarray(COLOURS), tmp_path / "rgb.png", transparency=tuple(COLOURS[20, 20].tolist()))
        expected_colour = COLOURS.copy()
        expected_colour[20, 20] = 255
        np.testing.assert_array_equal(pixels(grey), crop(np.where(np.equal(RAMP, RAMP[0, 20]), 255, RAMP)))
        np.testing.assert_array_equal(pixels(colour), crop(expected_colour))

    def test_cmyk(self, tmp_path: Path) -> None:
        image = Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0))
        image.paste((255, 0, 0, 0), (SIDE // 2, 0, SIDE, SIDE))
        path = saved(image, tmp_path / "a.jpg", quality=100, subsampling=0)
        with Image.open(path) as opened:
            assert opened.mode == "CMYK"
        read = pixels(path)
        np.testing.assert_allclose(read[:, : SIZE // 2 - 8], np.broadcast_to([255, 0, 0], (SIZE, 20, 3)), atol=4)
        np.testing.assert_allclose(read[:, SIZE // 2 + 8 :], np.broadcast_to([0, 255, 255], (SIZE, 20, 3)), atol=4)

    @pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
    def test_other_colour_spaces_keep_grey_grey(self, tmp_path: Path, mode: str) -> None:
        """Half as light, without colour; what middle grey is differs a little between the two spaces."""
        path = saved(Image.merge(mode, [Image.new("L", (SIDE, SIDE), 128)] * 3), tmp_path / "a.tiff")
        np.testing.assert_allclose(pixels(path), 124, atol=6)

    def test_sixteen_bits_are_scaled_to_eight(self, tmp_path: Path) -> None:
        path = grey_bits(RAMP.astype(int) * 257, tmp_path / "a.png")
        np.testing.assert_array_equal(pixels(path), crop(RAMP))

    def test_sixteen_bits_are_rounded_to_the_nearest_eight(self, tmp_path: Path) -> None:
        noisy = np.clip(RAMP.astype(int) * 257 + np.resize([-128, 128], SIDE), 0, 65535)
        path = grey_bits(noisy, tmp_path / "a.png")
        np.testing.assert_array_equal(pixels(path), crop(RAMP))

    def test_dark_sixteen_bits_stay_dark(self, tmp_path: Path) -> None:
        """White is what the file format says, not what its brightest pixel is."""
        path = grey_bits(np.full((SIDE, SIDE), 200), tmp_path / "a.png")
        assert np.unique(pixels(path)).tolist() == [1]

    @pytest.mark.parametrize("mode", ["I;16", "I;16B"])
    def test_sixteen_bit_tiff(self, tmp_path: Path, mode: str) -> None:
        values = (RAMP.astype(int) * 257).astype("<u2" if mode == "I;16" else ">u2")
        path = saved(Image.frombytes(mode, (SIDE, SIDE), values.tobytes()), tmp_path / "a.tiff")
        np.testing.assert_array_equal(pixels(path), crop(RAMP))

    def test_sixteen_bit_pgm(self, tmp_path: Path) -> None:
        (tmp_path / "a.pgm").write_bytes(b"P5 64 64 65535\n" + (RAMP.astype(int) * 257).astype(">u2").tobytes())
        (tmp_path / "dark.pgm").write_bytes(b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes())
        np.testing.assert_array_equal(pixels(tmp_path / "a.pgm"), crop(RAMP))
        assert pixels(tmp_path / "dark.pgm").max() == 1

    @pytest.mark.parametrize("white", [255, 65535, 2**31 - 1])
    def test_thirty_two_bits_are_scaled_by_the_bits_that_they_use(self, tmp_path: Path, white: int) -> None:
        values = np.rint(RAMP * (white / 255)).astype(np.int32)
        path = saved(Image.fromarray(values), tmp_path / "a.tiff")
        with Image.open(path) as opened:
            assert opened.mode == "I"
        np.testing.assert_array_equal(pixels(path), crop(RAMP))

    def test_less_than_black_is_black(self, tmp_path: Path) -> None:
        path = saved(Image.fromarray(RAMP.astype(np.int32) - 100), tmp_path / "a.tiff")
        np.testing.assert_array_equal(pixels(path), crop(np.maximum(RAMP.astype(int) - 100, 0)))

    @pytest.mark.parametrize("white", [1, 255, 65535])
    def test_floats_are_scaled_by_the_range_that_they_use(self, tmp_path: Path, white: int) -> None:
        path = saved(Image.fromarray((RAMP * (white / 255)).astype(np.float32)), tmp_path / "a.tiff")
        np.testing.assert_array_equal(pixels(path), crop(RAMP))

    @pytest.mark.parametrize(("value", "named"), [(1e9, "1e+09"), (np.nan, "nan"), (np.inf, "inf")])
    def test_floats_without_a_white_are_refused(self, tmp_path: Path, value: float, named: str) -> None:
        values = np.zeros((SIDE, SIDE), np.float32)
        values[1, 2] = value
        path = saved(Image.fromarray(values), tmp_path / "a.tiff")
        with pytest.raises(InputError) as caught:
            read_images([path])
        assert f"{path}: expected a picture" in str(caught.value)
        assert f"got pixels up to {named} where mode F allows 65535" in str(caught.value)

    @pytest.mark.parametrize("file_format", ["gif", "webp", "png"])
    def test_of_an_animation_the_first_frame_is_read(self, tmp_path: Path, file_format: str) -> None:
        frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
        lossless = {"lossless": True} if file_format == "webp" else {}
        path = saved(frames[0], tmp_path / f"a.{file_format}", save_all=True, append_images=frames[1:], **lossless)
        with Image.open(path) as opened:
            assert opened.n_frames == 3
        np.testing.assert_array_equal(np.unique(pixels(path).reshape(-1, 3), axis=0), [[255, 0, 0]])


class TestOrientation:
    @pytest.mark.parametrize("file_format", ["jpg", "png", "webp", "tiff"])
    def test_a_rotated_file_is_read_upright(self, tmp_path: Path, file_format: str) -> None:
        """Orientation 6: the camera was turned, so the file holds the picture turned left; a reader turns it right."""
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        turned = Image.fromarray(COLOURS).transpose(Image.Transpose.ROTATE_90)
        options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(file_format, {})
        path = saved(turned, tmp_path / f"a.{file_format}", exif=exif, **options)
        tolerance = 4 if file_format == "jpg" else 0
        np.testing.assert_allclose(pixels(path), crop(COLOURS), atol=tolerance)

    def test_all_eight_orientations(self, tmp_path: Path) -> None:
        # What a writer did to the upright picture, for each orientation that it may declare (Exif 2.3, tag 0x0112).
        done = {
            1: COLOURS,
            2: COLOURS[:, ::-1],
            3: COLOURS[::-1, ::-1],
            4: COLOURS[::-1],
            5: COLOURS.transpose(1, 0, 2),
            6: np.rot90(COLOURS),
            7: np.rot90(COLOURS, 2).transpose(1, 0, 2),
            8: np.rot90(COLOURS, -1),
        }
        for orientation, stored in done.items():
            exif = Image.Exif()
            exif[EXIF_ORIENTATION] = orientation
            path = saved(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / f"{orientation}.png", exif=exif)
            np.testing.assert_array_equal(pixels(path), crop(COLOURS), err_msg=f"orientation {orientation}")

    def test_sixteen_bits_are_turned_too(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        stored = np.ascontiguousarray(np.rot90(RAMP.astype(int) * 257)).astype("<u2")
        path = saved(Image.frombytes("I;16", (SIDE, SIDE), stored.tobytes()), tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(pixels(path), crop(RAMP))


class TestReadImages:
    def test_one_input_each_in_their_order(self, tmp_path: Path) -> None:
        first = saved(Image.new("RGB", (30, 20), "white"), tmp_path / "z.png")
        second = saved(Image.new("RGB", (20, 30), "black"), tmp_path / "a.bmp")
        white, black = read_images([first, second])
        assert (white.name, black.name) == ("z.png", "a.bmp")
        assert white.images.min() > 0 > black.images.max()
        assert white.images.shape == black.images.shape == (1, 3, 224, 224)
        assert str(first) in white.source

    def test_names_are_unique(self, tmp_path: Path) -> None:
        paths = [tmp_path / name for name in ("one/cat.png", "two/cat.png", "cat-2.png", "two/cat.png")]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
        inputs = read_images(paths, 8)
        assert [made.name for made in inputs] == ["cat.png", "cat-3.png", "cat-2.png", "cat-4.png"]

    def test_unique_names_keep_every_name_that_is_unique_already(self) -> None:
        assert list(unique_names([Path("a.png"), Path("a.jpg"), Path("x/b")])) == ["a.png", "a.jpg", "b"]

    def test_no_paths_no_inputs(self) -> None:
        assert read_images([]) == []

    def test_refuses_a_size_that_no_image_has(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="size must be positive, not 0"):
            read_images([saved(Image.new("RGB", (4, 4)), tmp_path / "a.png")], 0)


class TestBadFiles:
    def refused(self, path: Path) -> str:
        with pytest.raises(InputError) as caught:
            read_images([path])
        message = str(caught.value)
        assert message.startswith("1 of 1 images cannot be read\n")
        assert f"{path}: expected a picture that Pillow can read, got " in message
        return message.split(", got ")[1]

    def test_missing(self, tmp_path: Path) -> None:
        assert self.refused(tmp_path / "none.png") == "no readable file (No such file or directory)"

    def test_directory(self, tmp_path: Path) -> None:
        assert self.refused(tmp_path) == "a directory"

    def test_device(self) -> None:
        assert self.refused(Path(os.devnull)) == "a pipe or a device"

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        assert self.refused(tmp_path / "a.png") == "an empty file"

    def test_no_picture(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_text("%PDF-1.7 and so on")
        assert self.refused(tmp_path / "a.png") == "a file that starts with b'%PDF-1.7', as no known picture does"

    @pytest.mark.parametrize("file_format", ["png", "jpg", "gif", "bmp", "tiff"])
    @pytest.mark.parametrize("kept", [0.5, 0.95])
    def test_truncated(self, tmp_path: Path, file_format: str, kept: float) -> None:
        values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        path = saved(Image.fromarray(values), tmp_path / f"a.{file_format}")
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        assert self.refused(path).startswith("a truncated or damaged one (")

    def test_damaged(self, tmp_path: Path) -> None:
        path = saved(Image.fromarray(COLOURS), tmp_path / "a.png")
        whole = bytearray(path.read_bytes())
        whole[whole.index(b"IDAT") + 4 + 20] ^= 0xFF
        path.write_bytes(whole)
        assert self.refused(path).startswith("a truncated or damaged one (")

    @pytest.mark.parametrize("limit", [SIDE * SIDE - 1, SIDE * SIDE // 2 - 1], ids=["warning", "error"])
    def test_decompression_bomb(self, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        path = saved(Image.fromarray(COLOURS), tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        came = self.refused(path)
        assert came.startswith("too many pixels (")
        assert "4096 pixels" in came

    def test_all_are_reported_at_once(self, tmp_path: Path) -> None:
        good = saved(Image.new("RGB", (4, 4)), tmp_path / "good.png")
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("text")
        bad = [tmp_path / "missing.png", tmp_path / "empty.png", tmp_path / "text.png"]
        with pytest.raises(InputError) as caught:
            read_images([bad[0], good, *bad[1:]])
        first, *others = str(caught.value).splitlines()
        assert first == "3 of 4 images cannot be read"
        for path, line in zip(bad, others, strict=True):
            assert line.startswith(f"{path}: expected")
