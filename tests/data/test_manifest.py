from codecs import BOM_UTF8
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rust_optuna.data.manifest import (
    COLUMNS,
    CORTICES,
    LABELS,
    VIEWS,
    Film,
    read_manifest,
    split_problems,
    update_manifest,
    write_manifest,
)
from rust_optuna.errors import ManifestError
from rust_optuna.spelling import composed

HEADER = ",".join(COLUMNS)
GOOD = "films/a.png,p1,v1,anteroposterior,1,2,,,development"


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def problems(path: Path, **options: bool) -> list[tuple[str, str]]:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)
    return [(problem.where, problem.what) for problem in caught.value.problems]


def test_a_row_becomes_a_record(tmp_path):
    (film,) = read_manifest(write(tmp_path, GOOD)).films
    assert film == Film(
        row=2,
        image=tmp_path / "films/a.png",
        patient="p1",
        visit="v1",
        view="anteroposterior",
        subscores=(1, 2, None, None),
        split="development",
    )
    assert film.scored == ("medial", "lateral")


def test_the_label_is_one_hot_in_the_order_of_labels(tmp_path):
    (film,) = read_manifest(write(tmp_path, "a.png,p,v,lateral,,,4,1,")).films
    assert film.label.dtype == np.uint8
    assert [name for name, value in zip(LABELS, film.label, strict=True) if value] == [
        "view_lateral",
        "anterior_4",
        "posterior_1",
    ]
    assert len(LABELS) == 18


@pytest.mark.parametrize("written", ["2", "2.0", "2.", "2.00"])
def test_a_whole_number_may_have_gone_through_a_table_of_floats(tmp_path, written):
    path = write(tmp_path, f"a.png,p,v,lateral,,,{written},1.0,")
    (film,) = read_manifest(path).films
    assert film.subscores == (None, None, 2, 1)
    write_manifest(path, [film])
    assert path.read_text().splitlines()[1] == "a.png,p,v,lateral,,,2,1,"


@pytest.mark.parametrize("written", ["0.0", "5.0", "2.5", "2.01", "-2", "2,0", "٢", "nan", "2e0"])
def test_what_is_no_subscore_is_refused(tmp_path, written):
    assert problems(write(tmp_path, f'a.png,p,v,lateral,,,"{written}",,')) == [
        ("row 2, anterior", f"{written!r} is not 1, 2, 3, 4 or empty")
    ]


def test_sources_and_further_readers_are_optional_columns(tmp_path):
    readers = [f"reader{reader}_{cortex}" for reader in (2, 3) for cortex in CORTICES]
    header = ",".join([HEADER, "source", *readers])
    path = write(tmp_path, f"{GOOD},Oslo,1,,,,2,2.0,,", "b.png,p2,v,lateral,,,,,,,,,,,,,,", header=header)
    assert read_manifest(path).ignored == ()
    first, second = read_manifest(path).films
    assert (first.source, second.source) == ("Oslo", "")
    assert first.readers == ((1, None, None, None), (2, 2, None, None))
    assert second.readers == ((None,) * 4, (None,) * 4)
    write_manifest(path, [first, second])
    assert path.read_text().splitlines()[0] == header
    assert read_manifest(path).films == (first, second)


def test_columns_of_readers_are_checked_like_the_others(tmp_path):
    header = f"{HEADER},reader2_medial,reader2_lateral,reader2_anterior,reader2_posterior"
    path = write(tmp_path, f"{GOOD},5,x,,", header=header)
    assert problems(path) == [
        ("row 2, reader2_medial", "'5' is not 1, 2, 3, 4 or empty"),
        ("row 2, reader2_lateral", "'x' is not 1, 2, 3, 4 or empty"),
    ]
    path = write(tmp_path, f"{GOOD},1,2", header=f"{HEADER},reader2_medial,reader2_medial")
    words = "is missing, and other columns of readers are there"
    assert problems(path) == [
        ("row 1", "column 'reader2_medial' occurs 2 times"),
        *(("row 1", f"column 'reader2_{cortex}' {words}") for cortex in CORTICES[1:]),
    ]


