"""Stubs of every public function: what looks like a result and is none.

A rewritten copy of a module ends with `stubbed(function, kind)` in the place of one of its functions. Kinds: "shape"
gives results of the right type and shape with nothing in them, "constant" the first result it ever had for ever
after, "nothing" does nothing, for functions without a result.
"""

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from functools import wraps
from itertools import repeat
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]


def stubbed(function: Callable, kind: str) -> Callable:
    """`function` replaced by a stub of that kind, under the same name and signature."""
    first: list[Any] = []

    @wraps(function)
    def stub(*arguments: Any, **options: Any) -> Any:
        if kind == "nothing":
            return None
        if kind == "constant" and first:
            return first[0]
        result = function(*arguments, **options)
        if hasattr(result, "__enter__") and hasattr(result, "gen"):  # of contextlib.contextmanager
            return nullcontext(arguments[0])
        if isinstance(result, Iterator):
            item = next(result)
            return repeat(item if kind == "constant" else _hollow(item))
        first.append(result)
        return result if kind == "constant" else _hollow(result)

    return stub


def _hollow(value: Any) -> Any:
    """Something of the same type and shape with nothing in it; None where there is no such thing."""
    import keras
    import numpy as np

    if isinstance(value, np.ndarray):
        return np.zeros_like(value)
    if isinstance(value, bool | int | float | str | bytes):
        return type(value)()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_hollow, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_hollow, value))
    if isinstance(value, dict):
        return {key: _hollow(content) for key, content in value.items()}
    if isinstance(value, Path):
        return value.with_name("nothing")
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _hollow(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, keras.Model):
        flat = keras.layers.GlobalAveragePooling2D() if len(value.input_shape) == 4 else keras.layers.Flatten()
        shape = value.output_shape[1:]
        dense = keras.layers.Dense(int(np.prod(shape)))
        return keras.Sequential([keras.Input(value.input_shape[1:]), flat, dense, keras.layers.Reshape(shape)])
    return None


def public(source: str) -> dict[str, tuple[str, ...]]:
    """The public functions of a module, and the methods of its public classes, with the kinds of stubs of each.

    A function without arguments may well be a constant; pytest's fixtures are no functions once they are made.
    """
    found: dict[str, tuple[str, ...]] = {}
    for node in ast.parse(source).body:
        inside = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for function in inside:
            if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
                continue
            decorators = {ast.unparse(decorator).partition("(")[0] for decorator in function.decorator_list}
            if decorators & {"pytest.fixture", "property", "cached_property", "classmethod", "staticmethod"}:
                continue
            if isinstance(node, ast.ClassDef) and any("Callback" in ast.unparse(base) for base in node.bases):
                continue
            name = f"{node.name}.{function.name}" if isinstance(node, ast.ClassDef) else function.name
            if function.returns and ast.unparse(function.returns) == "None":
                found[name] = ("nothing",)
            elif function.args.args or function.args.kwonlyargs:
                found[name] = ("shape",) if "contextmanager" in decorators else ("shape", "constant")
            else:
                found[name] = ("shape",)
    return found


def _mentions(name: str, text: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


def speaking_of(module: str, name: str) -> list[str]:
    """Tests that speak of the function, themselves or by way of what they use in their file; its own file's first."""
    found = []
    files = sorted(TESTS.glob("test_*.py"), key=lambda file: (file.stem != f"test_{module}", file.name))
    for file in files:
        source = file.read_text()
        if file.stem == "test_defects" or not _mentions(module, source):
            continue
        parts: dict[str, str] = {}
        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            for target in targets:
                if label := getattr(target, "name", getattr(target, "id", None)):
                    lines = [*getattr(node, "decorator_list", []), node]
                    parts[label] = "\n".join(ast.unparse(line) for line in lines)
        speaking = {label for label, text in parts.items() if _mentions(name, text)}
        while more := {
            label
            for label, text in parts.items()
            if label not in speaking and any(_mentions(other, text) for other in speaking if other.isidentifier())
        }:
            speaking |= more
        found += [f"{file.name}::{label}" for label in parts if label in speaking and label.startswith("test_")]
    return found
