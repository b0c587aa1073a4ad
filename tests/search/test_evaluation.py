from rust_optuna.config import StudyKind
from rust_optuna.search.evaluation import evaluation_name
from rust_optuna.study_file import NAME


def test_the_name_of_an_evaluation_is_no_longer_than_a_study_may_have():
    assert evaluation_name("regime-1") == "regime-1-evaluation"
    names = [evaluation_name("x" * 99 + letter) for letter in "ab"]
    assert len(set(names)) == 2
    for name in (*names, evaluation_name("x" * 89)):
        assert NAME.fullmatch(name)
        assert name.endswith("-evaluation")
    by_source = evaluation_name("x" * 100, StudyKind.SOURCES)
    assert NAME.fullmatch(by_source)
    assert by_source.endswith("-by-source")