def test_whether_a_patient_is_distinct_is_an_optional_column(tmp_path):
    header, rows = f"{HEADER},distinct", [f"{GOOD},yes", "b.png,p2,v,lateral,,,,,,", "c.png,p2,v,lateral,,,,,,no"]
    assert problems(write(tmp_path, *rows, header=header)) == [("row 4, distinct", "'no' is not yes or empty")]
    path = write(tmp_path, *rows[:2], header=header)
    films = read_manifest(path).films
    assert [film.distinct for film in films] == [True, False]
    write_manifest(path, films)
    assert read_manifest(path).films == films
    assert path.read_text().splitlines()[0] == header
    write_manifest(path, films[1:])
    assert path.read_text().splitlines()[0] == HEADER


def test_every_violation_is_reported_with_its_row(tmp_path):
    path = write(
        tmp_path,
        "a.png,p,v,oblique,5,1.5,,,",
        GOOD,
        ",,v,lateral,,,,,train",
        "/abs/b.png,p,v,lateral,,,,,",
    )
    assert problems(path) == [
        ("row 2, view", "'oblique' is not anteroposterior or lateral"),
        ("row 2, medial", "'5' is not 1, 2, 3, 4 or empty"),
        ("row 2, lateral", "'1.5' is not 1, 2, 3, 4 or empty"),
        ("row 4, image", "is empty"),
        ("row 4, patient", "is empty"),
        ("row 4, split", "'train' is not development, holdout or empty"),
        ("row 5, image", "'/abs/b.png' is absolute, not relative to the manifest"),
    ]
    with pytest.raises(ManifestError, match=r"^7 problems in .*manifest\.csv:\n"):
        read_manifest(path)


def test_the_same_image_twice_is_named_however_it_is_spelt(tmp_path):
    path = write(tmp_path, GOOD, GOOD.replace("films/a", "films/../films/a"))
    assert problems(path) == [("row 3, image", "'films/../films/a.png' is already in row 2")]


def test_ragged_rows_are_reported_and_blank_lines_passed_over(tmp_path):
    path = write(tmp_path, "", GOOD, "a.png,p", ",,,,,,,,", GOOD + ",more")
    assert problems(path) == [
        ("row 4", "has 2 cells, but the header has 9"),
        ("row 6", "has 10 cells, but the header has 9"),
    ]


def test_missing_unknown_and_repeated_columns(tmp_path):
    path = write(tmp_path, GOOD, header=HEADER.replace("visit", "vist") + ",view")
    assert problems(path) == [
        ("row 1", "column 'visit' is missing: rename the column 'vist', if that is the one"),
        ("row 1", "column 'view' occurs 2 times"),
    ]


def test_columns_may_come_in_any_order(tmp_path):
    order = list(reversed(COLUMNS))
    path = write(tmp_path, ",".join(reversed(GOOD.split(","))), header=",".join(order))
    assert read_manifest(path).films[0].subscores == (1, 2, None, None)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_semicolons_tabs_and_bars_are_recognised(tmp_path, delimiter):
    path = write(tmp_path, GOOD.replace(",", delimiter), header=HEADER.replace(",", delimiter))
    assert read_manifest(path).films == read_manifest(write(tmp_path, GOOD)).films


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("first", ["sep={}", '"sep={}"', "SEP={}{}{}"])
def test_excel_s_own_first_line_is_no_header_and_stays(tmp_path, first, delimiter):
    first = first.format(*[delimiter] * 3)
    rows = [row.replace(",", delimiter) for row in (HEADER, GOOD)]
    assert problems(write(tmp_path, *rows, rows[1], header=first)) == [
        ("row 4, image", "'films/a.png' is already in row 3")
    ]
    path = write(tmp_path, *rows, header=first)
    before = path.read_text()
    films = read_manifest(path).films
    assert [film.row for film in films] == [3]
    update_manifest(path, films)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        (b"", "file", "is empty"),
        (b"\n\n", "file", "is empty"),
        (HEADER.encode(), "file", "has no films, only a header"),
        ((HEADER + "\n" + GOOD).encode("utf-16"), "file", "is not UTF-8 (byte 0xff in line 1)"),
        ((HEADER + "\n" + GOOD + "ü").encode("latin-1"), "file", "is not UTF-8 (byte 0xfc in line 2)"),
        ((HEADER + '\n"a.png').encode(), "line 2", "unexpected end of data"),
    ],
)
def test_files_that_are_no_manifest(tmp_path, content, where, what):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    ((found_where, found_what),) = problems(path)
    assert found_where == where
    assert found_what.startswith(what)


