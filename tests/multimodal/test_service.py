"""The service in its own processes: what a client gets, whose jobs are whose, and what befalls it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import io
import json
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from multimodal.jobs import Jobs, NewJob
from multimodal.serve import look_after
from multimodal.settings import read_settings
from PIL import Image

from tests.multimodal.files import write_bomb, write_pdf, write_picture, write_sound, write_video
from tests.multimodal.running import KEYS, PROGRAM, Gateway, Service, running, until

pytestmark = pytest.mark.subprocess


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Good files, by what they are."""
    folder = tmp_path_factory.mktemp("files")
    made = {
        "picture": write_picture(folder / "a.png"),
        "video": write_video(folder / "a.mp4"),
        "sound": write_sound(folder / "a.wav"),
        "pdf": write_pdf(folder / "a.pdf"),
        "bomb": write_bomb(folder / "bomb.png"),
    }
    return {kind: path.read_bytes() for kind, path in made.items()}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that leave it as it is."""
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(autouse=True)
def good_mood(service: Service) -> None:
    """Let the gateway answer, whatever the test before wanted of it, and the jobs before come to their end."""
    service.gateway.mood, service.gateway.times, service.gateway.retry_after = 200, None, ""
    service.gateway.held.set()
    idle = ('{state="queued"} 0', '{state="running"} 0')
    until(lambda: all(told in service.ask("GET", "/metrics", key=None).content.decode() for told in idle))


def test_a_picture_is_described_and_can_be_found(service: Service, files: dict[str, bytes]) -> None:
    result = service.done(files["picture"])

    assert result["text"] == "red"
    assert result["captions"] == [{"kind": "picture", "text": "red", "file": "preview.jpg"}]
    assert result["segments"] == []
    (vector,) = result["embeddings"]
    assert (vector["model"], vector["dimension"], vector["vector"]) == ("vectors", 2, [3.0, 1.0])
    assert (result["media"]["width"], result["media"]["height"]) == (120, 80)
    assert {key for _, key in service.gateway.asked} == {f"Bearer {KEYS['multimodal']}"}


@pytest.mark.parametrize("key", ["alice", "master"])
def test_the_models_are_asked_in_the_name_of_the_key_whose_job_it_is(
    key: str, service: Service, files: dict[str, bytes]
) -> None:
    service.gateway.owners.clear()
    service.done(files["video"], ["captions", "transcript", "embedding"], key=key)

    assert service.gateway.owners == {key}


def test_a_service_sends_a_job_in_the_name_of_another_key(tmp_path: Path, files: dict[str, bytes]) -> None:
    with running(tmp_path) as service:
        refused = service.submit(files["picture"], key="bob", X_Stackwright_For="alice")
        job_id = service.submit(files["picture"], key="multimodal", X_Stackwright_For="alice").document["id"]

        assert (refused.status, refused.message) == (403, "the key `bob` may not ask in the name of another")
        assert service.ended(job_id, "alice")["state"] == "done"
        assert service.gateway.owners == {"alice"}
        assert service.ask("GET", f"/v1/jobs/{job_id}", "multimodal").status == 404


def test_the_self_test_asks_for_itself(service: Service) -> None:
    service.gateway.owners.clear()

    assert service.ask("POST", "/v1/self-test", "multimodal").status == 200
    assert service.gateway.owners == {None}


def test_a_key_for_the_metrics_has_no_jobs(service: Service) -> None:
    refused = service.ask("GET", "/v1/jobs", "watcher")

    assert (refused.status, refused.message) == (403, "the key `watcher` may read the metrics, and nothing else")


def test_a_question_about_a_picture(service: Service, files: dict[str, bytes]) -> None:
    result = service.done(files["picture"], {"question": "Which colour is it?"})

    assert (result["answer"], result["captions"], result["embeddings"]) == ("red", [], [])
    assert "Which colour is it?" in json.dumps(service.gateway.bodies[-1])


def test_a_picture_is_embedded_where_the_model_takes_pictures(tmp_path: Path, files: dict[str, bytes]) -> None:
    with running(tmp_path, EMBEDDING_SEES="yes", VISION_MODEL="") as service:
        result = service.done(files["picture"], ["picture_embedding"])
        both = service.done(files["video"], {"transcript": True, "embedding": True, "keyframes": 2})

    (picture,) = result["embeddings"]
    assert (picture["file"], picture["model"], result["left_out"]) == ("preview.jpg", "vectors", [])
    assert [("text" in each, "time_s" in each) for each in both["embeddings"]] == [(True, False), *[(False, True)] * 2]
    # Texts and pictures have the same frame.
    asked = [body for body in service.gateway.bodies if body["model"] == "vectors"]
    assert all(len(body["messages"][0]["content"]) == 1 for body in asked)


def test_pictures_that_no_model_embeds_are_left_out_or_fail(service: Service, files: dict[str, bytes]) -> None:
    left_out = service.done(files["picture"], ["picture_embedding"])["left_out"]
    ended = service.ended(service.submit(files["picture"], {"picture_embedding": True}).document["id"])

    assert left_out == [
        "picture_embedding: no model of this stack embeds pictures (role embedding, with a vision encoder)"
    ]
    assert (ended["state"], "embeds pictures" in ended["error"]) == ("failed", True)


def test_a_video_has_its_frames_described_and_its_sound_written_down(service: Service, files: dict[str, bytes]) -> None:
    result = service.done(files["video"], ["captions", "transcript", "keyframes", "embedding"])
    speech, *frames = result["segments"]

    assert (speech["kind"], speech["text"], speech["start_s"]) == ("speech", "4 seconds", 0)
    assert [frame["text"] for frame in frames] == ["red", "green", "blue", "yellow"]
    assert [frame["start_s"] for frame in frames] == pytest.approx([0, 1, 2, 3], abs=0.2)
    assert frames[0]["end_s"] == frames[1]["start_s"]
    assert len(result["embeddings"]) == 5
    assert [file["name"] for file in result["files"]] == [f"frame-00{number}.jpg" for number in (1, 2, 3, 4)]


def test_sound_is_written_down(service: Service, files: dict[str, bytes]) -> None:
    result = service.done(files["sound"], ["transcript"])

    assert (result["text"], result["media"]["kind"]) == ("2 seconds", "sound")


def test_the_text_of_a_pdf_file(service: Service, files: dict[str, bytes]) -> None:
    result = service.done(files["pdf"])

    assert [(page["page"], page["text"]) for page in result["pages"]] == [
        (1, "This is page 1"),
        (2, "This is page 2"),
    ]
    assert "page-0002.jpg" in {file["name"] for file in result["files"]}


def test_the_bytes_come_back(service: Service, files: dict[str, bytes]) -> None:
    job = service.ended(service.submit(files["picture"], ["thumbnails"]).document["id"])
    answer = service.ask("GET", f"/v1/jobs/{job['id']}/files/thumbnail.jpg")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (120, 80)
    assert job["sha256"] == hashlib.sha256(files["picture"]).hexdigest()
    for name in ("jobs.sqlite", "..%2f..%2fjobs.sqlite", "sound.wav", "frame-001.jpg"):
        assert service.ask("GET", f"/v1/jobs/{job['id']}/files/{name}").status == 404


def test_a_bad_file_fails_with_a_sentence_and_costs_nothing_else(service: Service, files: dict[str, bytes]) -> None:
    bad = service.submit(files["bomb"]).document["id"]
    good = service.submit(files["picture"]).document["id"]
    job = service.ended(bad)

    assert (job["state"], job["attempts"], job["result"]) == ("failed", 1, None)
    assert job["error"] == "it has 60000 × 60000 pixels; 50000000 are allowed"
    assert service.ended(good)["state"] == "done"


def test_one_key_never_sees_anothers_jobs(service: Service, files: dict[str, bytes]) -> None:
    job_id = service.submit(files["picture"], ["thumbnails"]).document["id"]
    service.ended(job_id)
    failed = service.submit(b"no picture").document["id"]
    service.ended(failed)
    paths = [("GET", f"/v1/jobs/{job_id}"), ("GET", f"/v1/jobs/{job_id}/files/thumbnail.jpg")]
    paths += [("DELETE", f"/v1/jobs/{job_id}"), ("POST", f"/v1/dead/{failed}/replay")]

    for key in ("bob", "master", "multimodal"):
        found = [service.ask(method, path, key).status for method, path in paths]
        # The administrator plays the dead again, whoever's they are, and sees nothing of them but why they failed.
        assert found == [404, 404, 404, 202 if key == "master" else 404]
        listed = service.ask("GET", "/v1/jobs", key).content.decode()
        assert job_id not in listed
        if key != "master":
            assert failed not in service.ask("GET", "/v1/dead", key).content.decode()
    wrong: tuple[str | None, ...] = (None, "sk-wrong", KEYS["alice"][:-1] + "x")
    for method, path in paths:
        for stranger in wrong:
            assert service.ask(method, path, stranger).status == 401
    assert service.ask("GET", f"/v1/jobs/{job_id}").status == 200


def test_a_key_gets_only_the_models_that_it_is_for(service: Service, files: dict[str, bytes]) -> None:
    refused = service.submit(files["picture"], {"captions": True}, key="blind")
    result = service.done(files["picture"], key="blind")

    assert (refused.status, refused.message) == (403, "the key `blind` is not for `eyes`, which `captions` needs")
    assert result["captions"] == []


def test_one_request_makes_one_job(service: Service, files: dict[str, bytes]) -> None:
    first = service.submit(files["picture"], Idempotency_Key="invoice 7")
    second = service.submit(files["picture"], Idempotency_Key="invoice 7")

    assert (first.status, second.status) == (202, 200)
    assert first.document["id"] == second.document["id"]


BAD_WANTS = [
    ('{"captions": "yes"}', '`want.captions` must be true, false or "if-possible"'),
    ('{"keyframes": 65}', "`want.keyframes` must be true, false or a number from 0 to 64"),
    ('{"speed": 1}', "`want` has no `speed`"),
    ('"captions"', "`want` must be an object or a list of names"),
    ("{", "`want` is not JSON"),
]


@pytest.mark.parametrize(("want", "why"), BAD_WANTS, ids=[want for want, _ in BAD_WANTS])
def test_a_wish_that_cannot_be_read_is_refused(service: Service, want: str, why: str) -> None:
    body = f'--x\r\nContent-Disposition: form-data; name="want"\r\n\r\n{want}\r\n'
    body += '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n--x--\r\n'
    kind = "multipart/form-data; boundary=x"
    answer = service.ask("POST", "/v1/jobs", "alice", body.encode(), Content_Type=kind)

    assert answer.status == 400
    assert why in answer.message


def test_requests_that_are_no_uploads(service: Service) -> None:
    kind = "multipart/form-data; boundary=x"
    for body, content_type, status in (
        (b"{}", "application/json", 415),
        (b"no form", kind, 400),
        (b"--x--\r\n", kind, 400),
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n\r\n--x--\r\n', kind, 400),
        (b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\na\r\n--x--\r\n', kind, 400),
    ):
        answer = service.ask("POST", "/v1/jobs", "alice", body, Content_Type=content_type)
        assert (answer.status, bool(answer.message)) == (status, True), body
    assert stored(service) == []


def test_an_upload_without_an_end_is_cut_off(service: Service) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
        connection.putrequest("POST", "/v1/jobs")
        connection.putheader("Authorization", f"Bearer {KEYS['alice']}")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        piece, answered = head, False
        while not answered:
            piece += bytes(2**20)
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            piece = b""
            answered = bool(select.select([connection.sock], [], [], 0)[0])
        answer = connection.getresponse()
        assert answer.status == 413
        assert b"the file has more than 33554432 bytes (MULTIMODAL_MAX_FILE_MIB)" in answer.read()
    until(lambda: not stored(service))


def stored(service: Service) -> list[str]:
    """Return the originals on the disk that no job waits for."""
    jobs = service.ask("GET", "/v1/jobs").document["jobs"] + service.ask("GET", "/v1/jobs", "bob").document["jobs"]
    known = {job["id"] for job in jobs}
    return [path.name for path in (service.folder / "data" / "incoming").iterdir() if path.name not in known]


def test_a_gateway_that_is_busy_is_asked_again(service: Service, files: dict[str, bytes]) -> None:
    service.gateway.mood, service.gateway.times = 503, 1
    job = service.ended(service.submit(files["picture"], ["captions"]).document["id"])

    assert (job["state"], job["attempts"], job["result"]["text"]) == ("done", 2, "red")


def test_a_limit_is_waited_for_as_long_as_it_says(service: Service, files: dict[str, bytes]) -> None:
    service.gateway.mood, service.gateway.times, service.gateway.retry_after = 429, 4, "0"
    job = service.ended(service.submit(files["picture"], ["captions"]).document["id"])

    assert (job["state"], job["attempts"]) == ("done", 5)


def test_a_refusal_of_the_model_fails_the_job(service: Service, files: dict[str, bytes]) -> None:
    service.gateway.mood = 400
    job = service.ended(service.submit(files["picture"], ["captions"]).document["id"])

    assert (job["state"], job["error"]) == ("failed", "the gateway answered 400: not now")


def test_the_self_test(service: Service) -> None:
    answer = service.ask("POST", "/v1/self-test", "multimodal")

    assert answer.status == 200
    assert answer.document["text"] == "red"
    assert service.ask("POST", "/v1/self-test", "alice").status == 403
    assert service.ask("GET", "/v1/jobs", "multimodal").document["jobs"] == []


def test_the_metrics_tell_of_jobs_and_of_nobody(service: Service, files: dict[str, bytes]) -> None:
    service.done(files["picture"])
    text = service.ask("GET", "/metrics", key=None).content.decode()

    assert 'stackwright_multimodal_jobs{state="done"}' in text
    assert "alice" not in text


def test_what_a_process_may_see_holds_no_key(service: Service) -> None:
    for pid in [service.pid, *service.below("worker")]:
        for name in ("cmdline", "environ"):
            text = Path(f"/proc/{pid}/{name}").read_bytes()
            assert b"sk-" not in text


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Service]:
    """A service of the test's own, with nothing but a vision model, one worker and two attempts."""
    variables = {"SPEECH_MODEL": "", "EMBEDDING_MODEL": "", "MULTIMODAL_MAX_ATTEMPTS": "1"}
    with running(
        tmp_path / "lone", MULTIMODAL_WORKER_PROCESSES="1", MULTIMODAL_MAX_QUEUED_JOBS="2", **variables
    ) as one:
        yield one


