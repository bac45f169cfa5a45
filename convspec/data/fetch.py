"""Downloads of MNIST, Dogs vs. Cats and VGG16's weights into the data folder."""

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, TextIO

from convspec import BadInput, MissingData
from convspec.files import atomic_write, lock
from convspec.progress import bar

TIMEOUT = 30.0  # seconds without a byte
RETRIES = 2  # each from the beginning


class Source(NamedTuple):
    """URL and checksum of a download, and the name in the data folder that it is used under."""

    url: str
    checksum: str
    ready: str


FETCHABLE = {
    "mnist": Source(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        "mnist.npz",
    ),
    "dogs_vs_cats": Source(
        "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
        "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
        "dogs_vs_cats_small",
    ),
    "vgg16": Source(
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:6d6bbae143d832006294945121d1f1fc",
        "vgg16_notop.weights.h5",  # in Keras 3's format, from elsewhere
    ),
}


def fetch(name: str, root: Path, progress: TextIO | None = None) -> tuple[Path, bool]:
    """Get "mnist", "dogs_vs_cats" or "vgg16" into the data folder `root`, ready for use.

    Dogs vs. Cats is unpacked and split. Returns where it is, and whether it had to be fetched. Raises BadInput for
    another name, or where something else is in its place, and MissingData where the server cannot be reached.
    """
    if name not in FETCHABLE:
        raise BadInput(f"nothing called {name!r} to fetch; choose from {', '.join(FETCHABLE)}")
    source = FETCHABLE[name]
    file, ready = root / source.url.rpartition("/")[2], root / source.ready
    # Also in a data folder that cannot be written, for which nothing may be locked.
    if _is_ready(name, file, ready):
        return ready, False
    if name == "vgg16" and file.exists():
        return file, download(source.url, file, source.checksum, progress)
    with lock(file, progress):
        if _is_ready(name, file, ready):  # by now: another process has fetched it
            return ready, False
        fetched = download(source.url, file, source.checksum, progress)
        if name != "dogs_vs_cats":
            return file, fetched
        from convspec.data.split import split

        split(file, ready, progress=progress)
        file.unlink()
        return ready, True


def _is_ready(name: str, file: Path, ready: Path) -> bool:
    """Return whether a target is there; an archive goes last: where it is, work is unfinished.

    Raises BadInput for one that is not what its name says; weights are checked when a model loads them.
    """
    from convspec.data import datasets, folders

    if not ready.exists() or (name == "dogs_vs_cats" and file.exists()):
        return False
    if name == "mnist":
        datasets.load_dataset(name, 28, ready.parent)
    if name == "dogs_vs_cats":
        folders.read_layout(ready)
    return True


def download(url: str, path: Path, checksum: str, progress: TextIO | None = None) -> bool:
    """Get `url` to `path`, unless a file with that checksum is there already.

    Args:
        url: Address that begins with https:// or http://.
        path: File to write; it appears once it is complete and its checksum is right.
        checksum: "sha256:HEX" or "md5:HEX".
        progress: Stream for a progress bar; None for none.

    Returns:
        Whether the file had to be fetched.

    Raises:
        BadInput: The checksum is wrong, of what is there or of what came.
        MissingData: The server does not have the file or cannot be reached.
        OSError: The file cannot be written.
    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    existed = path.exists()
    try:
        with nullcontext(path) if existed else atomic_write(path) as file:
            files = pooch.create(
                file.parent, "", registry={file.name: checksum}, urls={file.name: url},
                retry_if_failed=RETRIES, allow_updates=False,
            )  # fmt: skip
            with bar(0, f"downloading {file.name}", "B", progress) as shown:
                shown.unit_scale = True
                files.fetch(file.name, downloader=pooch.HTTPDownloader(shown, chunk_size=2**16, timeout=TIMEOUT))
            if not existed:
                file.chmod(0o644)  # pooch's temporary files are their owner's only
    except RequestException as error:
        raise MissingData(
            f"could not get {url} ({error}): try again later, or get the file by other means, put it at {str(path)!r}"
            " and run this again"
        ) from error
    except ValueError as error:
        if existed:
            raise BadInput(f"{str(path)!r} is there but is not {url}, whose checksum is {checksum}; move it") from error
        raise BadInput(f"{url} is not what it was: {error} Try again later.") from error
    except OSError as error:
        reason = f"{error.strerror or error}; make room or put that right, and run this again"
        raise OSError(error.errno, reason, str(path)) from error
    return not existed
