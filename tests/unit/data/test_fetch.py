"""Downloads, what each name fetches, and the commands that fetch and split."""

import hashlib
import io
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image

import convspec
from convspec import BadInput, MissingData, models
from convspec.cli.main import main
from convspec.data import datasets, fetch
from convspec.data.fetch import FETCHABLE, download

CONTENT = np.random.RandomState(0).bytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves `content` at any address; `script` holds how to answer the next requests, "well" when it is empty."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.script: list[Any] = []
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests += 1
        how = self.server.script.pop(0) if self.server.script else "well"
        body = self.server.content
        self.send_response(how if isinstance(how, int) else 302 if ":" in how else 200)
        if isinstance(how, str) and ":" in how:
            self.send_header("Location", how)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write({"wrong": bytes(len(body)), "cuts": body[: len(body) // 2]}.get(how, body))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "RETRIES", 0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "data.bin"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# Downloads


@pytest.mark.parametrize("digest", [hashlib.sha256, hashlib.md5])
def test_a_download_is_what_was_served_and_leaves_nothing_else(digest: Callable, server: Server, target: Path) -> None:
    checksum = f"{digest().name}:{digest(CONTENT).hexdigest()}"
    assert download(server.url, target, checksum, io.StringIO()) is True
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["data.bin"]
    assert target.stat().st_mode & 0o777 == 0o644, "a data folder may be shared"
    assert download(server.url, target, checksum) is False
    assert server.requests == 1, "the right file is not fetched again"


@pytest.mark.parametrize("how", ["cuts", 503])
def test_after_a_failure_a_download_begins_anew(
    how: str | int, server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "RETRIES", 1)
    server.script = [how]
    download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == 2


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("cuts", "150000 more expected"),
        (404, "404 .*Not Found"),
        (500, "500 "),
        ("file:///etc/hostname", "file:///etc"),
        ("offline", "refused"),
    ],
)
def test_a_failed_download_names_url_file_and_remedy(how: str | int, reason: str, server: Server, target: Path) -> None:
    server.script = [how]
    url = server.url if how != "offline" else "http://127.0.0.1:1/data.bin"  # a port where nobody listens
    with pytest.raises(MissingData) as raised:
        download(url, target, SHA256)
    assert re.fullmatch(rf"could not get {url} \(.*{reason}.*\): .* put it at '{target}' .*", str(raised.value))
    assert names(target.parent) == []


def test_a_wrong_checksum_is_refused_with_both_and_leaves_nothing(server: Server, target: Path) -> None:
    server.script = ["wrong"]
    zeros = hashlib.sha256(bytes(len(CONTENT))).hexdigest()
    with pytest.raises(BadInput, match=f"^{server.url} is not what it was: .*{SHA256}.*{zeros}"):
        download(server.url, target, SHA256)
    assert names(target.parent) == []


def test_of_two_processes_that_fetch_at_once_one_waits(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And threads, which is what these are."""
    monkeypatch.setitem(FETCHABLE, "vgg16", fetch.Source(server.url, SHA256, "weights"))
    fetched: list[bool] = []
    threads = [
        threading.Thread(target=lambda: fetched.append(fetch.fetch("vgg16", target.parent)[1])) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == [False, True]
    assert server.requests == 1
    assert names(target.parent) == ["data.bin"]


def test_another_file_in_its_place_is_never_overwritten(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"my own")
    with pytest.raises(BadInput, match=rf"^'{target}' is there but is not {server.url}, .*{SHA256}; move it$"):
        download(server.url, target, SHA256)
    assert (target.read_bytes(), server.requests) == (b"my own", 0)


def test_a_folder_that_cannot_be_written_is_named_with_a_remedy(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"; make room or put that right, and run this again: '.*file/data\.bin'$"):
        download(server.url, tmp_path / "file" / "data.bin", SHA256)


# What each name fetches


@pytest.fixture
def serve(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], None]:
    """Put content on the server in place of what the name stands for."""

    def put(name: str, content: bytes) -> None:
        server.content = content
        url = f"{server.url.rpartition('/')[0]}/{FETCHABLE[name].url.rpartition('/')[2]}"
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        monkeypatch.setitem(FETCHABLE, name, FETCHABLE[name]._replace(url=url, checksum=checksum))

    return put


@pytest.fixture(scope="module")
def digits() -> bytes:
    """An archive with MNIST's shapes and nothing drawn."""
    buffer = io.BytesIO()
    parts = {"train": 60000, "test": 10000}
    arrays: dict[str, Any] = {f"x_{part}": np.zeros((count, 28, 28), np.uint8) for part, count in parts.items()}
    arrays |= {f"y_{part}": np.zeros(count, np.uint8) for part, count in parts.items()}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_mnist_from_elsewhere_is_kept_where_it_loads_and_refused_where_not(digits: bytes, tmp_path: Path) -> None:
    file = tmp_path / "mnist.npz"
    with np.load(io.BytesIO(digits)) as arrays:
        np.savez(file, **{**arrays, "more": np.arange(3)})
    own = file.read_bytes()
    assert fetch.fetch("mnist", tmp_path) == (file, False)
    assert file.read_bytes() == own
    file.write_bytes(digits[:1000])
    with pytest.raises(BadInput, match=r"is not MNIST .* delete it and get it again"):
        fetch.fetch("mnist", tmp_path)


def published(base: Any) -> bytes:
    """Weights in the format of Keras 1, in which those of VGG16 are published."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in base.layers]
        for layer in base.layers:
            weights = [f"{layer.name}_{kind}_1:0" for kind, _ in zip("Wb", layer.weights, strict=False)]
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in zip(weights, layer.get_weights(), strict=True):
                group[name] = value
    return buffer.getvalue()


def test_vgg16_is_used_as_it_is_published(
    serve: Callable, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models.BASES, "vgg16", models._mini)  # the same format at a hundredth of its size
    base = models.conv_base("vgg16", models.MINI_WEIGHTS, (48, 48, 3))
    serve("vgg16", published(base))
    file, fetched = fetch.fetch("vgg16", tmp_path)
    assert fetched
    assert models.default_weights("vgg16", tmp_path) == file
    loaded = models.conv_base("vgg16", file, (48, 48, 3))
    for value, expected in zip(loaded.get_weights(), base.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert fetch.fetch("vgg16", tmp_path) == (file, False)
    (converted := tmp_path / "vgg16_notop.weights.h5").touch()
    assert models.default_weights("vgg16", tmp_path) == converted
    assert fetch.fetch("vgg16", tmp_path) == (converted, False)
    assert server.requests == 1


def pets() -> bytes:
    """Eight cats and eight dogs in the layout of the public download, each of another shade."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for shade in range(16):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (shade, 0, 0)).save(picture, "PNG")
            packed.writestr(f"PetImages/{('Cat', 'Dog')[shade % 2]}/{shade}.jpg", picture.getvalue())
    return archive.getvalue()


def test_dogs_vs_cats_becomes_a_dataset_once(serve: Callable, server: Server, tmp_path: Path) -> None:
    serve("dogs_vs_cats", pets())
    folder = tmp_path / "dogs_vs_cats_small"
    assert fetch.fetch("dogs_vs_cats", tmp_path) == (folder, True)
    loaded = datasets.load_dataset("dogs_vs_cats", 8, tmp_path)
    parts = [part for part in (loaded.train, loaded.validation, loaded.test) if part]
    assert sorted(int(picture[0, 0, 0]) for part in parts for picture in part.images) == list(range(16))
    assert names(tmp_path) == ["dogs_vs_cats_small"], "the archive is removed"
    assert fetch.fetch("dogs_vs_cats", tmp_path) == (folder, False)
    for picture in (folder / "test" / "Dog").iterdir():
        picture.unlink()
    with pytest.raises(BadInput, match=r"has the classes Cat; train has Cat, Dog"):
        fetch.fetch("dogs_vs_cats", tmp_path)
    assert server.requests == 1


def test_a_split_that_failed_goes_on_from_the_archive(serve: Callable, server: Server, tmp_path: Path) -> None:
    serve("dogs_vs_cats", pets())
    (other := tmp_path / "dogs_vs_cats_small" / "notes.txt").parent.mkdir()
    other.touch()
    archive = tmp_path / "kagglecatsanddogs_5340.zip"
    archive.write_bytes(server.content)
    with pytest.raises(BadInput, match="does not belong to this split"):
        fetch.fetch("dogs_vs_cats", tmp_path)
    assert archive.exists()
    other.unlink()
    assert fetch.fetch("dogs_vs_cats", tmp_path)[1] is True
    assert names(tmp_path) == ["dogs_vs_cats_small"]
    assert server.requests == 0


def test_an_unknown_name_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'cifar10' to fetch; choose from mnist, dogs_vs_cats, vgg16"):
        fetch.fetch("cifar10", tmp_path)


# The command line


@pytest.mark.parametrize("place", ["--data-root", "CONVSPEC_DATA", "cache"])
def test_fetch_prints_where_each_thing_is_now_or_was_already(
    place: str,
    serve: Callable,
    server: Server,
    digits: bytes,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve("mnist", digits)
    monkeypatch.delenv("CONVSPEC_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    root = tmp_path / ("convspec" if place == "cache" else "given")
    if place == "CONVSPEC_DATA":
        monkeypatch.setenv(place, str(root))
    options = [place, str(root)] if place == "--data-root" else []
    for _ in range(2):
        assert main(["fetch", "mnist", "mnist", *options]) == 0
    file = root / "mnist.npz"
    assert capsys.readouterr().out == f"mnist: now at {file}\nmnist: already at {file}\n"
    assert file.read_bytes() == digits
    assert server.requests == 1


def test_split_takes_its_options_and_prints_the_summary(tmp_path: Path, capsys: Any) -> None:
    (archive := tmp_path / "pets.zip").write_bytes(pets())
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "source")
    source, target = tmp_path / "source" / "PetImages", tmp_path / "target"
    assert main(["split", str(source), str(target), "--seed", "7", "--link"]) == 0
    expected = "Cat: 4 train, 2 validation, 2 test\nDog: 4 train, 2 validation, 2 test\n"
    assert capsys.readouterr().out == expected
    assert '"seed": 7' in (target / "manifest.json").read_text()
    (linked,) = target.rglob("0.jpg")
    assert linked.samefile(source / "Cat" / "0.jpg")


def test_an_error_is_one_line_and_exit_code_1(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").touch()
    (folder := tmp_path / "folder").mkdir()
    for source, target in (("nowhere", "new"), ("folder", "file"), ("folder", "new")):
        assert main(["split", str(tmp_path / source), str(tmp_path / target)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["convspec"] * 3
    assert f"{str(folder)!r} has no subfolders" in lines[2]


@pytest.mark.parametrize(("command", "then"), [("split", "goes on where it stopped"), ("fetch", "starts again")])
def test_ctrl_c_is_exit_code_130_and_says_how_to_continue(
    command: str, then: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convspec.data.split.split", interrupt)
    monkeypatch.setattr("convspec.cli.fetch.fetch", interrupt)
    assert main({"split": ["split", "source", "target"], "fetch": ["fetch", "mnist"]}[command]) == 130
    assert capsys.readouterr().err.strip() == f"convspec: interrupted; the same command {then}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *((["split", "source", "target", f"--seed={seed}"], "must be a whole number from 0 to 4294967295, got")
          for seed in ("-1", "x", "1.5", str(2**32))),
        (["fetch", "cifar10"], "cifar10.*mnist.*dogs_vs_cats.*vgg16"),
        (["fetch", "mnist", "--data-root", "x", "vgg16"],
         "unrecognized arguments: vgg16; names stand together, with options before or after them\n"),
        (["check", "pets", "more"], "unrecognized arguments: more\n"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_a_usage_error(arguments: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "convspec", "--help"],
        cwd=Path(convspec.__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(r"fetch +download.*\n(.*\n)*.*split +make", result.stdout)
    assert re.search(r"\| +convspec\.data\.fetch", result.stderr)
    heavy = "numpy|scipy|keras|tensorflow|jax|torch|cv2|matplotlib|platformdirs|pooch|requests"
    assert not re.search(rf"\| +({heavy})\n", result.stderr)
