import hashlib
import itertools
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from PIL import Image

from rust_optuna.data import film_index
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.radiographs import FORMATS, SIGNATURE_BYTES, content_hash, has_signature, pixel_hash
from rust_optuna.errors import DataError, FilmError, MissingFilmsError
from tests.data.films import draw_film


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
    with pytest.raises(DataError, match=rf"^{tmp_path / 'a'} \(film \w+ is gone: .* --data-root"):
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


@pytest.fixture
def root(tmp_path):
    """A folder of films in folders, beside other files; returns it and the films' contents."""
    (tmp_path / "root" / "Smith" / "left").mkdir(parents=True)
    names = ["Smith/left/1.PNG", "Smith/2.jpeg", "3.tif"]
    contents = [film(tmp_path / "root" / name, name) for name in names]
    film(tmp_path / "root" / "notes.txt", "no film")
    return tmp_path / "root", contents


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed."""
    found, original = [], film_index.content_hash
    monkeypatch.setattr(film_index, "content_hash", lambda path: found.append(path.name) or original(path))
    return found


def test_films_below_a_folder_are_found_whatever_their_folders(tmp_path, root, hashed):
    folder, contents = root
    index, seen = FilmIndex(tmp_path / "films.json"), []
    index.scan(folder, contents[:2], lambda done, total: seen.append((done, total)))
    assert sorted(hashed) == ["1.PNG", "2.jpeg", "3.tif"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert FilmIndex(index.path).read(contents[0]) == b"Smith/left/1.PNG"
    assert index.locate(contents[1]) == folder / "Smith" / "2.jpeg"


JPEG, PNG, TIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0"


@pytest.mark.parametrize(
    ("name", "begins"), [("1.jfif", JPEG), ("1.JPE", JPEG), ("1", PNG), ("1.dat", TIFF), ("IM.000.001", b"MM\0*")]
)
def test_a_film_is_found_whatever_its_name(tmp_path, name, begins):
    path = tmp_path / "root" / name
    path.parent.mkdir()
    path.write_bytes(begins + b"film")
    index = FilmIndex(tmp_path / "films.json")
    index.scan(path.parent, [content_hash(path)])
    assert index.locate(content_hash(path)) == path


def test_every_file_that_can_be_read_as_a_film_begins_as_such(tmp_path):
    """Pillow decides what is read: no format's beginning may be missing."""
    Image.preinit()
    for begins in itertools.product("IM\x89\xff", "IMP\xd8"):
        for rest in (b"*\0", b"\0*", b"+\0", b"\0+", b"\xff\xe0", b"NG\r\n\x1a\n"):
            start = "".join(begins).encode("latin-1") + rest + b"\0" * 8
            accepted = any(Image.OPEN[name][1](start) for name in FORMATS)
            assert has_signature(start[:SIGNATURE_BYTES]) == accepted, start


def test_links_are_followed_and_no_loop_is_run_in(tmp_path, root, hashed):
    folder, contents = root
    outside = tmp_path / "disk2"
    outside.mkdir()
    far = film(outside / "far.png", "far")
    film_behind_a_link = film(tmp_path / "single", "\x89PNG")
    (folder / "more").symlink_to(outside)
    (folder / "again").symlink_to(outside)
    (outside / "back").symlink_to(folder)
    (outside / "self").symlink_to(outside)
    (folder / "one.png").symlink_to(tmp_path / "single")
    index = FilmIndex(tmp_path / "films.json")
    index.scan(folder, [*contents, far, film_behind_a_link])
    assert sorted(hashed) == ["1.PNG", "2.jpeg", "3.tif", "far.png", "one.png"]


