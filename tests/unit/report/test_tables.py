"""A table as text and as Markdown, and what it takes to import it."""

import subprocess
import sys

from convspec.report.tables import Table

TABLE = Table(
    ["benchmark", "a: median", "ratio"],
    [["group 1"], ["name of a benchmark " * 4, "95.0 ms", "-"], ["short[a|b-*]_", "1 s", "2.00 [1.90, 2.10]"]],
    above=["a_b (file): machine"],
    below=["missing"],
)


def test_text_is_in_columns_and_long_names_continue_below() -> None:
    assert TABLE.text().split("\n") == [
        "a_b (file): machine",
        "",
        f"{'benchmark':44}  a: median              ratio",
        "",
        "group 1",
        f"{'name of a benchmark name of a benchmark name':44}    95.0 ms                  -",
        "  of a benchmark name of a benchmark",
        f"{'short[a|b-*]_':44}        1 s  2.00 [1.90, 2.10]",
        "",
        "missing",
    ]
    assert Table(["x", "value"], [["long", "1"]], "><").text() == "   x  value\nlong  1"


def test_markdown_is_a_table_between_lists_with_special_signs_escaped() -> None:
    assert TABLE.markdown().split("\n") == [
        "- a_b (file): machine",
        "",
        "| benchmark | a: median | ratio |",
        "| --- | ---: | ---: |",
        "| **group 1** |  |  |",
        f"| {'name of a benchmark ' * 4} | 95.0 ms | - |",
        r"| short[a\|b-\*]\_ | 1 s | 2.00 [1.90, 2.10] |",
        "",
        "- missing",
        "",
    ]
    shown = r"| [x\](y) \~z\~ \&amp; \_\_init\_\_ a_b one two | - |"
    assert Table(["x", "y"], [["[x](y) ~z~ &amp; __init__ a_b one\ntwo", "-"]]).markdown().split("\n")[2] == shown
    assert Table(["x", "y"], []).markdown() == "| x | y |\n| --- | ---: |\n"


def test_tables_need_neither_keras_nor_matplotlib() -> None:
    code = "import sys, convspec.report.tables; print(*{'keras', 'matplotlib', 'cv2'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
