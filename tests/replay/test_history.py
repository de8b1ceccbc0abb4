from lightning_magics.replay import history
from lightning_magics.replay.history import History, SourceCode, statements_of


def of(*cells, **names):
    """A history of cells."""
    found = History(names)
    for cell in cells:
        found.add_cell(cell)
    return found


def texts(found):
    return [statement.text for statement, _ in found.statements]


def test_a_statement_keeps_its_comments_and_decorators():
    (one, two) = statements_of("x = 1  # one\n\n# above\n@mark\ndef f():\n    return x  # inside\n")
    assert one.text == "x = 1  # one"
    assert two.text == "# above\n@mark\ndef f():\n    return x  # inside"


def test_statements_of_one_line_are_taken_apart():
    assert [item.text for item in statements_of("a = 1; b = a")] == ["a = 1", "b = a"]


def test_a_text_that_is_no_python_has_no_statements():
    assert statements_of("def") == ()


def test_what_is_read_at_once_and_later():
    (function, value, loop) = statements_of(
        "def f(a=b):\n    return a * c\nv = [d for _ in e]\nfor i in g:\n    t += h(i)\n"
    )
    assert (function.direct_reads, function.deferred_reads) == ({"b"}, {"c"})
    assert value.direct_reads == {"d", "e"}
    assert loop.direct_reads == {"g", "h", "t"}


def test_what_plainly_changes_an_object():
    changes = [item.changes for item in statements_of("a.b = 1\nc['d'] = 2\ne.append(3)\nshuffle(f)\nzeros_(g.weight)")]
    assert changes == [{"a"}, {"c"}, {"e"}, {"f"}, {"g"}]
    assert [item.changes for item in statements_of("print(a)\nb.to_csv('c')\ndef f():\n    d.e = 1")] == [set()] * 3
    (within,) = statements_of("with no_grad():\n    a[0] = 1")
    assert within.changes == {"a"}


def test_the_body_of_time_and_capture_ran_in_the_notebook():
    found = of("get_ipython().run_cell_magic('time', '', 'x = 1\\n')", "get_ipython().run_line_magic('time', 'y = 2')")
    assert texts(found) == ["x = 1", "y = 2"]


def test_what_a_magic_made_stands_in_its_place():
    cell = "a = 1\nget_ipython().run_line_magic('lightning_model', 'Net')\nb = 2"
    found = History({})
    found.add_cell(cell, [SourceCode("class Net: pass")])
    assert texts(found) == ["a = 1", "class Net: pass", "b = 2"]


def test_generated_code_keeps_what_was_typed_and_wraps_the_rest():
    long = f"class Net:\n    x = f({', '.join(f'argument_{i}' for i in range(12))})"
    found = History({})
    found.add_cell(
        "", [SourceCode(f"def f(*a):\n    return 1\n\n{long}", cell_text="def f(*a):  # typed\n    return 1")]
    )
    assert texts(found)[0] == "def f(*a):  # typed\n    return 1"
    assert texts(found)[1].startswith("class Net:\n    x = f(\n        argument_0,\n")


def test_what_comes_after_the_line_that_is_at_work_has_not_run():
    found = History({})
    found.add_cell("a = 1\nb = 2\nc = 3", line=2)
    assert texts(found) == ["a = 1"]


def test_a_cell_that_failed_ran_as_far_as_it_did():
    found = History({})
    found.add_cell("a = 1\nraise ValueError\nb = 2", line=2)
    assert found.binding_places("b", 9, 0) == []


def test_what_a_statement_sets_for_all():
    cell = "torch.manual_seed(0)\nseed_everything(1)\ntorch.set_num_threads(1)\nsys.path.insert(0, 'src')\n"
    cell += "torch.backends.cudnn.benchmark = True\nplt.show()\nos.environ['TOKEN'] = 'secret'"
    kinds = ["seed", "seed", "setting", "setting", "setting", "", ""]
    assert [history.setting_kind(item) for item in statements_of(cell)] == kinds


def test_outside_of_ipython_the_script_is_the_history(monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("a = 1\n")
    monkeypatch.setattr(history.sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.setattr(history, "running_shell", lambda: None)
    assert texts(history.notebook_history({}, [SourceCode("class Net: pass")])) == ["a = 1", "class Net: pass"]


def test_a_variable_that_is_none_is_not_taken_for_a_loaded_runs():
    found = history.History({"a": None})
    home = found.add_home(history.SourceCode("a = None", namespace={"a": None}))
    assert found.home_of("a", 0) == 0
    found.replaced = {"a": None}
    assert found.home_of("a", 0) == home


def test_a_match_statement_with_a_run_in_it_is_a_block():
    found = History({})
    found.add_cell(
        "match size:\n    case other:\n        loader = make(other)\n        trainer.fit(net, loader)", line=4
    )
    ((statement, _),) = found.statements
    assert "loader" in statement.binds
    assert statement.skip_reason.startswith("it was created in a match block, which is not recorded")