def test_without_a_speech_model(lone: Service, files: dict[str, bytes]) -> None:
    job = lone.ended(lone.submit(files["sound"], {"transcript": True}).document["id"])
    result = lone.done(files["video"], {"transcript": "if-possible", "captions": True})

    why = "nothing here writes down speech: the stack has no model of the role transcription"
    assert job["state"] == "failed"
    assert job["error"].startswith(why)
    assert result["left_out"] == [f"transcript: {job['error']}"]
    assert len(result["segments"]) == 4


def test_the_dead_are_listed_and_played_again(lone: Service, files: dict[str, bytes]) -> None:
    lone.gateway.mood = 503
    job_id = lone.submit(files["picture"], ["captions"]).document["id"]
    ended = lone.ended(job_id)
    assert ended["state"] == "dead", ended
    (row,) = lone.ask("GET", "/v1/dead").document["jobs"]
    assert (row["id"], row["error"]) == (job_id, "the gateway answered 503: not now (tried 1 times)")
    (seen,) = lone.ask("GET", "/v1/dead", "master").document["jobs"]
    assert (seen["key"], "want" in seen, "result" in seen) == ("alice", False, False)

    lone.gateway.mood = 200
    assert lone.ask("POST", f"/v1/dead/{job_id}/replay").status == 202
    job = lone.ended(job_id)
    assert (job["state"], job["result"]["text"], job["attempts"]) == ("done", "red", 2)
    assert lone.ask("POST", f"/v1/dead/{job_id}/replay").status == 404


