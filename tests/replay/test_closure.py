import ast

import numpy
import pytest

from lightning_magics.replay.closure import Closure
from lightning_magics.replay.history import History, SourceCode
from lightning_magics.replay.plain import is_plain


class IPython:
    def getoutput(self, command):
        return object()


def closure(*cells, code, names=None):
    """Run cells, and return the module that some code needs."""
    namespace = {"get_ipython": IPython, **(names or {})}
    history = History(namespace)
    for cell in cells:
        exec(cell, namespace)
        history.add_cell(cell)
    found = Closure(history)
    found.need_code(code)
    return found.module()


def works(module, code):
    """The value of some code in a module that was collected."""
    namespace = {"__name__": "__main__"}
    exec(module.text, namespace)
    return eval(code, namespace)


def test_functions_and_constants_of_other_cells_are_found_in_the_order_of_the_cells():
    cells = [
        "WIDTH = 3  # wide",
        "def g():\n    return WIDTH",
        "def unused():\n    pass",
        "def f():\n    return g() + 1",
    ]
    module = closure(*cells, code="f()")
    assert module.text == "WIDTH = 3  # wide\n\n\ndef g():\n    return WIDTH\n\n\ndef f():\n    return g() + 1\n"
    assert works(module, "f()") == 4
    assert module.missing == {}


def test_the_value_at_the_time_of_the_call_counts():
    cells = ["k = 1", "def f():\n    return k", "first = f()", "k = 5"]
    module = closure(*cells, code="(first, f())")
    assert works(module, "(first, f())") == (1, 5)


def test_a_cell_that_ran_again_counts_as_it_ran_last():
    module = closure("def f():\n    return 1", "def f():\n    return 2", code="f()")
    assert module.text == "def f():\n    return 2\n"


def test_a_name_that_is_made_of_its_former_value():
    module = closure("x = [1, 2]", "x = [2 * item for item in x]", "x += [7]", code="x")
    assert works(module, "x") == [2, 4, 7]


def test_what_changes_the_object_later_is_taken_along():
    cells = ["from types import SimpleNamespace\na = SimpleNamespace()", "a.b = [1]", "a.b.append(2)", "a.c = print"]
    module = closure(*cells, code="a.b")
    assert works(module, "a.b") == [1, 2]
    assert "print(a)" not in closure(*cells, "print(a)", code="a").text


def test_what_ran_twice_is_taken_twice():
    module = closure("class A:\n    n = [0]", "A.n.append(len(A.n))", "A.n.append(len(A.n))", code="A.n")
    assert works(module, "A.n") == [0, 1, 2]


def test_what_two_loaded_runs_have_alike_is_taken_once():
    history = History({})
    source = SourceCode("k = 1\ndef f():\n    return k", namespace={"k": 1})
    homes = [history.add_home(source), history.add_home(source)]
    found = Closure(history)
    for home in homes:
        found.need_code("f()", home)
    assert found.module().text == "k = 1\n\n\ndef f():\n    return k\n"
    assert found.module().missing == {}


def test_only_the_imports_that_are_used_and_only_their_names():
    cells = ["import os, sys, json as j\nfrom math import pi, tau", "def f():\n    return j.dumps([pi])"]
    module = closure(*cells, code="f()")
    assert module.imports == ("import json as j", "from math import pi")


def test_submodules_that_several_cells_imported_are_all_there():
    module = closure("import xml.dom", "import xml.sax", code="xml.dom.Node, xml.sax")
    assert module.imports == ("import xml.dom", "import xml.sax")


def test_an_import_whose_name_has_two_meanings_stays_in_its_place():
    cells = ["from math import floor as r", "one = r(1.7)", "from math import ceil as r", "two = r(1.2)"]
    module = closure(*cells, code="(one, two, r)")
    assert works(module, "(one, two)") == (1, 2)


def test_a_star_import_is_found_by_its_module():
    module = closure("from math import *", "def f():\n    return pi", code="f()")
    assert module.text.startswith("from math import *\n")


def test_a_name_that_only_an_import_explains():
    assert closure(code="array([1])", names={"array": numpy.array}).text == "from numpy import array\n"


def test_class_bodies_decorators_and_defaults_are_read():
    cells = [
        "import functools\nbase = object\nstep = 2\nmark = functools.cache\ndef unused(): ...",
        "class A(base):\n    @mark\n    def f(self, n=step):\n        return n * factor\nfactor = 3",
    ]
    module = closure(*cells, code="A()")
    assert works(module, "A().f()") == 6
    assert "unused" not in module.text


def test_compound_statements_are_taken_whole():
    cells = [
        "try:\n    import tomllib\nexcept ImportError:\n    tomllib = None",
        "if tomllib:\n    x = 1\nelse:\n    x = 2",
    ]
    assert works(closure(*cells, code="x"), "x") == 1


def test_recursion_and_functions_that_call_each_other():
    cells = ["def even(n):\n    return n == 0 or odd(n - 1)", "def odd(n):\n    return n != 0 and even(n - 1)"]
    assert works(closure(*cells, code="even(4)"), "even(4)") is True


def test_a_lambda_finds_what_it_reads_later():
    module = closure("f = lambda x: x * factor", "factor = 2", code="f(3)")
    assert works(module, "f(3)") == 6
    assert module.text.count("factor = 2") == 1


def test_a_plain_value_that_a_function_changed_is_as_it_is_now():
    module = closure("n = 0\ndef count():\n    global n\n    n += 1\ncount()", code="n")
    assert works(module, "n") == 1


def test_a_value_that_no_cell_made_is_written_if_it_is_plain():
    module = closure(code="(width, names)", names={"width": 3, "names": {"a": [1, 2.5, None]}})
    assert works(module, "(width, names)") == (3, {"a": [1, 2.5, None]})


