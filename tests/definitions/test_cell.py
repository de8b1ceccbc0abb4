import ast

import pytest

from lightning_magics.definitions.cell import (
    CellSource,
    lightning_package,
    parse,
    rename_rebound,
    split,
    use_attributes,
)
from lightning_magics.errors import InputError


def parts(text):
    return split(parse(CellSource(text, "cell.py")))


def texts(statements):
    return [ast.unparse(ast.fix_missing_locations(item)) for item in statements]


def test_nodes_stand_on_the_lines_of_the_whole_cell():
    assert parse(CellSource("x = 1\ny = 2", "cell.py", first_line=2)).body[1].lineno == 3


def test_a_syntax_error_names_the_cells_file_and_line():
    with pytest.raises(SyntaxError) as caught:
        parse(CellSource("x = 1\ny = (", "cell.py"))
    assert (caught.value.filename, caught.value.lineno) == ("cell.py", 3)


def test_annotated_assignments_are_hyperparameters():
    found = parts("hidden: int = 8\nrate: float\nself.x: int = 3\nNet(hidden)").hyperparameters
    assert list(found) == ["hidden", "rate"]
    assert found["rate"].default is None


def test_what_makes_a_network_is_built_anew_and_the_rest_stays():
    cell = parts("import math\nhidden: int = 8\nsize = math.prod([2, 3])\ndef free(x): return x\nNet(hidden, size)")
    assert texts(cell.inner) == ["size = math.prod([2, 3])"]
    assert texts(cell.notebook) == ["import math", "def free(x):\n    return x"]
    assert ast.unparse(cell.expression) == "Net(hidden, size)"


def test_functions_that_need_a_hyperparameter_move_with_it_through_others_too():
    cell = parts("hidden: int = 8\ndef a(): return hidden\nclass B:\n    x = a()\ndef c(): return 1\nB()")
    assert texts(cell.notebook) == ["def c():\n    return 1"]
    assert len(cell.inner) == 2


def test_beside_hooks_assignments_stay_in_the_notebook():
    cell = parts("scale = 2\ndef helper(x): return x\ndef forward(self, x): return helper(x) * scale")
    assert texts(cell.notebook) == ["scale = 2", "def helper(x):\n    return x"]
    assert cell.inner == []


def test_beside_hooks_what_the_network_needs_is_built_anew():
    cell = parts("scale = 2\nsize = 3\nother = size + 1\ndef forward(self, x): return x\nNet(other)")
    assert texts(cell.inner) == ["size = 3", "other = size + 1"]
    assert "scale = 2" in texts(cell.notebook)


@pytest.mark.parametrize(
    "code",
    ["def f(self): pass", "@property\ndef f(self): pass", "@staticmethod\ndef f(x): pass", "async def f(self): pass"],
)
def test_functions_with_self_and_marked_methods_are_hooks(code):
    assert [hook.name for hook in parts(code).hooks] == ["f"]


def test_a_string_that_opens_the_cell_is_its_docstring():
    assert parts('"""What it is."""\nNet()').docstring == "What it is."


def test_a_default_cannot_read_what_every_instance_makes_anew():
    with pytest.raises(InputError, match=r"default of the hyperparameter 'b' uses 'a'.*b = \.\.\."):
        parts("a: int = 1\nb: int = a * 2\nNet(b)")


def rewritten(code):
    function = ast.parse(code).body[0]
    use_attributes(function, {"h": "self.hparams.h"})
    return ast.unparse(function)


def test_bare_hyperparameters_are_read_from_the_instance():
    code = "def f(self, x):\n    return [h * i for i in range(h)] + [(lambda y: y + h)(x)]"
    assert rewritten(code) == code.replace("h *", "self.hparams.h *").replace("(h)", "(self.hparams.h)").replace(
        "y + h", "y + self.hparams.h"
    )


@pytest.mark.parametrize(
    "code",
    [
        "def f(self, h):\n    return h",
        "def f(self):\n    h = 1\n    return h",
        "def f(self):\n    return [h for h in range(3)]",
        "def f(self):\n    return lambda h: h",
    ],
)
def test_a_name_that_the_hook_binds_stays_its_own(code):
    assert rewritten(code) == code


