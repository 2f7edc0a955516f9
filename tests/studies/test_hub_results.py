"""Published folders on the hub, a server on this machine: up, down, and what is refused."""

from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.studies.hub_results import fetched_folder, is_repository, opened, push_folder
from benchmark.studies.publish import Wanted, publish_run
from tests.hub_server import TOKEN, hub
from tests.made_up_run import write_run

GRID = {"methods": ("dreambooth", "untuned"), "subjects": ("cat", "dog")}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", lambda *_: 0.5, **GRID)


@pytest.fixture
def folder(run, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.studies.publish.write_report", lambda directory: directory)
    publish_run(run, tmp_path / "mine", Wanted(images="all"))
    return tmp_path / "mine"


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_what_goes_up_comes_down(folder, server):
    (folder / "notes.txt").write_text("mine")
    address = push_folder(folder, "me/mine", private=True)
    assert address.endswith("/datasets/me/mine") and server.private == {"me/mine": True}
    assert server.repositories["me/mine"] == {
        name: content for name, content in files(folder).items() if name != "notes.txt"
    }
    assert server.tokens <= {"", f"Bearer {TOKEN}"}
    with fetched_folder("me/mine") as fetched:
        found = {n: c for n, c in files(fetched).items() if not n.startswith(".cache/")}
        assert found == server.repositories["me/mine"]
        assert not [path for path in fetched.rglob("*") if path.is_symlink()]
    assert not fetched.exists()


def test_what_is_published_no_more_goes(run, folder, server):
    push_folder(folder, "me/mine", private=False)
    server.repositories["me/mine"]["README.md"] = b"about it"
    publish_run(run, folder, Wanted(images="none"))
    push_folder(folder, "me/mine", private=False)
    names = server.repositories["me/mine"].keys()
    assert names == {*files(folder), "README.md"}
    assert not [name for name in names if name.startswith("images/")]


def test_a_repository_of_something_else_is_left_alone(folder, server):
    server.repositories["me/photos"], server.private["me/photos"] = {"cat.png": b"1"}, True
    with pytest.raises(UserError, match="holds other files than a published run"):
        push_folder(folder, "me/photos", private=True)
    assert server.repositories["me/photos"] == {"cat.png": b"1"} and server.commits == 0


def test_private_is_no_promise_that_a_public_repository_keeps(folder, server):
    push_folder(folder, "me/mine", private=False)
    with pytest.raises(UserError, match="is public already, and --private would not hide it"):
        push_folder(folder, "me/mine", private=True)
    assert server.commits == 1


def test_a_refusal_is_one_line_without_the_token(folder, server):
    server.refusing = 403
    with pytest.raises(UserError, match="the hub: me/mine: .*hf auth login") as raised:
        push_folder(folder, "me/mine", private=False)
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOKEN_PATH", "/dev/null/token"), ("TOKEN", "hf_\xe9"), ("PROXY", "nonsense://x")],
)
def test_an_environment_that_is_no_good_is_told_in_one_line(server, monkeypatch, name, value):
    """A token's file that cannot be read, a token that no header takes, a proxy that is none."""
    from huggingface_hub import close_session

    close_session()
    if name == "TOKEN_PATH":
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv({"TOKEN": "HF_TOKEN", "PROXY": "ALL_PROXY"}[name], value)
    why = "the hub: me/gone: .*hf auth login"
    with pytest.raises(UserError, match=why), fetched_folder("me/gone"):
        pass
    close_session()


def test_a_repository_that_is_not_there(server):
    with pytest.raises(UserError, match="the hub: me/gone: "), fetched_folder("me/gone"):
        pass


def test_a_path_with_a_slip_in_it_is_told_from_a_repository(server):
    why = "there is no folder runs/mime here; the hub: runs/mime: "
    with pytest.raises(UserError, match=why), opened("runs/mime"):
        pass


@pytest.mark.parametrize(
    ("text", "whether"),
    [
        ("me/mine", True),
        ("me/mine@v1.0", True),
        ("mine", False),
        ("../mine", False),
        ("a/b/c", False),
        ("https://huggingface.co/me/mine", False),
    ],
)
def test_a_repository_is_told_from_a_path(text, whether):
    assert is_repository(text) is whether


def test_the_commands(run, server, tmp_path, monkeypatch, capsys):
    """The folder goes up, says by whom, and is verified from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmark.studies.publish.write_report", lambda directory: directory)
    monkeypatch.setattr("benchmark.studies.verification._tables", lambda run: iter(()))

    def shell(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    code, said, _ = shell("publish", run, "mine", "--images", "none", "--push", "me/mine")
    assert code == 0
    lines = said.splitlines()
    assert lines[0].startswith("becomes public: scores and records of 4 jobs")
    assert lines[1] == "stays here: your own photographs of cat, dog (--with-subjects)"
    assert lines[-1].endswith("/datasets/me/mine")
    assert b'by = "me"' in server.repositories["me/mine"]["publication.toml"]
    code, said, _ = shell("verify", "me/mine")
    assert code == 0 and said.startswith("ok: digests: of 4 jobs and 0 images\n")
    for arguments, why in (
        (("publish", run, "mine", "--push", "me"), "--push 'me' should read USER/NAME"),
        (("publish", run, "mine", "--private"), "--private is of a repository on the hub"),
        (("publish", run, "mine", "--by", "\x1b[2J"), "--by '\\x1b[2J' has characters that are no"),
        (("verify", "nowhere"), "nowhere is no folder, and no USER/NAME of the hub"),
    ):
        code, said, error = shell(*arguments)
        assert (code, said) == (2, "") and why in error