def test_a_loop_variable_of_a_cell_that_is_at_work_is_written_as_a_value():
    history = History({"h": 16})
    history.add_cell("for h in (8, 16):\n    fit(h)", line=2)
    found = Closure(history)
    found.need_code("h")
    assert found.module().text == "h = 16\n"


def test_what_ipython_made_is_missing_and_says_so():
    module = closure("files = get_ipython().getoutput('ls')", "def f():\n    return files", code="f()")
    (why,) = module.missing.values()
    assert list(module.missing) == ["files"]
    assert (
        why == "a line that only IPython can run created it: files = get_ipython().getoutput('ls'). Create it in Python"
    )


def test_an_object_that_no_cell_made_is_missing():
    module = closure("def f():\n    return thing", code="f()", names={"thing": object()})
    assert module.missing == {"thing": "no recorded cell created this object: create it in a cell"}


def test_ipython_and_this_package_are_missing_in_code_that_is_to_run_without_them():
    module = closure("def f():\n    get_ipython()", "import lightning_magics", code="(f, lightning_magics)")
    assert module.missing["get_ipython"] == "it exists only in IPython: remove its use"
    assert module.missing["lightning_magics"].startswith(
        "it belongs to lightning_magics, and the code must run without"
    )


def test_builtins_and_names_that_do_not_exist_are_left_alone():
    module = closure("def f():\n    return len(x) if False else nowhere", code="f()", names={})
    assert module.missing == {}


def test_seeds_come_along_where_something_may_be_drawn_after_them():
    cells = ["import random\nrandom.seed(0)", "x = random.random()", "random.seed(5)"]
    module = closure(*cells, code="x")
    assert module.body == ("random.seed(0)", "x = random.random()", "random.seed(5)")
    history = History({})
    history.add_cell("import random\nrandom.seed(0)\ndef f(): ...")
    found = Closure(history)
    found.need_code("f")
    assert found.module(seeded=True).body == ("def f(): ...",)


def test_settings_and_the_path_come_along_and_secrets_do_not():
    cells = ["import sys, os\nsys.path.insert(0, '.')\nos.environ['TOKEN'] = 'secret'", "def f():\n    return os.name"]
    module = closure(*cells, code="f()")
    assert "sys.path.insert(0, '.')" in module.body
    assert "secret" not in module.text


def test_future_imports_hold_for_the_module():
    module = closure("from __future__ import annotations", "def f(x: int): ...", code="f")
    assert module.imports == ("from __future__ import annotations",)


def test_the_class_of_a_definition_is_found_where_the_name_means_its_instance_now():
    source = "class Net:\n    pass"
    namespace = {}
    history = History(namespace)
    for cell in (source, "Net = Net()"):
        exec(cell, namespace)
        history.add_cell(cell)
    found = Closure(history)
    found.need_class(type(namespace["Net"]), "")
    assert found.module().text == "class Net:\n    pass\n"


def test_a_class_of_a_function_is_taken_from_its_source():
    history = History({"width": 3})

    class Net:
        pass

    found = Closure(history)
    found.need_class(Net, "class Net:\n    w = width\n")
    assert found.module().text == "width = 3\n\n\nclass Net:\n    w = width\n"
    found = Closure(history)
    found.need_class(Net, "")
    assert found.missing == {"Net": "its source is not available: define it in a cell"}


def test_a_run_that_was_loaded_sees_nothing_of_the_notebook():
    history = History({"scale": 1})
    history.add_cell("scale = 1\nother = scale")
    home = history.add_home(SourceCode("scale = 2\ndef f():\n    return scale", namespace={"scale": 2}))
    found = Closure(history)
    found.need_code("f()", home)
    assert found.module().text == "scale = 2\n\n\ndef f():\n    return scale\n"
    found.need_code("other")
    assert found.module().missing == {
        "scale": "the notebook and the loaded run define it differently: rename the one in the notebook"
    }


@pytest.mark.parametrize("value", [1, -2.5, "a", None, True, (1,), [1, [2]], {"a": {3}}, b"x", float("inf")])
def test_plain_values(value):
    plain = value != float("inf")
    assert is_plain(value) is plain
    if plain:
        assert ast.literal_eval(repr(value)) == value


@pytest.mark.parametrize("value", [object(), numpy.ones(2), [print], "x" * 200_000, float("nan")])
def test_values_that_are_not_plain(value):
    assert not is_plain(value)


def test_each_name_of_an_import_is_judged_by_itself():
    module = closure("import torch, lightning_magics", "x = torch.ones(2)", code="x")
    assert (module.missing, module.imports, module.body) == ({}, ("import torch",), ("x = torch.ones(2)",))
    module = closure("import torch, lightning_magics as lm", code="lm")
    assert list(module.missing) == ["lm"]


@pytest.mark.parametrize(
    ("cell", "comes"),
    [
        ("_ = torch.manual_seed(0)", True),
        ("SEED = pl.seed_everything(42)", True),
        ("random.seed(1); torch.manual_seed(1)", True),
        ("if torch.cuda.is_available():\n    torch.cuda.manual_seed_all(1)", True),
        (
            "def settle(number):\n    '''Text.'''\n    torch.manual_seed(number)\nsettle(3)",
            True,
        ),
        ("def study(number):\n    torch.manual_seed(number)\n    for _ in range(9):\n        print()\nstudy(3)", False),
        ("for number in range(3):\n    torch.manual_seed(number)\n    print()", False),
        ("generator = torch.Generator().manual_seed(0)", False),
    ],
)
def test_whatever_seeds_comes_along_and_nothing_that_trains_does(cell, comes):
    module = closure("import random", "import torch", "import pytorch_lightning as pl", cell, "x = 1 + 1", code="x")
    assert ("seed" in module.text) is comes, module.text
