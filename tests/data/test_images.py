import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from benchmark.api import UserError
from benchmark.data.images import as_pixels, image_size, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_plain_rgb_comes_back_exactly(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, PIXELS)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, PIXELS),
        (2, PIXELS[:, ::-1]),
        (3, np.rot90(PIXELS, 2)),
        (4, PIXELS[::-1]),
        (5, PIXELS.swapaxes(0, 1)),
        (6, np.rot90(PIXELS, -1)),
        (7, np.rot90(PIXELS, 2).swapaxes(0, 1)),
        (8, np.rot90(PIXELS)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turned: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), turned)
    assert image_size(tmp_path / "x.png") == (turned.shape[1], turned.shape[0])


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (5, 7, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([PIXELS, alpha], -1)).save(tmp_path / "x.png")
    share = alpha / 255
    by_hand = PIXELS * share + 255 * (1 - share)
    assert np.abs(read_image(tmp_path / "x.png") - by_hand).max() <= 1


def test_palettes_are_looked_up_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colours[[[0, 1], [1, 2]]])
    image.save(tmp_path / "x.png", transparency=1)
    colours[1] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colours[[[0, 1], [1, 2]]])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[..., 0], [[0, 1, 128, 255]])


def test_grey_and_cmyk_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    grey = read_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(grey, np.repeat(PIXELS[..., :1], 3, -1))
    Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "cyan.jpg").astype(int) - [0, 255, 255]).max() <= 3


def test_cmyk_as_photo_editors_write_it_is_not_inverted(tmp_path: Path) -> None:
    # An Adobe marker says that the inks are stored inverted, as Pillow itself writes them.
    Image.new("CMYK", (8, 8), (0, 0, 255, 0)).save(tmp_path / "yellow.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "yellow.jpg").read_bytes()
    assert np.abs(read_image(tmp_path / "yellow.jpg").astype(int) - [255, 255, 0]).max() <= 3


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x.jpg", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "x.jpg"), PIXELS)


def test_a_missing_or_broken_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tiff")
    for name in ("none.png", "text.jpg", "script.jpg", "empty.png", "folder.png", "float.tiff"):
        with pytest.raises(UserError, match=f"cannot read image .*{name}: .+"):
            read_image(tmp_path / name)
    with pytest.raises(UserError, match="empty.png: the file is empty"):
        read_image(tmp_path / "empty.png")


@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "JPEG", "progressive": True},
                                     {"format": "PNG"}, {"format": "WEBP"}])  # fmt: skip
def test_a_file_cut_anywhere_is_refused_and_never_read_in_part(
    tmp_path: Path, options: dict[str, object]
) -> None:
    large = np.random.default_rng(2).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, **options)  # type: ignore[arg-type]
    content, path = buffer.getvalue(), tmp_path / "cut"
    # A PNG's last 16 bytes are a checksum and the end mark, behind the last pixel.
    for length in range(0, len(content) - 16, len(content) // 25):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="cannot read image .*cut"):
            read_image(path)


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    parts = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [30_000, 9_500])
def test_a_header_of_too_many_pixels_is_refused_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    def load(image: object) -> None:
        raise AssertionError("memory for the pixels was asked for")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    (tmp_path / "huge.png").write_bytes(png_header(side, side))
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"huge.png: its header .* 89,478,485 pixels: make it"):
            read(tmp_path / "huge.png")


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
def test_several_pictures_in_one_file_are_refused_and_one_is_read(
    tmp_path: Path, kind: str
) -> None:
    first, second = (Image.new("RGB", (6, 6), colour) for colour in ("red", "blue"))
    lossless = {"lossless": True} if kind == "webp" else {}
    first.save(tmp_path / f"one.{kind}", save_all=True, **lossless)
    assert read_image(tmp_path / f"one.{kind}").reshape(-1, 3).tolist() == [[255, 0, 0]] * 36
    first.save(tmp_path / f"two.{kind}", save_all=True, append_images=[second], **lossless)
    with pytest.raises(UserError, match=f"two.{kind}: it holds 2 pictures: save the one you mean"):
        read_image(tmp_path / f"two.{kind}")


def test_a_phones_jpeg_with_a_second_picture_is_its_first(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[second], quality=100)
    assert np.abs(read_image(tmp_path / "x.jpg").astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_damage_goes_through_as_another_error(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 15, 3), dtype=np.uint8))
    contents = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        buffer = io.BytesIO()
        image.save(buffer, kind, exif=exif)
        contents.append(buffer.getvalue())
    draw, path, refused = random.Random(0), tmp_path / "damaged", 0
    for _ in range(150):
        damaged = bytearray(draw.choice(contents))
        for _ in range(draw.choice([1, 4, 16])):
            damaged[draw.randrange(min(len(damaged), draw.choice([40, 200, 9999])))] = (
                draw.randrange(256)
            )
        path.write_bytes(damaged)
        try:
            read = read_image(path)
            assert read.dtype == np.uint8 and read.ndim == 3 and read.shape[2] == 3
        except UserError as error:
            assert "cannot read image" in str(error)
            refused += 1
    assert 30 < refused < 150


def test_pixels_are_those_of_the_png(tmp_path: Path) -> None:
    from torchvision import transforms

    images = torch.rand(2, 3, 8, 6)
    for found, image in zip(as_pixels(images), images, strict=True):
        transforms.ToPILImage()((image * 255).round().to(torch.uint8)).save(tmp_path / "a.png")
        assert np.array_equal(found, np.asarray(Image.open(tmp_path / "a.png")))
        assert np.array_equal(as_pixels([found])[0], found)


def test_pixels_are_rounded_and_may_differ_in_size() -> None:
    levels = torch.arange(256).repeat(3, 1, 1)
    sizes = [
        levels / 255,
        ((levels + 0.4) / 255).clamp(max=1).requires_grad_(),
        torch.ones(3, 2, 5),
    ]
    same, above, white = as_pixels(sizes)
    assert same.dtype == np.uint8 and same.shape == (1, 256, 3)
    assert same[0, :, 0].tolist() == above[0, :, 2].tolist() == list(range(256))
    assert white.shape == (2, 5, 3) and white.min() == 255
    (grey,) = as_pixels(torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16))
    assert np.unique(grey).tolist() == [128]  # 127.5, to the even


@pytest.mark.parametrize(
    "images",
    [
        torch.full((1, 3, 4, 4), torch.nan),
        torch.full((1, 3, 4, 4), 1.01),
        torch.full((1, 3, 4, 4), -0.1),
        torch.zeros(1, 4, 4, 3),
        torch.zeros(3, 4, 4),
        [torch.full((3, 4, 4), torch.nan)],
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4), np.uint8)],
    ],
    ids=["nan", "above", "below", "channels last", "no batch", "in a list", "floats", "grey"],
)
def test_what_is_no_image_is_refused(images: object) -> None:
    with pytest.raises(ValueError, match="image"):
        as_pixels(images)  # type: ignore[arg-type]


def test_a_bug_of_ours_is_not_taken_for_a_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x.png")

    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("benchmark.data.images._to_rgb", bug)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        read_image(tmp_path / "x.png")