def test_what_was_passed_over_is_said_and_a_pipe_does_not_hold_the_search_up(tmp_path, root):
    folder, _ = root
    os.mkfifo(folder / "pipe.png")
    (folder / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(MissingFilmsError) as caught:
        FilmIndex(tmp_path / "films.json").scan(folder, ["0" * 64])
    assert "3 image files were compared there" in str(caught.value)
    assert f"3 files there are not PNG, JPEG or TIFF, the first: {folder}" in str(caught.value)
    assert str(folder) not in caught.value.public


def test_nothing_is_hashed_twice(tmp_path, root, hashed):
    folder, contents = root
    FilmIndex(tmp_path / "films.json").scan(folder, contents)
    hashed.clear()
    FilmIndex(tmp_path / "films.json").scan(folder, contents)
    late = film(folder / "late.png", "late")
    FilmIndex(tmp_path / "films.json").scan(folder, [*contents, late])
    assert hashed == ["late.png"]


def test_a_folder_is_not_looked_at_where_no_film_is_missing(tmp_path, root):
    folder, contents = root
    index = FilmIndex(tmp_path / "films.json")
    index.add([folder / "3.tif"])
    index.scan(tmp_path / "nowhere", contents[2:])
    with pytest.raises(DataError, match="nowhere, which is not a folder"):
        index.scan(tmp_path / "nowhere", contents)


def test_films_that_moved_are_found_in_their_new_place(tmp_path, root):
    folder, contents = root
    index = FilmIndex(tmp_path / "films.json")
    index.scan(folder, contents)
    folder.rename(tmp_path / "moved")
    index.scan(tmp_path / "moved", contents)
    assert index.locate(contents[2]) == tmp_path / "moved" / "3.tif"


def test_films_that_a_folder_lacks_are_counted_and_named_and_the_others_kept(tmp_path, root):
    folder, contents = root
    absent = [f"{number:064x}" for number in range(7)]
    (folder / "broken.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MissingFilmsError) as caught:
        FilmIndex(tmp_path / "films.json").scan(folder, [*contents, *absent])
    assert f"7 of 10 films cannot be found below {folder} with the same bytes" in str(caught.value)
    assert f"{'000000000000, ' * 5}…" in str(caught.value)
    assert f"1 files or folders there cannot be read, the first: {folder / 'broken.png'}" in str(caught.value)
    assert str(folder) not in caught.value.public
    assert FilmIndex(tmp_path / "films.json").locate(contents[0])


def test_a_film_whose_file_changed_is_refused_by_name_each_time(tmp_path, root):
    folder, contents = root
    index = FilmIndex(tmp_path / "films.json")
    index.scan(folder, contents)
    film(folder / "Smith" / "2.jpeg", "retouched")
    for _ in range(2):
        with pytest.raises(MissingFilmsError) as caught:
            FilmIndex(index.path).scan(folder, contents)
        what = f"film {contents[1][:12]} has changed: its content differs from the manifest's"
        assert f"{folder / 'Smith' / '2.jpeg'} ({what})" in str(caught.value)
        assert what in caught.value.public
        assert "Smith" not in caught.value.public


def test_a_copy_below_the_folder_stands_in_for_a_film_that_changed(tmp_path, root):
    folder, contents = root
    index = FilmIndex(tmp_path / "films.json")
    index.scan(folder, contents)
    film(folder / "3.tif", "retouched")
    film(folder / "copy.tif", "3.tif")
    index.scan(folder, contents)
    assert index.read(contents[2]) == b"3.tif"


# Pixels


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded."""
    names = []

    def decode(content, *, name):
        names.append(Path(name).name)
        return pixel_hash(content, name=name)

    monkeypatch.setattr(film_index, "pixel_hash", decode)
    return names


def test_a_film_is_decoded_once_wherever_it_lies(tmp_path, decoded):
    path, copy = tmp_path / "a.png", tmp_path / "b.png"
    draw_film(path, 1)
    expected = pixel_hash(path)
    index = FilmIndex(tmp_path / "films.json")
    assert index.add_pixels([path]) == {path: expected}
    assert FilmIndex(index.path).add_pixels([path]) == {path: expected}
    path.rename(copy)
    assert FilmIndex(index.path).add_pixels([copy]) == {copy: expected}
    assert decoded == ["a.png"]
    # What is only hashed loses nothing of it, by whichever process.
    os.utime(copy, ns=(1, 1))
    FilmIndex(index.path).add([copy])
    assert FilmIndex(index.path).add_pixels([copy]) == {copy: expected}
    assert decoded == ["a.png"]
    draw_film(copy, 2)
    assert FilmIndex(index.path).add_pixels([copy]) == {copy: pixel_hash(copy)}
    assert decoded == ["a.png", "b.png"]


def test_an_index_that_was_loaded_earlier_takes_no_pixels_away(tmp_path, decoded):
    path = tmp_path / "a.png"
    draw_film(path, 1)
    index, other = FilmIndex(tmp_path / "films.json"), FilmIndex(tmp_path / "films.json")
    load = index._load
    # The other one decodes the film after this one has looked.
    index._load = lambda: {}
    good, _ = index._hash([str(path)], None)
    other.add_pixels([path])
    index._load = load
    index._remember(good)
    FilmIndex(index.path).add_pixels([path])
    assert decoded == ["a.png"]


def test_an_index_of_the_earlier_version_is_read_and_its_films_are_decoded_once(tmp_path, decoded):
    path = tmp_path / "a.png"
    draw_film(path, 1)
    stat = path.stat()
    entry = {"content": "0" * 64, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    index = tmp_path / "films.json"
    index.write_text(json.dumps({"version": 1, "films": {str(path): entry}}))
    assert FilmIndex(index).locate("0" * 64) == path  # not hashed again
    for _ in range(2):
        assert FilmIndex(index).add_pixels([path]) == {path: pixel_hash(path)}
    # Both hashes are of the bytes that were decoded.
    assert FilmIndex(index).locate(content_hash(path)) == path
    assert decoded == ["a.png"]


def test_films_that_cannot_be_decoded_are_told_and_the_others_kept(tmp_path):
    good, bad, gone = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    draw_film(good, 1)
    bad.write_text("no image")
    found = FilmIndex(tmp_path / "films.json").add_pixels([good, bad, gone])
    assert found[good] == pixel_hash(good)
    assert "is not a PNG, JPEG or TIFF file" in str(found[bad])
    assert "No such file" in str(found[gone])
    assert FilmIndex(tmp_path / "films.json").locate(content_hash(good)) == good
