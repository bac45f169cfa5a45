"""`convspec check` says how a folder is read, and whether it can be used."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convspec.cli.main import main

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for label, count in (("cats", 12), ("dogs", 8)):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng([count, number]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "pets" / label / f"{number:02d}.png")
    return tmp_path / "pets"


def test_a_folder_that_can_be_used_is_explained(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "cats" / "Thumbs.db").touch()
    (pets / "dogs" / "copy.png").write_bytes((pets / "dogs" / "00.png").read_bytes())
    Image.open(pets / "cats" / "03.png").resize((80, 80), Image.Resampling.BICUBIC).save(pets / "cats" / "large.png")
    before = {path: path.stat().st_mtime_ns for path in pets.rglob("*")}
    assert main(["check", str(pets)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"'{pets}': 21 pictures of 2 classes",
        "  split by class and seed: 50 % train, 25 % validation, 25 % test",
        "  cats: 7 train, 3 validation, 3 test",
        "  dogs: 4 train, 2 validation, 2 test",
        "a model that always answers cats is right in 60.0%",
        "few pictures to test with, so that accuracy says little about these classes: cats (3), dogs (2)",
        "left out: 1 system files (cats/Thumbs.db)",
        f"the same content again, left out: 1 ('{pets}/dogs/copy.png' is the same picture as '{pets}/dogs/00.png')",
        "near copies: 1 (cats/03.png = cats/large.png)",
    ]
    assert {path: path.stat().st_mtime_ns for path in pets.rglob("*")} == before


def test_every_file_is_named_on_a_line_of_its_own_when_asked(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        (pets / "cats" / f"{number}.txt").touch()
        (pets / "cats" / f"bad{number}.png").write_text(f"<html>{number}</html>")
        (pets / "dogs" / f"copy{number}.png").write_bytes((pets / "dogs" / f"0{number}.png").read_bytes())
        large = Image.open(pets / "cats" / f"0{number}.png").resize((80, 80), Image.Resampling.BICUBIC)
        large.save(pets / "cats" / f"large{number}.png")
    assert main(["check", str(pets), "--all"]) == 1
    shown = capsys.readouterr().out.splitlines()
    for title, line in (
        ("left out: 5 texts and tables", "  cats/{}.txt"),
        ("no pictures: 5", f"  '{pets}/cats/bad{{}}.png' is not a readable picture: "),
        ("the same content again, left out: 5", f"  '{pets}/dogs/copy{{0}}.png' is the same picture as "),
        ("near copies: 5", "  cats/0{0}.png = cats/large{0}.png"),
    ):
        first = shown.index(title) + 1
        for number, text in enumerate(shown[first : first + 5]):
            assert text.startswith(line.format(number))
    assert main(["check", str(pets)]) == 1
    assert "left out: 5 texts and tables (cats/0.txt, cats/1.txt, cats/2.txt, ...)" in capsys.readouterr().out


def test_a_folder_that_cannot_be_used_is_explained_and_exits_1(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        (pets / "cats" / f"bad{number}.png").write_text(f"<html>{number}</html>")
    assert main(["check", str(pets)]) == 1
    shown = capsys.readouterr()
    assert "  cats: 14" in shown.out.splitlines()
    assert f"no pictures: 2 ('{pets}/cats/bad0.png' is not a readable picture: " in shown.out
    for number in range(2):
        (pets / "cats" / f"bad{number}.png").write_bytes((pets / "cats" / f"0{number}.png").read_bytes()[:-300])
    assert main(["check", str(pets), "--truncated", "fill"]) == 0
    assert f"read in part: 2 ('{pets}/cats/bad0.png' is read as far as it goes: " in capsys.readouterr().out
    assert main(["check", str(pets)]) == 1
    shown = capsys.readouterr()
    assert "convspec: error: 2 of 22 files in " in shown.err
    for path in (pets / "dogs").iterdir():
        path.unlink()
    assert main(["check", str(pets)]) == 1
    assert "has only the class 'cats'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "ladder"])
def test_what_is_no_folder_is_refused_with_what_to_give(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pets.zip").touch()
    for name, message in (
        ("pets.zip", f"'{tmp_path}/pets.zip' is a file: give a folder; `convspec split` makes one of an archive"),
        ("digits", f"no folder '{tmp_path}/digits': give one with a subfolder of pictures for each class"),
    ):
        assert main([command, str(tmp_path / name)]) == 1
        assert capsys.readouterr().err.startswith(f"convspec: error: {message}")


def test_the_option_that_an_error_names_is_taken(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "test").mkdir()
    Image.effect_noise((40, 40), 50).save(pets / "test" / "1.png")
    assert main(["check", str(pets)]) == 1
    assert "choose with --convspec-layout classes or --convspec-layout parts" in capsys.readouterr().err
    for option in ("--layout", "--convspec-layout"):
        assert main(["check", str(pets), option, "parts"]) == 0
    assert main(["split", str(pets), str(pets.parent / "new"), "--layout", "parts"]) == 0


def test_names_that_the_terminal_cannot_show_are_escaped(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pets / "cats").rename(pets / "猫")
    monkeypatch.setattr(sys, "stdout", terminal := io.TextIOWrapper(io.BytesIO(), "cp1252"))
    assert main(["check", str(pets)]) == 0
    terminal.flush()
    assert rb"  \u732b: 6 train, 3 validation, 3 test" in terminal.buffer.getvalue()


def test_the_check_needs_no_keras(pets: Path) -> None:
    code = "import sys; from convspec.cli.main import main; sys.exit(main(sys.argv[1:]) or 'keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, "check", str(pets)], check=True)


@pytest.mark.parametrize("command", [["check"], ["compare"], ["explain", "mini"], ["activations", "model.keras"]])
def test_the_folder_of_an_unknown_user_is_no_file_and_no_traceback(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a shell, which leaves it as it is."""
    monkeypatch.chdir(tmp_path)
    assert main([*command, "~nobody-of-this-name/pets.png"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("convspec: error: ")
    assert message.count("\n") == 1


@pytest.mark.parametrize("command", [["check", ""], ["ladder", ""], ["split", "", "new"], ["split", "pets", ""]])
def test_an_empty_text_is_not_the_current_folder(
    command: list[str], pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pets)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(": must be a path, got ''\n")


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_where_the_reader_of_a_pipe_has_gone_the_command_ends_quietly(unbuffered: str, pets: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "convspec", "check", str(pets)]
    ended = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": unbuffered}, check=False
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")
