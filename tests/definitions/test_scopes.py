import ast

import pytest

from lightning_magics.definitions.scopes import binds, names_read, read_first


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = a + b", {"a", "b"}),
        ("def f(x, y=a): return x + y + b", {"a", "b"}),
        ("def f():\n  x = 1\n  return x", set()),
        ("def f():\n  def g(): return x\n  x = 1\n  return g", set()),
        ("def f():\n  global x\n  x = 1\n  return x", {"x"}),
        ("[x * a for x in b if x > c]", {"a", "b", "c"}),
        ("[x for x in x]", {"x"}),
        ("{k: v for k, v in a.items()}", {"a"}),
        ("(y for x in a for y in x)", {"a"}),
        ("def f(a):\n  return [b for b in a if (c := b)] + [c]", set()),
        ("lambda x, *rest, **named: (x, rest, named, a)", {"a"}),
        ("class A(B):\n  n = a\n  def f(self): return n", {"B", "a", "n"}),
        ("class A:\n  n = 7\n  m = n\n  k = [n for i in n]", {"n"}),
        ("def f():\n  class A:\n    n = 7\n    m = n", set()),
        ("def f():\n  class A:\n    n = n", {"n"}),
        ("@decorate(a)\ndef f(x: T) -> R: pass", {"decorate", "a", "T", "R"}),
        ("def f():\n  import os.path\n  from a import b as c\n  return os, c, b", {"b"}),
        ("def f():\n  try: pass\n  except E as error: return error", {"E"}),
        ("def f(v):\n  match v:\n    case {'k': [x, *y], **z}: return x, y, z, w", {"w"}),
        ("def f():\n  with a as b, c as (d, e): return b, d, e", {"a", "c"}),
        ("def f():\n  for i, (j, k) in a: return i, j, k", {"a"}),
        ("f'{a:{b}}'", {"a", "b"}),
    ],
)
def test_names_read_from_outside_are_pythons_own(code, expected):
    assert names_read(*ast.parse(code).body) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a = b = 1", {"a", "b"}),
        ("a, (b, *c) = x", {"a", "b", "c"}),
        ("a.b = 1; c[0] = 2", set()),
        ("for i in x: j = i", {"i", "j"}),
        ("[k for k in x]", set()),
        ("[(n := k) for k in x]", {"n"}),
        ("def f(): inner = 1", {"f"}),
        ("class A: inner = 1", {"A"}),
        ("import a.b, c as d", {"a", "d"}),
        ("global g; g = 1", set()),
    ],
)
def test_names_bound_in_a_scope(code, expected):
    assert binds(ast.parse(code).body) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = x / a", {"x", "a"}),
        ("x += 1", {"x"}),
        ("x = 1; y = x; x += 1", set()),
        ("for i in a: b = i; b", {"a"}),
        ("if a: x = 1\nelse: x = 2\nx", {"a"}),
        ("if a: x = 1\nx", {"a", "x"}),
        ("with a as b: c = b", {"a"}),
        ("try: x = a\nexcept E as e: x = e\nx", {"a", "E"}),
        ("def f(): return x\nx = f()", {"x"}),
    ],
)
def test_names_read_before_they_are_bound(code, expected):
    assert read_first(ast.parse(code).body) == expected
