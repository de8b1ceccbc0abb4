import ast

import pytest

from lightning_magics.replay.layout import layout_module, wrap_code

LONG = ", ".join(f"argument_{number}" for number in range(12))


def test_functions_and_classes_stand_apart():
    text = layout_module("import os", ["a = 1", "b = 2", "# f\ndef f(): ...", "class A: ...", "c = 3"])
    assert text == ("import os\n\n\na = 1\nb = 2\n\n\n# f\ndef f(): ...\n\n\nclass A: ...\n\n\nc = 3\n")
    assert layout_module("", []) == ""


def test_a_long_call_is_broken_at_its_commas():
    assert wrap_code(f"x = f({LONG})").splitlines()[:3] == ["x = f(", "    argument_0,", "    argument_1,"]
    assert wrap_code("x = f(a, b)") == "x = f(a, b)"


def test_many_numbers_share_lines():
    code = wrap_code(f"x = f({list(range(100, 140))}, 2)")
    assert code.splitlines()[:3] == ["x = f(", "    [", f"        {', '.join(map(str, range(100, 118)))},"]
    assert max(map(len, code.splitlines())) <= 100
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(f"x = f({list(range(100, 140))}, 2)"))


def test_a_comprehension_is_broken_before_its_clauses():
    code = f"x = {{key: value for key, value in zip([{LONG}], range(12)) if key is not None}}"
    assert wrap_code(code).splitlines()[:2] == ["x = {", "    key: value"]


@pytest.mark.parametrize(
    "code",
    [
        f"def f({LONG}, *, other=[1, 2], **more):\n    return [{LONG}]",
        f"x = g(item for item in [{LONG}])",
        f"raise ValueError(f'{{a}} and {{b!r}} {'long ' * 30}')",
        f"x = ({LONG} + argument_13)[0]",
        f"assert x, ({LONG})",
        "x = '" + "long " * 40 + "'",
        f"f(lambda a, b: [{LONG}])(1)[{LONG}]",
        f"async def f():\n    async with a({LONG}) as b:\n        await c",
    ],
)
def test_what_it_means_stays(code):
    code = ast.unparse(ast.parse(code))
    assert ast.dump(ast.parse(wrap_code(code))) == ast.dump(ast.parse(code))


def test_texts_are_in_double_quotes_where_they_hold_none():
    assert wrap_code("x = ['a', 'it\"s', f'b', '']") == 'x = ["a", \'it"s\', f"b", ""]'


def test_what_is_no_python_stays_as_it_is():
    assert wrap_code("x = (") == "x = ("