def test_a_file_that_is_not_there(tmp_path):
    assert problems(tmp_path / "none.csv") == [("file", "cannot be read: No such file or directory")]


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text(HEADER + "\r\n" + GOOD + "\r\n", encoding="utf-8-sig")
    assert len(read_manifest(path).films) == 1


def test_control_characters_are_refused(tmp_path):
    assert problems(write(tmp_path, GOOD.replace("p1", "p\x00")))[0][0] == "row 2, patient"


def test_files_are_looked_for_only_where_asked(tmp_path):
    path = write(tmp_path, GOOD)
    assert read_manifest(path).films
    assert problems(path, require_files=True) == [("row 2, image", f"{tmp_path / 'films/a.png'} is not a file")]


def test_an_empty_split_is_refused_where_one_is_required(tmp_path):
    path = write(tmp_path, "a.png,p,v,lateral,,,,,", "b.png,p,v,lateral,,,,,", "c.png,q,v,lateral,,,,,holdout")
    assert read_manifest(path).part("") == read_manifest(path).films[:2]
    ((where, what),) = problems(path, require_split=True)
    assert where == "split"
    assert what == "is empty in rows 2, 3: run `rust-optuna data split MANIFEST`"


def test_a_patient_on_both_sides_is_named_with_its_rows(tmp_path):
    path = write(
        tmp_path,
        "a.png,p,v,lateral,,,,,development",
        "b.png,q,v,lateral,,,,,development",
        "c.png,p,v,lateral,,,,,holdout",
    )
    (problem,) = split_problems(read_manifest(path).films)
    assert problem.where == "patient p"
    assert problem.what == "is on both sides of the split (development: row 2; holdout: row 4)"


CELLS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)
FILMS = st.lists(
    st.builds(
        Film,
        row=st.just(0),
        image=st.uuids().map(lambda name: Path(f"/data/films/{name}.png")),
        patient=CELLS,
        visit=CELLS,
        view=st.sampled_from(VIEWS),
        subscores=st.tuples(*[st.none() | st.integers(1, 4)] * 4),
        split=st.sampled_from(["", "development", "holdout"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda film: film.image,
)


@given(films=FILMS)
def test_what_is_written_is_read_back(films, tmp_path_factory):
    path = tmp_path_factory.mktemp("round") / "manifest.csv"
    write_manifest(path, films)
    found = read_manifest(path).films
    assert [film.row for film in found] == list(range(2, len(films) + 2))
    assert [(f.image, f.patient, f.visit, f.view, f.subscores, f.split) for f in found] == [
        (f.image, composed(f.patient), f.visit, f.view, f.subscores, f.split) for f in films
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", BOM_UTF8])
def test_a_byte_order_mark_and_line_ends_are_read_and_kept(tmp_path, mark, end):
    path = write(tmp_path, GOOD.replace("p1", "Müller"), "b.png,p2,v,lateral,,,,,holdout")
    content = mark + path.read_bytes().replace(b"\n", end)
    path.write_bytes(content)
    films = read_manifest(path).films
    assert [film.patient for film in films] == ["Müller", "p2"]
    write_manifest(path, films)
    assert path.read_bytes() == content


def test_images_are_written_relative_to_the_manifest(tmp_path):
    film = Film(2, tmp_path / "films/a.png", "p", "v", "lateral", (None,) * 4)
    path = tmp_path / "tables" / "manifest.csv"
    write_manifest(path, [film])
    assert path.read_text().splitlines()[1] == "../films/a.png,p,v,lateral,,,,,"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write(tmp_path, GOOD)
    before = path.read_bytes()
    film = read_manifest(path).films[0]
    with pytest.raises(AttributeError):
        write_manifest(path, [film, None])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
