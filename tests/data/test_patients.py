import unicodedata

import pytest

from rust_optuna.data.manifest import COLUMNS, read_manifest
from rust_optuna.data.patients import alike, settle, undecided
from rust_optuna.errors import PatientNamesError
from rust_optuna.paths import Home
from tests.cli.test_main import invoke
from tests.data.films import make_manifest
from tests.studies import random_document, write_study

NFC, NFD = (unicodedata.normalize(form, "Müller, Jürgen") for form in ("NFC", "NFD"))


def named(folder, *names, split=False):
    """Write a manifest of two films a patient, the first of whom have these names; of twelve, two are held out."""
    manifest = make_manifest(folder, patients=max(len(names), 12), split=split)
    text = manifest.path.read_text()
    for number, name in enumerate(names):
        cell = f'"{name}"' if "," in name else name
        text = text.replace(f"MRN-{number:05d}", cell)
    manifest.path.write_text(text)
    return manifest.path


def patients(path):
    return list(dict.fromkeys(film.patient for film in read_manifest(path).films))


@pytest.mark.parametrize(
    "names",
    [
        ("P7", "p7"),
        ("7", "0007"),
        ("12", "12.0"),
        ("12", "12.00"),
        ("P7", "P-7", "p_007", " P 7.0".strip()),
        ("Weiß Anna", "WEISS, ANNA", "weiß-anna"),
        ("1-12", "1.0-12.0", "01 / 012"),
        ("12", "１２"),
        ("0", "000"),
        ("ﬁx", "FIX"),
    ],
)
def test_names_are_alike_up_to_case_zeros_and_punctuation(names):
    assert alike(names) == [names]


@pytest.mark.parametrize(
    "names",
    [
        ("1-12", "11-2", "112", "1-1-2"),
        ("12", "120", "1.2", "12.5"),
        ("P7", "P70", "P07a", "Q7"),
        ("7", "-", "?", "0"),
        ("2.0.1", "2.1"),
        ("Müller", "Muller", "Mueller"),
        ("की", "का"),
    ],
)
def test_other_names_are_not(names):
    assert alike(names) == []


def test_names_that_are_equal_in_unicode_are_one_patient_without_a_word(tmp_path):
    path = named(tmp_path, NFC, NFD)
    films = read_manifest(path).films
    assert {film.patient for film in films[:4]} == {NFC}
    checked = invoke("data", "check", path)
    assert "24 films of 11 patients" in checked.output
    assert "names are alike" not in checked.output
    assert invoke("data", "split", path).exit_code == 0
    assert len({film.split for film in read_manifest(path).films[:4]}) == 1


def test_one_patient_on_both_sides_is_found_whatever_the_accents(tmp_path):
    path = named(tmp_path, NFC, *(f"p{number}" for number in range(10)), NFD, split=True)
    checked = invoke("data", "check", path)
    assert checked.exit_code == 1
    assert (
        f"patient {NFC}  is on both sides of the split (development: rows 2, 3; holdout: rows 24, 25)" in checked.output
    )


def test_alike_names_are_a_warning_of_check_that_lists_them_with_their_rows(tmp_path):
    path = named(tmp_path, "P7", "p7", "7", "0007")
    checked = invoke("data", "check", path)
    assert checked.exit_code == 0
    assert "  'P7' (rows 2, 3), 'p7' (rows 4, 5)\n  '7' (rows 6, 7), '0007' (rows 8, 9)\n" in checked.output


def test_a_hundred_groups_are_not_all_listed(tmp_path):
    names = [name for number in range(1, 101) for name in (f"P{number}", f"p{number}")]
    films = read_manifest(named(tmp_path, *names)).films
    with pytest.raises(PatientNamesError) as refused:
        settle(films)
    assert len(str(refused.value).splitlines()) == 13
    assert "… and 90 more groups" in str(refused.value)


def test_split_refuses_until_all_is_settled_and_changes_nothing_before(tmp_path):
    path = named(tmp_path, "P7", "p7", "7", "0007")
    before = path.read_bytes()
    for words in ((), ("--same", "P7=p7"), ("--different", "7=0007"), ("--force",)):
        done = invoke("data", "split", path, *words)
        assert done.exit_code == 2
        assert "Run `rust-optuna data split MANIFEST` with --same" in done.output
        assert ("'P7' (rows 2, 3), 'p7' (rows 4, 5)" in done.output) == ("P7=p7" not in words)
    assert path.read_bytes() == before


def test_same_gives_a_patient_one_name_and_one_side(tmp_path):
    path = named(tmp_path, "p7", "P7", "P-7", "7", "0007")
    text = path.read_text().replace("MRN-00011", "P7")
    path.write_text(text)
    done = invoke("data", "split", path, "--same")
    assert done.exit_code == 0, done.output
    assert "'p7' is now 'P7' in the manifest" in done.output
    assert patients(path)[:3] == ["P7", "7", "MRN-00005"]
    films = read_manifest(path).films
    assert len({film.split for film in films if film.patient == "P7"}) == 1
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert "names are alike" not in invoke("data", "check", path).output


