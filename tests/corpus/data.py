"""Odd photographs, folders and text files."""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features
from safetensors.numpy import save_file

from benchmark.config.suite import load_suite
from benchmark.data.dataset import load_dataset, verify
from benchmark.data.download import write_manifest
from benchmark.data.images import image_size, read_image
from benchmark.models.files.identity import (
    WORKER_BYTES,
    SingleFile,
    backbone_id,
    locate,
    worker_memory,
)
from tests import toy
from tests.corpus.case import OWN, Case, refused

PILLOW = "https://github.com/python-pillow/Pillow/issues"
SCENE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
ORIENTATION = 0x0112


def png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


# Photographs -----------------------------------------------------------------------------------


def turned(suffix: str, **options: object) -> Callable[[Path], list[Path]]:
    """An image in each orientation, also in those that there are not, from 0 to 9."""

    def make(folder: Path) -> list[Path]:
        for orientation in range(10):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            path = folder / f"{orientation}.{suffix}"
            Image.fromarray(SCENE).save(path, exif=exif, **options)
        return sorted(folder.iterdir())

    return make


def as_pillow_turns_it(paths: Iterable[Path]) -> None:
    sizes = set()
    for path in paths:
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert np.array_equal(read_image(path), expected)
        assert image_size(path) == expected.shape[1::-1]
        sizes.add(image_size(path))
    assert sizes == {(7, 5), (5, 7)}


def late_exif(folder: Path) -> list[Path]:
    """PNGs whose Exif stands behind the pixels, where the standard allows it."""
    for orientation in (1, 6):
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[ORIENTATION] = orientation
        Image.fromarray(SCENE).save(buffer, "PNG")
        content, end = buffer.getvalue(), png_chunk(b"IEND", b"")
        assert content.endswith(end)
        late = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        (folder / f"{orientation}.png").write_bytes(content.removesuffix(end) + late + end)
    return sorted(folder.iterdir())


