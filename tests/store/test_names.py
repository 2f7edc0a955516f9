"""The contract for names: what becomes a folder, in which Unicode form, and what is read at all."""

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmark.api import Prompt, UserError
from benchmark.data.dataset import fetched_directory
from benchmark.data.images import image_size, read_image
from benchmark.data.manifest import file_sha256, parse_toml
from benchmark.store.directory import job_path, scores_path, weights_path
from benchmark.store.files import read_bytes, read_json
from benchmark.store.names import checked_name, folder_name, located, meant

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
#: Windows's rules, which are the strictest: no reserved character, no dot or space at the end.
PART = re.compile(r"[^\x00-\x1f\x7f<>:\"/\\|?*]*[^\x00-\x1f\x7f<>:\"/\\|?*. ]")
DEVICES = {"con", "prn", "aux", "nul"} | {f"{p}{n}" for p in ("com", "lpt") for n in "123456789"}

#: Names that are apt to meet: of few letters, in both cases, with what no folder can hold.
close = st.text(alphabet="aA b-./:\\[=]'\u00e9e\u0301\u00df", max_size=6)
devices = st.sampled_from(sorted(DEVICES)).flatmap(
    lambda d: st.sampled_from([d, f"{d}.x", f"{d}-"])
)
names = st.one_of(close, devices, st.text(max_size=300), st.text("ab", min_size=90, max_size=120))


def on_a_mac(folder: str) -> str:
    """What a file system that ignores case and Unicode's forms takes for the same."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFC", folder).casefold())


@settings(max_examples=300, deadline=None)
@given(names)
@example("con.txt")
@example(DECOMPOSED)
@example("..")
@example("\ud800")
@example("x" * 99 + "\u00e9" * 40)
def test_a_name_is_one_part_of_a_path_on_every_system(name: str) -> None:
    folder = folder_name(name)
    assert len(folder.encode()) <= 100
    assert PART.fullmatch(folder) and not folder.startswith(".")
    assert folder.split(".")[0].lower() not in DEVICES
    assert folder_name(folder) != folder or folder == unicodedata.normalize("NFC", name)


@settings(max_examples=500, deadline=None)
@given(names, names)
@example("a b", "a-b")
@example("LoRA", "lora")
@example("a" * 101, "a" * 102)
@example("a b", folder_name("a b"))
@example("a b", folder_name("a b").upper())
@example(COMPOSED, DECOMPOSED)
def test_two_names_share_a_folder_only_if_they_are_the_same_text(one: str, other: str) -> None:
    same = unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
    assert (on_a_mac(folder_name(one)) == on_a_mac(folder_name(other))) == same


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("dreambooth", "dreambooth"),
        ("dreambooth[steps=100]", "dreambooth-steps=100-7e36c0"),
        ("my_module:METHOD", "my_module-METHOD-454892"),
        ("dreambench++-1", "dreambench++-1"),
        ("pocket-1", "pocket-1"),
        ("dog2", "dog2"),
        ("x" * 101, "x" * 83 + "-a3d24bd1aabeaafd"),
    ],
)
def test_folders_are_what_they_were(name: str, folder: str) -> None:
    assert folder_name(name) == folder


def test_no_path_of_a_job_leaves_its_folder() -> None:
    name = ("../../m", "/etc/passwd", 0)
    for path in (job_path(name), scores_path("../p", name), weights_path(name)):
        assert ".." not in path.split("/") and path.count("/") in (2, 3)
    assert fetched_directory("../../x").parent == fetched_directory("x").parent


def test_a_prompts_file_has_room_for_its_suffix_in_any_script() -> None:
    prompts = [Prompt(f"a {{}} {'雪' * n}", "accessory") for n in (60, 61)]
    slugs = {prompt.slug for prompt in prompts}
    assert len(slugs) == 2 and all(len(slug.encode()) <= 100 for slug in slugs)


@pytest.mark.parametrize("name", ["", ":", "..", "___", "a\nb", "a\x00", "\udcff x"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="method .* has (no letter|characters)"):
        checked_name("method", name)
    assert checked_name("method", DECOMPOSED) == COMPOSED


@pytest.mark.parametrize("kept", [COMPOSED, DECOMPOSED])
def test_a_folder_is_found_in_either_unicode_form(tmp_path: Path, kept: str) -> None:
    (tmp_path / kept).mkdir()
    for asked in (COMPOSED, DECOMPOSED):
        assert located(tmp_path, asked).is_dir()
    assert located(tmp_path, "other") == tmp_path / "other"
    assert located(tmp_path / "nowhere", COMPOSED) == tmp_path / "nowhere" / COMPOSED


@pytest.mark.parametrize("read", [read_image, image_size, file_sha256, read_json, parse_toml])
def test_what_would_never_end_is_not_read(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "zero"):
        with pytest.raises(UserError, match=f"{tmp_path / name}.*it is no regular file"):
            read(tmp_path / name)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == b"1"


@pytest.mark.parametrize(
    "text",
    [
        f"a = {'[' * 3000}{']' * 3000}",
        f"{'.'.join('a' * 3000)} = 1",
        f"a = {'{ b = ' * 400}1{'}' * 400}",
        f"a = {'1' * 5000}",
        f"{COMPOSED.join('[]')}\n{DECOMPOSED!r} = 1\n{COMPOSED!r} = 2".replace("[]", ""),
    ],
)
def test_odd_toml_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=f"{path} is no TOML: "):
        parse_toml(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 200 + "]" * 200, "1" * 5000, "\xff"])
def test_odd_json_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"{path} is no JSON"):
        read_json(path)


def test_what_is_suggested_is_never_the_word_itself() -> None:
    assert meant("custom", ["custom", "accessory"]) == ""
    assert meant("dog", ["dog", "dogs", "cat"]) == " (did you mean 'dogs'?)"
    assert meant("Dog", ["dog"]) == " (did you mean 'dog'?)"
