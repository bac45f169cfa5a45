"""Files that are whole or absent under their final name."""

from pathlib import Path

import numpy as np
import pytest

from convspec.files import DAMAGED, atomic_write


def test_a_block_that_succeeds_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "record.json"
    for content in ("first", "second"):
        with atomic_write(file) as partial:
            partial.write_text(content)
        assert file.read_text() == content
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_block_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(
    error: BaseException, tmp_path: Path
) -> None:
    file = tmp_path / "record.json"
    file.write_text("old")

    def write() -> None:
        with atomic_write(file) as partial:
            partial.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        write()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_partial_file_keeps_the_ending_which_keras_and_matplotlib_go_by(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "model.keras") as partial:
        assert partial.suffix == ".keras"
        partial.touch()


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 300])
def test_an_archive_cut_anywhere_is_recognised_as_damaged(keep: int, tmp_path: Path) -> None:
    file = tmp_path / "arrays.npz"
    np.savez(file, values=np.arange(20))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DAMAGED):
        np.load(file)
