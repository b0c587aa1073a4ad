import pytest

from rust_optuna.data.manifest import read_manifest
from rust_optuna.data.published import COLUMNS, import_published
from rust_optuna.errors import DataError, ManifestError
from tests.published_layout import Row, write_images, write_tables

ROWS = [
    Row("pacs", 2864, "6month_follow_up_arm_1", "antpr", 0.0, {"anterior": 2, "posterior": 4}),
    Row("pacs", 2864, "6month_follow_up_arm_1", "later", 0.0, {"medial": 1}),
    Row("trial", 2864, "baseline_arm_1", "antpr", 0.0),
]


class Published:
    def __init__(self, folder):
        self.folder = folder
        self.labels, self.filenames = write_tables(folder, ROWS)
        self.images, self.output = folder / "films", folder / "out" / "manifest.csv"
        write_images(self.images, ROWS)

    def run(self, **options):
        return import_published(self.labels, self.filenames, self.images, self.output, **options)

    def problems(self):
        with pytest.raises(ManifestError) as caught:
            self.run()
        assert not self.output.exists()
        return [(problem.where, problem.what) for problem in caught.value.problems]

    def edit(self, row, column, value):
        lines = self.labels.read_text().splitlines()
        cells = lines[row - 1].split(",")
        cells[COLUMNS.index(column)] = value
        lines[row - 1] = ",".join(cells)
        self.labels.write_text("\n".join(lines))


@pytest.fixture
def published(tmp_path):
    return Published(tmp_path)


def test_the_published_files_become_a_manifest(published):
    first, second, third = published.run().films
    assert first.image == published.images / "0-pacs-2864-6month_follow_up_arm_1-antpr.jpg"
    assert (first.patient, first.visit, first.view) == ("pacs-2864", "6month_follow_up_arm_1", "anteroposterior")
    assert first.subscores == (None, None, 2, 4)
    assert (second.patient, second.view, second.subscores) == ("pacs-2864", "lateral", (1, None, None, None))
    assert (third.patient, third.split, third.scored) == ("trial-2864", "", ())
    assert published.output.read_text().splitlines()[1].startswith("../films/0-pacs")


def test_an_existing_manifest_is_kept_unless_told(published):
    published.run()
    published.output.write_text("mine")
    with pytest.raises(DataError, match="--force"):
        published.run()
    assert published.output.read_text() == "mine"
    published.run(overwrite=True)
    assert len(read_manifest(published.output).films) == 3


def test_headers_are_recognised(published):
    published.labels.write_text(",".join(COLUMNS) + "\n" + published.labels.read_text())
    published.filenames.write_text("filename\n" + published.filenames.read_text())
    assert len(published.run().films) == 3


def test_a_header_with_other_columns_is_refused(published):
    columns = [*COLUMNS[:4], "view_later", "view_antpr", *COLUMNS[6:]]
    published.labels.write_text(",".join(columns) + "\n" + published.labels.read_text())
    ((where, what),) = published.problems()
    assert where == "row 1"
    assert what.startswith("is a header, but not that of the published layout")


def test_numbers_that_went_through_floats(published):
    published.edit(1, "record_id", "2864.0")
    published.edit(1, "view_antpr", "1.0")
    assert published.run().films[0].patient == "pacs-2864"


def test_everything_wrong_is_reported_together(published):
    published.edit(1, "view_later", "1")
    published.edit(1, "anterior_cortex_3", "1")
    published.edit(2, "medial_cortex_2", "2")
    published.edit(3, "study_id", "")
    published.edit(3, "view_antpr", "0")
    found = published.problems()
    assert ("labels.csv row 1, view", "is anteroposterior and lateral, not exactly one") in found
    assert ("labels.csv row 1, anterior", "has the subscores 2 and 3 at once") in found
    assert ("labels.csv row 2, medial_cortex_2", "'2' is not 0 or 1") in found
    assert ("labels.csv row 3, study_id", "is empty") in found
    assert ("labels.csv row 3, view", "is neither view, not exactly one") in found


def test_files_of_different_lengths(published):
    published.filenames.write_text("\n".join(published.filenames.read_text().splitlines()[:2]))
    assert published.problems() == [("labels.csv", "has 3 rows, but filenames.csv has 2")]


def test_names_in_another_order_are_noticed(published):
    first, second, third = published.filenames.read_text().splitlines()
    published.filenames.write_text("\n".join([second, first, third]))
    assert published.problems() == [
        ("filenames.csv row 1", f"{second!r} does not match its row in labels.csv: different index, view"),
        ("filenames.csv row 2", f"{first!r} does not match its row in labels.csv: different index, view"),
    ]


def test_names_of_another_form_say_nothing(published):
    names = published.filenames.read_text().splitlines()
    (published.images / names[0]).rename(published.images / "film one.jpg")
    published.filenames.write_text("\n".join(["film one.jpg", *names[1:]]))
    assert published.run().films[0].image.name == "film one.jpg"


def test_repeated_names(published):
    names = published.filenames.read_text().splitlines()
    published.filenames.write_text("\n".join([names[0], names[1], names[1]]))
    assert ("filenames.csv row 3", f"{names[1]!r} is already in row 2") in published.problems()


@pytest.mark.parametrize("name", ["/etc/film.jpg", "../film.jpg"])
def test_names_outside_the_folder_are_refused(published, name):
    published.filenames.write_text("\n".join([name, *published.filenames.read_text().splitlines()[1:]]))
    assert published.problems() == [("row 1", f"{name!r} is not a path below the images' folder")]


def test_some_images_missing(published):
    name = published.filenames.read_text().splitlines()[1]
    (published.images / name).unlink()
    assert published.problems() == [("filenames.csv row 2", f"{name!r} is not in {published.images}")]


def test_all_images_missing_is_one_problem(published):
    for image in published.images.iterdir():
        image.unlink()
    assert published.problems() == [(str(published.images), "holds none of the 3 images")]
    published.images.rmdir()
    assert published.problems() == [(str(published.images), "is not a folder")]


def test_rows_of_another_width(published):
    lines = published.labels.read_text().splitlines()
    published.labels.write_text("\n".join([lines[0], lines[1] + ",0", lines[2]]))
    assert published.problems() == [("labels.csv row 2", "has 23 cells, not 22")]


def test_the_two_files_swapped(published):
    published.labels, published.filenames = published.filenames, published.labels
    assert published.problems()[0][1] == "has 22 cells, not one file name"
