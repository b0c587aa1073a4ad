"""A round of kills of an evaluation, and what its check finds; `make chaos-evaluation` runs dozens of rounds."""

import json

import pytest

from tests.chaos.check import LOST, TWICE, WRONG
from tests.chaos.evaluation import LEFT, MOMENTS, SEARCH, Templates, check_round, draw, run_round, undisturbed

SEED = 6
"""Of a round that kills the command between the record and the numbers."""


def test_the_same_seed_draws_the_same_round():
    assert draw(7) == draw(7)
    assert draw(7) != draw(9)
    assert {kill.moment for seed in range(30) for kill in draw(seed).kills} == {"clock", *MOMENTS}
    assert {kill.victim for seed in range(30) for kill in draw(seed).kills} == {"worker", "evaluate", "all"}
    assert "clock" not in {kill.moment for seed in range(0, 30, 2) for kill in draw(seed).kills}


@pytest.mark.long
@pytest.mark.tensorflow
def test_an_evaluation_killed_anywhere_is_one_opening_with_the_same_numbers(tmp_path):
    templates = Templates("sqlite", tmp_path)
    templates.make()
    place = templates.copy("trained", "undisturbed")
    expected = undisturbed(place)
    done = run_round(SEED, templates, expected)
    assert [str(finding) for finding in done.findings] == []
    assert done.killed

    # The check finds what a round must not leave.
    def kinds():
        return [finding.kind for finding in check_round(place, expected)]

    assert kinds() == []
    folder, record = place.home.models / SEARCH, place.home.root / "manifest.openings.json"
    (place.home.models / f".{SEARCH}.0123456789ab.tmp").mkdir()
    assert kinds() == [LEFT]
    document = json.loads(record.read_text())
    second = {**document["openings"][0], "id": "x", "models": {}}
    record.write_text(json.dumps({**document, "openings": [*document["openings"], second]}))
    assert kinds() == [TWICE, WRONG, LEFT]
    (folder / "metrics.json").write_text("{}")
    assert kinds() == [TWICE, WRONG, WRONG, WRONG, WRONG, LEFT]
    (folder / "SHA256SUMS").unlink()
    assert kinds() == [TWICE, WRONG, LOST, LEFT]