@pytest.mark.parametrize(
    "code",
    [
        "def f(self, x=h):\n    pass",
        "@staticmethod\ndef f(x):\n    return h",
        "def f(self):\n    class A:\n        def g(self):\n            return h",
    ],
)
def test_a_hyperparameter_out_of_reach_of_the_instance_is_named(code):
    with pytest.raises(
        InputError, match=r"f reads 'h' in line \d+, where the instance is not accessible.*self.hparams.h"
    ):
        rewritten(code)


@pytest.mark.parametrize(
    ("code", "inner", "last"),
    [
        ("X = X / 16\nX, y", ["X_ = X / 16"], "(X_, y)"),
        ("X += 1\nX", ["X_ = X + 1"], "X_"),
        ("X /= 2\nX /= 3\nX", ["X_ = X / 2", "X_ = X_ / 3"], "X_"),
        ("if y:\n    X = 1\nX", ["X_ = X", "if y:\n    X_ = 1"], "X_"),
        ("print(X)\nX = 1\nX", ["X_ = X", "print(X_)", "X_ = 1"], "X_"),
        ("X_ = 1\nX = X + X_\nX", ["X_ = 1", "X__ = X + X_"], "X__"),
        ("X = 1\nX += 1\nX", ["X = 1", "X += 1"], "X"),
        ("X: int = 1\nX = X + 1\nX", ["X = X + 1"], "X"),
        ("new = new + 1\nnew", ["new = new + 1"], "new"),
    ],
)
def test_what_a_cell_makes_of_a_notebooks_variable_has_a_name_of_its_own(code, inner, last):
    cell = parts(code)
    rename_rebound(cell, {"X": 1, "y": 2})
    assert (texts(cell.inner), ast.unparse(cell.expression)) == (inner, last)


def test_hooks_read_what_was_renamed():
    cell = parts("X = X / 16\ndef forward(self, x): return x * X\nX")
    rename_rebound(cell, {"X": 1})
    assert "x * X_" in ast.unparse(cell.hooks[0])


def test_a_notebooks_variable_that_is_rebound_without_an_assignment_is_named():
    with pytest.raises(InputError, match=r"computes net from the notebook's net.*such as net_"):
        rename_rebound(parts("y: int = 1\nx = net()\ndef net(): return y\nnet"), {"net": 1})


def test_lines_of_ipython_and_what_imports_need_stay_in_the_notebook_in_order():
    code = "get_ipython().system('pip')\nimport sys\nsys.path.insert(0, 'src')\nimport net\nsize = 3\nnet.make(size)"
    cell = parts(code)
    assert texts(cell.notebook) == code.split("\n")[:4]
    assert texts(cell.in_text) == code.split("\n")[1:4]
    assert texts(cell.inner) == ["size = 3"]


def test_what_ipython_returns_stays_too():
    cell = parts("files = get_ipython().getoutput('ls')\nNet(len(files))")
    assert (cell.inner, cell.in_text, len(cell.notebook)) == ([], [], 1)


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    import x\nexcept ImportError:\n    x = None",
        "try:\n    from math import *\nexcept ImportError:\n    pass",
        "if cond:\n    import x\nelse:\n\n    def x():\n        pass",
    ],
)
def test_blocks_of_imports_and_definitions_stay_in_the_notebook(code):
    assert texts(parts(code + "\nNet(x)").notebook) == [code]


def test_blocks_without_an_import_or_with_a_hyperparameter_are_built_anew():
    assert parts("if cond:\n    x = 1\nNet(x)").notebook == []
    assert parts("deep: bool = True\nif deep:\n    import x\nNet(x)").notebook == []


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("import lightning", "lightning.pytorch"),
        ("import lightning as L", "lightning.pytorch"),
        ("import torch, lightning.pytorch as pl", "lightning.pytorch"),
        ("from lightning.pytorch.callbacks import Timer", "lightning.pytorch"),
        ("def f():\n    from lightning import Trainer", "lightning.pytorch"),
        ("import pytorch_lightning as pl", "pytorch_lightning"),
        ("from pytorch_lightning.callbacks import Timer", "pytorch_lightning"),
        ("import lightning_utilities, lightning.fabric", None),
        ("from .lightning import x", None),
    ],
)
def test_imports_tell_the_lightning_package(code, package):
    assert lightning_package(ast.parse(code)) == package
