import pytest
from IPython.utils.process import arg_split

from lightning_magics.errors import InputError
from lightning_magics.options.tokens import Expression, evaluate, resolve, to_value, tokenize


@pytest.mark.parametrize(
    "line",
    [
        "",
        "  Digits   digits ",
        """--name "a b" --other='c d'""",
        """'it'"'"'s' a\\ b "say \\"hi\\"" """,
        r'"C:\new folder\data" "C:\\share"',
        "--empty '' x",
        "a=b --c=d=e --x -1",
        "$ * ? ~ & |",
    ],
)
def test_quotes_and_escapes_are_read_as_in_other_magics(line):
    assert tokenize(line, posix=True) == arg_split(line, posix=True)


def test_whitespace_in_brackets_does_not_split_and_quotes_there_stay():
    line = "--callbacks [EarlyStopping('val_loss', patience=2)] Digits(hidden=3, dropout=0.1) {'a b': (1, 2)}"
    assert tokenize(line) == [
        "--callbacks",
        "[EarlyStopping('val_loss', patience=2)]",
        "Digits(hidden=3, dropout=0.1)",
        "{'a b': (1, 2)}",
    ]


def test_brackets_in_a_string_within_brackets_do_not_count():
    assert tokenize(r"f(')', 'it\'s [') x") == [r"f(')', 'it\'s [')", "x"]


def test_a_quoted_bracket_does_not_open_one():
    assert tokenize("--name 'a (b' c") == ["--name", "a (b", "c"]


def test_a_lone_hash_starts_a_comment():
    assert tokenize("Digits --devices 2   # spawned, on both") == ["Digits", "--devices", "2"]
    assert tokenize("#") == []
    assert tokenize("--color #fff '#' d['#  ']") == ["--color", "#fff", "#", "d['#  ']"]


def test_on_windows_a_backslash_outside_quotes_is_part_of_a_path():
    assert tokenize(r"C:\data\new x", posix=False) == [r"C:\data\new", "x"]


@pytest.mark.parametrize("line", ["'a b", 'x "a', "--a='b"])
def test_an_open_quote_is_an_input_error(line):
    with pytest.raises(InputError, match=r"The quote .* is never closed\. Add the closing"):
        tokenize(line)


@pytest.mark.parametrize("line", ["f(1, 2", "[1, (2]", "f('a b)", r"f('a\')"])
def test_an_open_bracket_is_an_input_error(line):
    with pytest.raises(InputError, match="has a bracket or quote that is never closed"):
        tokenize(line)


@pytest.mark.parametrize(
    ("text", "value"),
    [("256", 256), ("-1e-3", -1e-3), ("[1, 'a']", [1, "a"]), ("None", None), ("true", True), ("False", False)],
)
def test_literals_become_values(text, value):
    assert to_value(text) == value


def test_other_text_becomes_an_expression():
    assert to_value("nn.ReLU()") == Expression("nn.ReLU()")


@pytest.mark.parametrize("text", ["relu", "sum", "bert-base-uncased", "google/bert_uncased", "train.csv", "/tmp/a b"])
def test_words_that_the_namespace_does_not_have_stay_text(text):
    assert resolve(Expression(text), {"base": 1}, "--model.name") == text


def test_expressions_are_evaluated_in_the_namespace():
    namespace = {"width": 8, "sizes": [1, 2]}
    assert resolve(Expression("width"), namespace, "--model.hidden") == 8
    assert resolve(Expression("width / 2"), namespace, "--model.hidden") == 4
    assert resolve([Expression("sizes[1]"), "plain", 3], namespace, "--model.hidden") == [2, "plain", 3]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("width * 2", "NameError: name 'width' is not defined"),
        ("f(", "SyntaxError: .* was never closed"),
        ("1 // 0", "ZeroDivisionError: .*"),
    ],
)
def test_an_expression_that_fails_names_the_option_and_the_cause(text, cause):
    with pytest.raises(InputError, match=f"^--model.hidden '{text[0]}.*' cannot be evaluated: {cause}$"):
        resolve(Expression(text), {}, "--model.hidden")


def test_an_expression_that_fails_in_several_lines_is_told_in_one():
    with pytest.raises(InputError) as caught:
        resolve(Expression("{}['a\\nb']\n"), {}, "--model.hidden")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"KeyError: 'a b'$"):
        evaluate("{}[Lines()]", {"Lines": type("Lines", (), {"__repr__": lambda self: "'a\n b'"})}, "--model.hidden")


@pytest.mark.parametrize("body", ["1 / 0", "no_such_name", "raise ValueError('mine')", "compile('f(', '<x>', 'eval')"])
def test_what_the_users_own_code_raises_keeps_its_traceback(body):
    namespace = {}
    exec(compile(f"def make():\n    {body}", "cell.py", "exec"), namespace)
    for text in ("make()", "[make() for _ in range(2)]"):
        with pytest.raises((ZeroDivisionError, NameError, ValueError, SyntaxError)) as caught:
            resolve(Expression(text), namespace, "--model.hidden")
        assert "cell.py" in [entry.frame.code.raw.co_filename for entry in caught.traceback]


def test_an_expression_that_fails_within_a_comprehension_is_still_at_fault():
    with pytest.raises(InputError, match="NameError: name 'width' is not defined"):
        resolve(Expression("[width for _ in range(2)]"), {}, "--model.hidden")
