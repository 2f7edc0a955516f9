"""The server on loopback: what it takes, what it refuses, and what it leaves on disk."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest

from benchmark.api import UserError
from benchmark.people.serve import served
from tests.people.study_made import SUBJECTS, cast, made_study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_study(tmp_path_factory.mktemp("made"), pairs=2, subjects=SUBJECTS[:4])


def asked(address, method, path, body=None, **headers):
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def votes_of(study, folder):
    cast(study, folder, people=1, reliability=1.0)
    path = folder / "votes/0.json"
    content = path.read_text()
    path.unlink()
    return content


def test_votes_are_kept_once_and_others_of_the_same_browser_refused(made) -> None:
    study, folder = made
    content = votes_of(study, folder)
    with served(study, folder) as address:
        assert asked(address, "GET", "/")[0] == 200
        assert asked(address, "POST", "/votes", content)[0] == 200
        assert asked(address, "POST", "/votes", content)[0] == 200
        other = json.loads(content)
        other["answers"][0]["choice"] = None
        assert asked(address, "POST", "/votes", json.dumps(other))[0] == 409
    kept = [*folder.glob("votes/*")]
    assert [path.read_text() for path in kept] == [content]
    kept[0].unlink()


def test_what_is_no_vote_leaves_nothing(made) -> None:
    study, folder = made
    content = votes_of(study, folder)
    evil = json.loads(content) | {"person": "../../outside"}
    with served(study, folder) as address:
        for body in ("no", "{}", json.dumps(evil), "x" * 2_000_000):
            status, _ = asked(address, "POST", "/votes", body)
            assert status == 400, body[:20]
        assert asked(address, "POST", "/other", content)[0] == 400
        assert asked(address, "GET", "/study.json")[0] == 404
        assert asked(address, "GET", "/../study.json")[0] == 404
        assert asked(address, "POST", "/votes", content, Host="evil.example")[0] == 403
    assert not [*folder.glob("votes/*")]


def test_a_port_that_is_taken_is_named(made) -> None:
    study, folder = made
    with served(study, folder) as address:
        port = urlsplit(address).port
        with (
            pytest.raises(UserError, match=f"--port {port} cannot be served from"),
            served(study, folder, port),
        ):
            pass


def test_a_page_that_is_gone_is_named(tmp_path) -> None:
    study, folder = made_study(tmp_path, pairs=2, subjects=SUBJECTS[:4])
    (folder / "index.html").unlink()
    with pytest.raises(UserError, match=r"index\.html is missing"), served(study, folder):
        pass