def test_a_key_has_no_more_jobs_than_are_allowed(lone: Service, files: dict[str, bytes]) -> None:
    lone.gateway.held.clear()
    ids = [lone.submit(files["picture"], ["captions"]).document["id"] for _ in range(2)]
    full = lone.submit(files["picture"], ["captions"])
    other = lone.submit(files["picture"], ["captions"], key="bob")
    lone.gateway.held.set()

    assert (full.status, full.message) == (429, "this key has 2 jobs that are not done; 2 are allowed")
    assert other.status == 202
    assert {lone.ended(job_id)["state"] for job_id in ids} == {"done"}


def test_a_deleted_job_is_gone_with_its_files(lone: Service, files: dict[str, bytes]) -> None:
    done = lone.submit(files["picture"], ["thumbnails"]).document["id"]
    lone.ended(done)
    lone.gateway.held.clear()
    running_now = lone.submit(files["picture"], ["captions"]).document["id"]
    until(lambda: lone.ask("GET", f"/v1/jobs/{running_now}").document["stage"] == "describing pictures")

    for job_id in (done, running_now):
        assert lone.ask("DELETE", f"/v1/jobs/{job_id}").status == 204
        assert lone.ask("GET", f"/v1/jobs/{job_id}").status == 404
    lone.gateway.held.set()
    assert lone.done(files["picture"], ["captions"])["text"] == "red"
    kept = [path for path in (lone.folder / "data" / "files").iterdir() if path.name in (done, running_now)]
    assert kept == []


