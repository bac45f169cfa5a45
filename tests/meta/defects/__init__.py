"""Seeded defects: small realistic faults of the package, and the test that must catch each.

The rows stand in the text files beside this module, one block of lines each:

    a picture is mirrored upside down [quick]
    data.augmentation:warp
    - zy = -zy
    + zx = -zx
    unit/data/test_augmentation.py::test_a_flip_mirrors_columns
    ! a regular expression that the failure's message must match

The second line names a module of `convspec` and a function (or class) in it, or nothing after the colon for the whole
module. The text after `-` must occur there once; how it is laid out in lines, and trailing commas, make no difference.
In brackets: `quick` for the fast tier, `needs NAME` for a package without which the row is skipped.
"""

import ast
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Defect:
    """One fault at one place of the package."""

    name: str
    module: str
    function: str
    old: str
    new: str
    test: str
    message: str
    quick: bool
    needs: str

    @property
    def file(self) -> Path:
        """The module's file, relative to the repository."""
        return Path("convspec", *self.module.split(".")).with_suffix(".py")

    def seeded(self) -> str:
        """Return the module's source with the defect in it.

        Raises:
            LookupError: The module or function is gone, or the text to replace does not occur there once.
        """
        if not (ROOT / self.file).is_file():
            raise LookupError(f"no {self.file}")
        source = (ROOT / self.file).read_text()
        first, last = _span(source, self.function)
        spans = [match.span() for match in _pattern(self.old).finditer(source, first, last)]
        if len(spans) != 1:
            raise LookupError(f"{self.old!r} occurs {len(spans)} times in {self.module}:{self.function}")
        start, end = spans[0]
        seeded = source[:start] + self.new + source[end:]
        ast.parse(seeded)
        return seeded

    def find_test(self) -> None:
        """Raise LookupError where the test is gone, with the tests of the most similar names."""
        file, name = self.test.partition("[")[0].split("::")
        if name not in _tests().get(file, ()):
            names = {name: path for path, names in _tests().items() for name in names}
            near = [f"{names[other]}::{other}" for other in get_close_matches(name, names, n=2, cutoff=0.5)]
            raise LookupError(f"no test {self.test}; there are {', '.join(near) or 'none like it'}")


@cache
def _tests() -> dict[str, list[str]]:
    """Return the names of the tests in each file below tests/."""
    paths = (ROOT / "tests").rglob("test_*.py")
    return {
        path.relative_to(ROOT / "tests").as_posix(): re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
        for path in paths
    }


def _span(source: str, function: str) -> tuple[int, int]:
    """Return the first and last position of a function's or class's source, given its qualified name."""
    scope: ast.AST = ast.parse(source)
    if not function:
        return 0, len(source)
    for name in function.split("."):
        inner = [node for node in ast.walk(scope) if getattr(node, "name", "") == name and hasattr(node, "body")]
        if len(inner) != 1:
            raise LookupError(f"{len(inner)} functions {name!r}, looking for {function}")
        scope = inner[0]
    assert isinstance(scope, ast.FunctionDef | ast.ClassDef)
    first = min([scope.lineno, *(decorator.lineno for decorator in scope.decorator_list)])
    lines = source.splitlines(keepends=True)
    return sum(map(len, lines[: first - 1])), sum(map(len, lines[: scope.end_lineno]))


def _pattern(text: str) -> re.Pattern[str]:
    """Return a pattern for `text` that ignores white space between tokens, and a comma before a closing bracket."""
    tokens = re.findall(r"\w+|[^\w\s]", text)
    tokens = [(r"(?:,\s*)?" if token in ")]}" else "") + re.escape(token) for token in tokens]
    return re.compile(r"(?<!\w)" * text[0].isalnum() + r"\s*".join(tokens) + r"(?!\w)" * text[-1].isalnum())


def _parse(block: str) -> Defect:
    head, place, *rest = block.splitlines()
    flags = re.findall(r"\[(.+?)\]", head)
    module, _, function = place.partition(":")
    marked = {mark: [line[2:] for line in rest if line.startswith(mark)] for mark in "-+!"}
    (test,) = (line for line in rest if line[0] not in "-+!")
    return Defect(
        name=head.partition(" [")[0],
        module=module,
        function=function,
        old="\n".join(marked["-"]),
        new="\n".join(marked["+"]),
        test=test,
        message="|".join(marked["!"]),
        quick="quick" in flags,
        needs="".join(flag.removeprefix("needs ") for flag in flags if flag.startswith("needs ")),
    )


DEFECTS = [
    _parse(block.strip("\n"))
    for file in sorted(Path(__file__).parent.glob("*.txt"))
    for block in re.split(r"\n{2,}", file.read_text())
    if block.strip()
]