def test_by_name_the_first_is_kept_and_chains_are_followed(tmp_path):
    path = named(tmp_path, "P7", "p7", "P-7", "anna", "anne")
    words = ("--same", "p7=P7", "--same", "P-7=p7", "--same", "anna = anne")
    assert invoke("data", "split", path, *words).exit_code == 0
    assert patients(path)[:2] == ["P-7", "anna"]


def test_different_is_written_into_the_manifest_and_holds_for_every_later_command(home):
    path = named(home.root, "P7", "p7", "7", "0007")
    assert invoke("data", "split", path, "--different").exit_code == 0
    films = read_manifest(path).films
    assert [film.patient for film in films if film.distinct] == [n for n in ("P7", "p7", "7", "0007") for _ in range(2)]
    assert "names are alike" not in invoke("data", "check", path).output
    created = invoke("--home", home.root, "study", "create", write_study(home, random_document(2)))
    assert (created.exit_code, "names are so similar" in created.output) == (0, False)
    assert invoke("data", "split", path, "--force").exit_code == 0
    assert read_manifest(path).films[0].distinct


def test_a_new_name_beside_names_that_were_told_apart_must_be_settled_again(tmp_path):
    path = named(tmp_path, "P7", "p7")
    assert invoke("data", "split", path, "--different").exit_code == 0
    films = read_manifest(path).films
    side = next(film.split for film in films if film.patient == "p7")
    other = next(film.patient for film in films if film.split == side and film.patient.startswith("MRN"))
    path.write_text(path.read_text().replace(other, "P 7"))
    assert undecided(read_manifest(path).films) == [("P7", "p7", "P 7")]
    assert invoke("data", "split", path, "--different", "P 7=P7").exit_code == 2
    done = invoke("data", "split", path, "--same", "p7=P 7")
    assert done.exit_code == 0, done.output
    assert undecided(read_manifest(path).films) == []
    assert patients(path)[:2] == ["P7", "p7"]


def test_all_and_names_go_together(tmp_path):
    path = named(tmp_path, "P7", "p7", "7", "0007", "8", "08")
    assert invoke("data", "split", path, "--same", "--different", "7=0007").exit_code == 0
    assert patients(path)[:4] == ["P7", "7", "0007", "8"]
    path = named(tmp_path, "P7", "p7", "7", "0007", "8", "08")
    assert invoke("data", "split", path, "--different", "--same", "07=7").exit_code == 2
    assert invoke("data", "split", path, "--different", "--same", "0007=7").exit_code == 0
    assert patients(path)[:5] == ["P7", "p7", "0007", "8", "08"]


def test_a_name_may_hold_the_sign_between_names(tmp_path):
    path = named(tmp_path, "a=1", "A=1")
    assert invoke("data", "split", path, "--same", "A=1=a=1").exit_code == 0
    assert patients(path)[0] == "A=1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--same", "P7=P8"), "the manifest has no patient 'P8'"),
        (("--same", "P7=P7"), "that is only one name"),
        (("--same", "P7=p7", "--different", "P7=p7"), "cannot be both one patient and two"),
        (("--same", "--different"), "contradict each other"),
    ],
)
def test_a_decision_that_cannot_be_is_one_line(tmp_path, words, said):
    path = named(tmp_path, "P7", "p7")
    done = invoke("data", "split", path, *words)
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    assert said in done.output


def test_an_option_without_names_that_would_take_the_manifest_for_one_says_so(tmp_path):
    path = named(tmp_path, "P7", "p7")
    done = invoke("data", "split", "--same", path)
    assert done.exit_code == 2
    assert "is not two names, as in 'A=B'. To use --same without names, put it after" in done.output


def test_what_is_split_already_can_be_settled_and_keeps_its_split(tmp_path):
    path = named(tmp_path, "P7", "p7", *(f"q{number}" for number in range(9)), "Q0", split=True)
    split = [film.split for film in read_manifest(path).films]
    checked = invoke("data", "check", path)
    assert "'q0' (rows 6, 7), 'Q0' (rows 24, 25): on both sides of the split" in checked.output
    done = invoke("data", "split", path, "--same")
    assert done.exit_code == 2
    assert "patient q0  is on both sides of the split" in done.output
    assert "all rows of a patient must be on one side" in done.output
    done = invoke("data", "split", path, "--same", "P7=p7", "--different", "q0=Q0")
    assert done.exit_code == 0, done.output
    assert [film.split for film in read_manifest(path).films] == split
    assert "names are alike" not in invoke("data", "check", path).output


def test_a_study_is_told_of_alike_names_without_a_name(home):
    named(home.root, "P7", "p7", split=True)
    created = invoke("--home", home.root, "study", "create", write_study(home, random_document(2)))
    assert created.exit_code == 0
    assert "some patients' names are so similar" in created.output
    assert "(groups of such names: 1)" in created.output
    assert "p7" not in created.output.lower().replace(str(home.root).lower(), "")


def test_the_demos_and_the_published_names_are_not_alike(tmp_path):
    assert invoke("--home", Home(tmp_path).root, "data", "synthesize", "films", "--patients", "12").exit_code == 0
    assert undecided(read_manifest(tmp_path / "films" / "manifest.csv").films) == []
    assert alike(f"{study}-{record}" for study in (1, 2, 10, 11, 12) for record in range(1, 200)) == []
