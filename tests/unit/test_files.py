"""Files that are whole or absent under their final name."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from convspec.files import DAMAGED, atomic_write, checksum


def test_a_block_that_succeeds_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "record.json"
    for content in ("first", "second"):
        with atomic_write(file) as partial:
            assert partial.suffix == ".json", "which Keras and Matplotlib go by"
            partial.write_text(content)
        assert file.read_text() == content
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_block_that_fails_keeps_the_old_file_and_leaves_no_other(error: BaseException, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text("old")

    def write() -> None:
        with atomic_write(file) as partial:
            partial.write_text("half of the n")
            assert file.read_text() == "old"
            raise error

    with pytest.raises(type(error)):
        write()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 300])
def test_an_archive_cut_anywhere_is_recognised_as_damaged(keep: int, tmp_path: Path) -> None:
    file = tmp_path / "arrays.npz"
    np.savez(file, values=np.arange(20))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DAMAGED):
        np.load(file)


def test_a_checksum_is_the_files_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert checksum(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
