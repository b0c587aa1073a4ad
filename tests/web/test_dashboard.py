import json
import threading
import urllib.error
import urllib.request

import optuna
import pytest

from rust_optuna.config import HYPERPARAMETERS
from rust_optuna.storage.artifacts import open_store
from rust_optuna.web import dashboard
from rust_optuna.web.dashboard import reading_only, serve
from tests.studies import make_study, points, random_document, shown


@pytest.fixture
def study(database, home):
    return make_study(database, home, random_document(2))


@pytest.fixture
def address(database, home, study):
    """The address of a running dashboard."""
    with serve(database, open_store("storage/artifacts", home), port=0, host="127.0.0.1") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def ask(url, method="GET", body=None):
    """Return the status, the headers and the body of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_readers_see_the_page_the_studies_and_their_trials(address):
    status, headers, body = ask(f"{address}/dashboard")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert b"Optuna" in body
    summaries = json.loads(ask(f"{address}/api/studies")[2])["study_summaries"]
    assert [each["study_name"] for each in summaries] == ["regime-1"]
    detail = json.loads(ask(f"{address}/api/studies/{summaries[0]['study_id']}?after=0")[2])
    assert [trial["state"] for trial in detail["trials"]] == ["Waiting"] * 2
    assert ask(f"{address}/dashboard", "HEAD")[0] == 200


def test_the_page_tells_what_ran_and_what_somebody_else_did_since(address, database, study, monkeypatch):
    def detail():
        study_id = database.storage.get_study_id_from_name(study.name)
        return json.loads(ask(f"{address}/api/studies/{study_id}?after=0")[2])

    monkeypatch.setattr(dashboard, "NOTES_SECONDS", 9999)
    found = detail()
    assert "fixed: learning_rate = 0.001" in found["note"]["body"]
    assert {"fixed", "inherited", "model", "development", "fingerprint"} <= {
        each["key"] for each in found["user_attrs"]
    }
    assert {each["name"] for each in found["trials"][0]["params"]} == set(HYPERPARAMETERS)
    optuna.load_study(study_name=study.name, storage=database.storage).optimize(lambda trial: 0.99, n_trials=1)
    assert "somebody else" not in detail()["note"]["body"]  # it was looked at a moment ago
    monkeypatch.setattr(dashboard, "NOTES_SECONDS", 0)
    assert "1 of its trials in Optuna was finished by somebody else" in detail()["note"]["body"]


def test_nothing_can_be_changed_through_it(address, database, home, study):
    before = shown(database, study), points(database, study)
    trial, study_id = before[0][0]._trial_id, database.storage.get_study_id_from_name(study.name)
    attempts = [
        ("POST", f"/api/trials/{trial}/tell", {"state": "Complete", "values": [-99]}),
        ("DELETE", f"/api/studies/{study_id}", {}),
        ("POST", f"/api/studies/{study_id}/rename", {"study_name": "mine"}),
        ("PUT", f"/api/studies/{study_id}/note", {"body": "mine", "version": 1}),
        ("POST", "/api/studies", {"study_name": "mine", "directions": ["minimize"]}),
        ("PATCH", f"/api/studies/{study_id}", {}),
        ("OPTIONS", f"/api/studies/{study_id}", None),
        ("DELETE", f"/api/artifacts/{study_id}/some", None),
    ]
    for method, path, body in attempts:
        status, headers, _ = ask(address + path, method, body)
        assert (status, headers["Allow"]) == (405, "GET, HEAD"), (method, path)
    assert (shown(database, study), points(database, study)) == before
    assert [each.study_name for each in database.storage.get_all_studies()] == ["regime-1"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "get", "POST", "TRACE", "", None])
def test_only_get_and_head_reach_what_is_behind_the_filter(method):
    answers, reached = [], []

    def inner(environment, start_response):
        reached.append(method)
        return [b""]

    list(reading_only(inner)({"REQUEST_METHOD": method}, lambda status, headers: answers.append(status)))
    assert bool(reached) == (method in ("GET", "HEAD"))
    assert bool(answers) != bool(reached)


def test_notes_that_cannot_be_written_keep_nobody_from_the_page(address, monkeypatch):
    calls = []

    def failing(*_):
        calls.append(1)
        raise ValueError("a note")

    monkeypatch.setattr(dashboard, "load_studies", failing)
    for _ in range(3):
        assert ask(f"{address}/api/studies")[0] == 200
    assert calls == [1]