def saved(image: Image.Image, name: str, **options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image.save(folder / name, **options)
        return folder / name

    return make


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def shows(expected: object) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        found = read_image(path)
        assert np.array_equal(found, np.broadcast_to(np.array(expected, np.uint8), found.shape))

    return check


def deep(*levels: int, kind: type = np.uint16) -> Image.Image:
    return Image.fromarray(np.array([levels], kind))


def with_pictures(folder: Path) -> Path:
    """As a phone writes it that keeps a gain map or a second view behind the photograph."""
    first, second = (Image.new("RGB", (16, 16), grey) for grey in ("white", "black"))
    first.save(folder / "x.jpg", "MPO", save_all=True, append_images=[second])
    return folder / "x.jpg"


def with_long_text(folder: Path) -> Path:
    information = PngImagePlugin.PngInfo()
    information.add_text("parameters", "x" * 2**21, zip=True)
    Image.fromarray(SCENE).save(folder / "x.png", pnginfo=information)
    return folder / "x.png"


FORMATS = {
    "jpg": {},
    "png": {},
    "webp": {"lossless": True},
    "tiff": {},
    "mpo": {"format": "MPO"},
    **({"avif": {"quality": 100}} if features.check("avif") else {}),
}
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
PHOTOGRAPHS = (
    *(
        Case(f"orientations in {suffix}", source, turned(suffix, **options), as_pillow_turns_it)
        for (suffix, options), source in zip(
            FORMATS.items(),
            (
                "https://github.com/kohya-ss/sd-scripts/issues/1316",
                "https://github.com/imageio/imageio/pull/1159",
                "https://github.com/huggingface/diffusers/pull/3465",
                f"{PILLOW}/7381",
                "https://github.com/hydrusnetwork/hydrus/pull/1442",
                "https://github.com/bigcat88/pillow_heif/issues/86",
            ),
            strict=False,
        )
    ),
    Case("Exif behind a PNG's pixels", OWN, late_exif, as_pillow_turns_it),
    Case(
        "16-bit grey",
        f"{PILLOW}/3011",
        saved(deep(0, 257, 65535), "x.png"),
        shows([[[0], [1], [255]]]),
    ),
    Case(
        "16-bit grey of which a level is clear",
        OWN,
        saved(deep(0, 257, 65535), "x.png", transparency=257),
        shows([[[0], [255], [255]]]),
    ),
    Case(
        "16-bit grey in a TIFF",
        f"{PILLOW}/1108",
        saved(deep(0, 257, 65535), "x.tiff"),
        shows([[[0], [1], [255]]]),
    ),
    Case(
        "32-bit whole numbers",
        f"{PILLOW}/452",
        saved(deep(0, 300, 2**20, kind=np.int32), "x.tiff"),
        refused(read_image, "x.tiff", "32-bit numbers, of no known range", "8 or 16 bits"),
    ),
    Case(
        "a raw photograph's preview",
        f"{PILLOW}/6482",
        saved(Image.fromarray(SCENE), "IMG_1.DNG", format="TIFF", tiffinfo={254: 1}),
        refused(read_image, "IMG_1.DNG", "raw photograph", "save it as JPEG or PNG"),
    ),
    Case(
        "a colour profile",
        OWN,
        saved(Image.fromarray(SCENE), "x.png", icc_profile=PROFILE),
        shows(SCENE),
    ),
    Case("a second picture in a JPEG", f"{PILLOW}/1138", with_pictures, shows(255)),
    Case(
        "HEIC",
        "https://github.com/replicate/dreambooth/issues/23",
        written("IMG_1.HEIC", HEIC),
        refused(read_image, "IMG_1.HEIC: it is no JPEG", "save it as one of these"),
    ),
    Case(
        "a PNG with too long a text",
        f"{PILLOW}/8363",
        with_long_text,
        refused(read_image, "cannot read image", "x.png", "MAX_TEXT_CHUNK"),
    ),
)

# Folders ---------------------------------------------------------------------------------------

DESCRIBED = '[my-dog]\nclass_noun = "dog"\nlive = true\n'


def own(folder: Path, described: str | bytes = DESCRIBED) -> Path:
    """A data set of one subject with two photographs."""
    content = described.encode() if isinstance(described, str) else described
    (folder / "subjects.toml").write_bytes(content)
    (folder / "my-dog").mkdir()
    for number in range(2):
        Image.fromarray(np.roll(SCENE, number, 0)).save(folder / "my-dog" / f"{number}.png")
    return folder


def described(text: str | bytes) -> Callable[[Path], Path]:
    return lambda folder: own(folder, text)


def read(folder: Path) -> None:
    verify(load_dataset(str(folder)))


def nouns(*expected: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        read(folder)
        assert [s.class_noun for s in load_dataset(str(folder)).subjects] == list(expected)

    return check


def images(*expected: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        read(folder)
        (subject,) = load_dataset(str(folder)).subjects
        assert [path.name for path in subject.images] == list(expected)

    return check


def littered(folder: Path) -> Path:
    """What systems and programs leave behind, among folders and among images."""
    own(folder)
    litter(folder)
    litter(folder / "my-dog")
    return folder


def litter(folder: Path) -> None:
    for name in (".DS_Store", "._0.png", "Thumbs.db", "thumbs.db", "Desktop.ini", "ehthumbs.db"):
        (folder / name).write_bytes(b"\0\1")
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        (folder / name).mkdir()
        (folder / name / "0.png").write_bytes(b"\0\1")


def upper_case(folder: Path) -> Path:
    own(folder)
    (folder / "my-dog" / "0.png").rename(folder / "my-dog" / "IMG_1.PNG")
    return folder


def beside(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        own(folder)
        (folder / "my-dog" / name).write_bytes(content)
        return folder

    return make


def copied(folder: Path) -> Path:
    own(folder)
    (folder / "my-dog" / "0 (1).png").write_bytes((folder / "my-dog/0.png").read_bytes())
    return folder


def saved_again(folder: Path) -> Path:
    own(folder)
    Image.open(folder / "my-dog/0.png").save(folder / "my-dog" / "2.bmp")
    return folder


def pinned_twice(folder: Path) -> Path:
    own(folder)
    path = write_manifest(folder, None, name=None, source=None)
    first, second = (line for line in path.read_text().splitlines() if ".png" in line)
    path.write_text(path.read_text().replace(second.split(" = ")[1], first.split(" = ")[1]))
    return folder


def pin(folder: Path) -> None:
    write_manifest(folder, None, name=None, source=None)


def decomposed(folder: Path) -> Path:
    """As macOS unpacks it: the folder's name in another form than the file's."""
    text = DESCRIBED.replace("[my-dog]", '["K\u00f6ter"]')
    own(folder, text)
    (folder / "my-dog").rename(folder / unicodedata.normalize("NFD", "K\u00f6ter"))
    return folder


FOLDERS = (
    Case(
        "what systems leave in a data set",
        "https://github.com/invoke-ai/InvokeAI/issues/2715",
        littered,
        images("0.png", "1.png"),
    ),
    Case(
        "suffixes in upper case",
        "https://github.com/bmaltais/kohya_ss/issues/217",
        upper_case,
        images("1.png", "IMG_1.PNG"),
    ),
    Case(
        "captions beside the images",
        "https://github.com/bmaltais/kohya_ss/issues/547",
        beside("0.txt", b"a dog"),
        refused(read, "0.txt: it is no JPEG", "take them away"),
    ),
    Case(
        "an empty image in a manifest",
        OWN,
        beside("2.png", b""),
        refused(pin, "2.png: the file is empty", "take them away"),
    ),
    Case(
        "a photograph copied within its folder",
        "https://github.com/wujixiu/helmet-detection/issues/29",
        copied,
        refused(read, "0 (1).png and 0.png are one photograph", "take them away"),
    ),
    Case(
        "a photograph saved again in another format",
        "https://github.com/axondeepseg/axondeepseg/issues/300",
        saved_again,
        refused(read, "0.png and 2.bmp are one photograph"),
    ),
    Case(
        "a manifest that holds a photograph twice",
        "https://github.com/darsa-group/flat-bug/issues/10",
        pinned_twice,
        refused(read, "0.png and 1.png of subject 'my-dog' are one photograph"),
    ),
    Case(
        "a folder's name in another Unicode form",
        "https://github.com/llmsresearch/paperbanana/issues/234",
        decomposed,
        images("0.png", "1.png"),
    ),
    Case(
        "a class noun with its article",
        OWN,
        described(DESCRIBED.replace('"dog"', '"a dog"')),
        refused(read, "class_noun", "did you mean 'dog'?"),
    ),
    Case(
        "a class noun with The",
        OWN,
        described(DESCRIBED.replace('"dog"', '"The  dog"')),
        refused(read, "did you mean 'dog'?"),
    ),
    Case(
        "a class noun with a pronoun",
        OWN,
        described(DESCRIBED.replace('"dog"', '"my dog"')),
        refused(read, "did you mean 'dog'?"),
    ),
    Case(
        "a class noun that turns text round",
        OWN,
        described(DESCRIBED.replace('"dog"', '"\u202edog"')),
        refused(read, "class_noun", "characters that are no text"),
    ),
    Case(
        "a class noun that begins like an article",
        OWN,
        described(DESCRIBED.replace('"dog"', '"anteater"')),
        nouns("anteater"),
    ),
)


def weights(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_file({"weight": np.zeros(3, np.float32)}, folder / name)
        return folder / name

    return make


def single_file(path: Path) -> None:
    assert locate(str(path)) == SingleFile(path, None)
    assert backbone_id(str(path)).startswith("MODEL@")
    assert worker_memory(str(path)) == 16 * 3 + WORKER_BYTES


def find(path: Path) -> object:
    return locate(str(path))


CHECKPOINTS = (
    Case("a checkpoint's suffix in upper case", OWN, weights("MODEL.SAFETENSORS"), single_file),
    Case(
        "a pickle's suffix in upper case",
        OWN,
        weights("MODEL.CKPT"),
        refused(find, "MODEL.CKPT is a pickle", "only safetensors are"),
    ),
)

# Text ------------------------------------------------------------------------------------------


def prompts(template: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        text = f'[live]\nproperty = ["{template}"]\n[object]\nproperty = ["a {{}}"]\n'
        (own(folder) / "prompts.toml").write_text(text)
        return folder

    return make


def suite(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        toy.write_world(folder)
        head = 'extends = "toy.toml"\nname = "mine"\ndescription = "mine"\n'
        (folder / "MINE.TOML").write_text(head + text)
        return folder / "MINE.TOML"

    return make


def load(path: Path) -> object:
    return load_suite(str(path))


def loads(path: Path) -> None:
    assert load_suite(str(path)).name == "mine"


TEXT = (
    Case(
        "TOML with a byte order mark",
        "https://github.com/python/cpython/issues/157201",
        described(b"\xef\xbb\xbf" + DESCRIBED.encode()),
        nouns("dog"),
    ),
    Case(
        "TOML with Windows' line ends",
        "https://github.com/BurntSushi/toml/issues/233",
        described(DESCRIBED.replace("\n", "\r\n")),
        nouns("dog"),
    ),
    *(
        Case(
            f"TOML in {encoding}",
            "https://github.com/AUTOMATIC1111/stable-diffusion-webui/issues/3657",
            described(("\ufeff" + DESCRIBED).encode(encoding)),
            refused(read, "subjects.toml", f"it is {told} text: save it as UTF-8"),
        )
        for encoding, told in (
            ("utf-16-le", "UTF-16"),
            ("utf-16-be", "UTF-16"),
            ("utf-32-le", "UTF-32"),
        )
    ),
    Case(
        "TOML in a Windows code page",
        "https://github.com/ostris/ai-toolkit/issues/113",
        described(DESCRIBED.encode() + b"# the dog\x92s photographs\n"),
        refused(read, "subjects.toml", "byte 0x92 in line 4 is no UTF-8: save it as UTF-8"),
    ),
    Case(
        "a noun with a mark that nobody sees",
        "https://github.com/hukkin/tomli/issues/304",
        described(DESCRIBED.replace('"dog"', '"dog\ufeff"')),
        refused(read, "class_noun", "characters that are no text"),
    ),
    Case(
        "a noun with a soft hyphen",
        OWN,
        described(DESCRIBED.replace('"dog"', '"wolf\u00adhound"')),
        refused(read, "class_noun", "characters that are no text"),
    ),
    Case(
        "a noun whose letters are joined",
        OWN,
        described(DESCRIBED.replace('"dog"', '"\u0633\u06af\u200c\u0647\u0627"')),
        nouns("\u0633\u06af\u200c\u0647\u0627"),
    ),
    *(
        Case(f"the prompt '{template}'", OWN, prompts(template), refused(read, template, word))
        for template, word in (
            ("a dog", "needs {} once"),
            ("a {} and a {}", "needs {} once"),
            ("a {0}", "needs {} once"),
            ("a {} {", "needs {} once"),
            ("a {} in the snow ", "blank"),
        )
    ),
    *(
        Case(f"{what} in a suite", OWN, suite(text), refused(load, "MINE.TOML", "named twice"))
        for what, text in {
            "a subject twice": '[data]\nsubjects = ["dog-red", "dog-red"]\n',
            "a prompt twice": '[evaluation]\nprompts = ["1", "1"]\n',
            "a control twice": 'controls = ["untuned", "untuned"]\n',
            "a method twice": '[groups]\nmine = ["untuned", "untuned"]\n',
        }.items()
    ),
    Case("a suite's suffix in upper case", OWN, suite(""), loads),
    Case(
        "a guidance without bound, which makes NaN",
        OWN,
        suite("[sampler]\nguidance = inf\n"),
        refused(load, "sampler.guidance", "finite"),
    ),
)

CASES: tuple[Case, ...] = (*PHOTOGRAPHS, *FOLDERS, *CHECKPOINTS, *TEXT)