def test_a_second_service_on_the_same_volume_is_refused(lone: Service) -> None:
    other = Service(lone.folder, lone.gateway)
    done = subprocess.run(
        ["sh", PROGRAM / "start.sh", "127.0.0.1", "1"],
        env=other.variables,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.endswith("data is used by another multimodal service\n")


def test_a_stop_leaves_nobody_and_counts_as_no_death(lone: Service, files: dict[str, bytes]) -> None:
    lone.gateway.held.clear()
    job_id = lone.submit(files["picture"], ["captions"]).document["id"]
    until(lambda: lone.ask("GET", f"/v1/jobs/{job_id}").document["stage"] == "describing pictures")
    workers = lone.below("worker")
    lone.stop()

    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    lone.gateway.held.set()
    lone.start()
    assert lone.ended(job_id)["result"]["text"] == "red"
    assert "interruptions_total 0" in lone.ask("GET", "/metrics", key=None).content.decode()


class Ended:
    """Notes which workers are ended; `ask` asks the store at once."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.arriving = frozenset[str]()

    def end(self, pid: int) -> None:
        """Note one."""
        self.pids.append(pid)

    async def ask(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """Ask the store."""
        return what(*arguments)


def test_a_worker_that_tells_nothing_is_ended_and_strays_are_removed(tmp_path: Path) -> None:
    settings = read_settings(Service(tmp_path, Gateway()).variables)
    for folder in (settings.folders.incoming, settings.folders.kept):
        folder.mkdir()
    jobs = Jobs(tmp_path / "jobs.sqlite")
    for name in ("hung", "waits"):
        new = NewJob(id=name, owner="alice", name="a", bytes=1, sha256="", want={})
        jobs.add(new, settings.room)
        settings.folders.original(name).write_bytes(b"a")
    settings.folders.original("stray").write_bytes(b"a")
    settings.folders.of_job("stray").mkdir()
    jobs.claim(4711)
    told = Ended()

    async def look() -> None:
        looking = asyncio.create_task(look_after(told, told, jobs, settings, hung_s=0))  # type: ignore[arg-type]
        while not told.pids:
            await asyncio.sleep(0)
        looking.cancel()

    asyncio.run(asyncio.wait_for(look(), 20))
    jobs.close()
    assert told.pids == [4711]
    assert sorted(path.name for path in settings.folders.incoming.iterdir()) == ["hung", "waits"]
    assert list(settings.folders.kept.iterdir()) == []
