import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from rust_optuna.data import film_index
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.errors import DataError, FilmError


def film(path: Path, content: str) -> str:
    path.write_text(content)
    return hashlib.sha256(content.encode()).hexdigest()


def test_what_was_added_is_found_in_another_process_too(tmp_path):
    path = tmp_path / "a"
    content = film(path, "A")
    index = FilmIndex(tmp_path / "storage" / "films.json")
    assert index.add([path]) == {path: content}
    assert index.locate(content) == path
    assert FilmIndex(index.path).read(content) == b"A"


def test_relative_paths_are_kept_absolute(tmp_path, monkeypatch):
    content = film(tmp_path / "a", "A")
    index = FilmIndex(tmp_path / "films.json")
    monkeypatch.chdir(tmp_path)
    assert index.add([Path("a")]) == {Path("a"): content}
    assert index.locate(content) == tmp_path / "a"


def test_only_new_and_changed_files_are_hashed(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        film(path, path.name)
    FilmIndex(tmp_path / "films.json").add(paths[:2])
    changed = film(paths[0], "changed")
    hashed = []
    original = film_index.content_hash
    monkeypatch.setattr(film_index, "content_hash", lambda path: hashed.append(path) or original(path))
    found = FilmIndex(tmp_path / "films.json").add(paths)
    assert sorted(hashed) == [paths[0], paths[2]]
    assert found[paths[0]] == changed


def test_an_unknown_film(tmp_path):
    with pytest.raises(DataError, match="film 000000000000 is not on this machine"):
        FilmIndex(tmp_path / "films.json").locate("0" * 64)
    assert not (tmp_path / "films.json").exists()


def test_a_film_that_is_gone_is_named(tmp_path):
    content = film(tmp_path / "a", "A")
    index = FilmIndex(tmp_path / "films.json")
    index.add([tmp_path / "a"])
    (tmp_path / "a").unlink()
    with pytest.raises(DataError, match=rf"^{tmp_path / 'a'} \(film \w+ is gone\)"):
        index.read(content)


def test_a_copy_stands_in_for_a_film_that_is_gone_or_changed(tmp_path):
    content = film(tmp_path / "a", "A")
    film(tmp_path / "b", "A")
    index = FilmIndex(tmp_path / "films.json")
    index.add([tmp_path / "a", tmp_path / "b"])
    film(tmp_path / "a", "other")
    assert index.read(content) == b"A"
    (tmp_path / "a").unlink()
    assert index.locate(content) == tmp_path / "b"


def test_a_changed_film_is_refused_even_with_its_old_size_and_time(tmp_path):
    path = tmp_path / "a"
    content = film(path, "A")
    index = FilmIndex(tmp_path / "films.json")
    index.add([path])
    stat = path.stat()
    path.write_text("B")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=rf"^{path} \(film \w+ has changed"):
        index.read(content)


def test_all_unreadable_files_are_named_and_the_others_kept(tmp_path):
    content = film(tmp_path / "a", "A")
    index = FilmIndex(tmp_path / "films.json")
    with pytest.raises(DataError, match="2 of 3 films cannot be read") as caught:
        index.add([tmp_path / "x", tmp_path / "a", tmp_path / "y"])
    assert str(tmp_path / "x") in str(caught.value)
    assert str(tmp_path / "y") in str(caught.value)
    assert FilmIndex(index.path).locate(content) == tmp_path / "a"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99, "films": {}}', '{"version": 1, "films": 3}'])
def test_a_broken_index_says_what_to_do(tmp_path, text):
    (tmp_path / "films.json").write_text(text)
    with pytest.raises(DataError, match="delete it"):
        FilmIndex(tmp_path / "films.json")


def add_some(path: Path, films: list[Path]) -> None:
    for each in films:
        FilmIndex(path).add([each])


def test_processes_that_add_at_once_lose_nothing(tmp_path):
    films = [tmp_path / f"film{i}" for i in range(24)]
    contents = [film(path, path.name) for path in films]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_some, args=(tmp_path / "films.json", films[i::3])) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    index = FilmIndex(tmp_path / "films.json")
    assert [index.locate(content) for content in contents] == films


def test_a_film_added_elsewhere_meanwhile_is_found(tmp_path):
    index = FilmIndex(tmp_path / "films.json")
    content = film(tmp_path / "a", "A")
    FilmIndex(index.path).add([tmp_path / "a"])
    assert index.read(content) == b"A"


def test_progress_counts_every_file(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        film(path, path.name)
    seen = []
    FilmIndex(tmp_path / "films.json").add(paths, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_error_about_a_film_names_its_file_on_the_terminal_and_its_content_elsewhere(tmp_path):
    content = film(tmp_path / "Smith", "A")
    index = FilmIndex(tmp_path / "films.json")
    index.add([tmp_path / "Smith"])
    with pytest.raises(FilmError) as caught, index.naming():
        raise FilmError(content, "cannot be read as an image")
    assert str(tmp_path / "Smith") in str(caught.value)
    assert caught.value.public == f"film {content[:12]} cannot be read as an image"
