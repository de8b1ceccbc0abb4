"""Three directives: tables of a magic's options, of the settings and of the engines, made from what is declared.

``{options} fit`` is the table of ``%lightning_fit``, ``{options} trainer`` that of Trainer's arguments, and
``{settings}`` that of ``%config LightningMagics``, and ``{engines}`` that of ``--cluster``.
"""

from collections.abc import Iterable
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from lightning_magics import clusters
from lightning_magics.magics import LightningMagics
from lightning_magics.options.parser import Option, own_options
from lightning_magics.options.trainer_arguments import trainer_options

Row = tuple[str, str, str]


def option_rows(verb: str) -> list[Row]:
    """A magic's own options: as typed, default, what they do."""
    return [(_signature(option), _default(option.default), _described(option)) for option in own_options(verb).values()]


def trainer_rows() -> list[Row]:
    """The arguments of Trainer, as the installed Lightning has them."""
    options = trainer_options().values()
    return [(f"--{option.name}", _code(option.default), option.help) for option in options]


def setting_rows() -> list[Row]:
    """The settings of the magics."""
    traits: dict[str, Any] = LightningMagics.class_own_traits(config=True)
    computed = "where a person uses the notebook"  # its default is not a value
    return [
        (name, computed if name == "prewarm" else _code(repr(trait.default())), trait.help)
        for name, trait in sorted(traits.items())
    ]


def engine_rows() -> list[Row]:
    """The engines of this package."""
    engines = [clusters.engine(name) for name in clusters.BUILT_IN]
    return [(f"--cluster {engine.name}", engine.about, _parameters(engine)) for engine in engines]


def _parameters(engine: clusters.Engine) -> str:
    return ", ".join(_code(f"--{engine.name}.{typed}") for typed, _ in engine.help)


def _signature(option: Option) -> str:
    short = f"-{option.short}, " if option.short else ""
    value = "|".join(option.choices) or option.metavar
    return f"{short}--{option.name} {value}{' …' if option.several else ''}".strip()


def _default(value: Any) -> str:
    return "" if value is None or value == () or value is False else _code(str(value))


def _described(option: Option) -> str:
    repeated = "; may be repeated" if option.repeated else ""
    words = f" (such as {', '.join(map(_code, option.words))})" if option.words else ""
    return f"{option.help}{words}{repeated}"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown; the first column is code."""
    lines = [head, ("---",) * 3, *((_code(first), *rest) for first, *rest in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


class OptionsTable(SphinxDirective):
    """The options of a magic."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        verb = self.arguments[0]
        rows = trainer_rows() if verb == "trainer" else option_rows(verb)
        return self.parse_text_to_nodes(_table(("option", "default", "what it does"), rows))


class SettingsTable(SphinxDirective):
    """The settings of the magics."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        return self.parse_text_to_nodes(_table(("setting", "default", "what it sets"), setting_rows()))


class EnginesTable(SphinxDirective):
    """The engines, by which a run goes to a cluster."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        return self.parse_text_to_nodes(_table(("option", "what it runs on", "parameters"), engine_rows()))


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("options", OptionsTable)
    app.add_directive("settings", SettingsTable)
    app.add_directive("engines", EnginesTable)
    return {"parallel_read_safe": True}
