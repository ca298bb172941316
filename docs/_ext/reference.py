"""Two directives that write reference pages from the source, so that they can't be out of date.

``.. bt-commands::`` goes through the command line, ``.. bt-settings::`` through bt/config.py.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer.main
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from bt import config
from bt.cli import app

_MARKUP = re.compile(r"\[/?bold\]|\[/\]")


class _Written(SphinxDirective):
    """Parses the lines that a subclass writes as if they stood in the page."""

    def lines(self) -> Iterator[str]:
        """The page, in reStructuredText."""
        raise TypeError("a subclass writes them")

    def run(self) -> list[nodes.Node]:
        parent = nodes.section()
        parent.document = self.state.document
        content = StringList([*self.lines()], source=type(self).__name__)
        self.state.nested_parse(content, 0, parent, match_titles=True)
        return parent.children


class Commands(_Written):
    """Every command: what it does, its arguments and options."""

    def lines(self) -> Iterator[str]:
        yield from _command("bt", typer.main.get_command(app))


def _command(name: str, command: Any) -> Iterator[str]:
    for child, made in sorted(getattr(command, "commands", {}).items()):
        if made.hidden:
            continue
        full = f"{name} {child}"
        mark = "-" if full.count(" ") == 1 else "~"
        yield from (full, mark * len(full), "")
        yield from (*_paragraphs(made.help or ""), "")
        if getattr(made, "commands", None):
            yield from _command(full, made)
            continue
        rows = [(_spelt(each), _said(each)) for each in made.params if each.name != "help"]
        yield from _table("35 65", rows)


def _paragraphs(text: str) -> Iterator[str]:
    """Help text; what is bold there is an example."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        plain = " ".join(_MARKUP.sub("", paragraph).split())
        if paragraph.startswith("[bold]") and paragraph.endswith("[/]"):
            yield from ("::", "", f"    {plain}", "")
        else:
            yield from (plain.replace("*", r"\*"), "")


def _spelt(param: Any) -> str:
    names = (
        " ".join(param.opts) if param.opts[0].startswith("-") else (param.metavar or param.name)
    )
    flag = getattr(param, "is_flag", False)
    value = "" if flag or not param.opts[0].startswith("-") else param.metavar or _kind(param)
    return f"``{names} {value}".rstrip() + "``"


def _kind(param: Any) -> str:
    kind = param.type_descriptor.annotation
    return {int: "N", float: "X", str: "NAME"}.get(kind, "VALUE")


def _said(param: Any) -> str:
    text = " ".join(_MARKUP.sub("", param.help or "").split()).replace("*", r"\*")
    default = param.default
    if isinstance(default, int | float | str) and not isinstance(default, bool):
        text += f" Default: {default}."
    return text


class Settings(_Written):
    """Every setting of a config file, with its default and what the source says of it."""

    def lines(self) -> Iterator[str]:
        source = inspect.getsource(config)
        comments = source.splitlines()
        for node in ast.parse(source).body:
            if not isinstance(node, ast.ClassDef) or not node.name.endswith("Config"):
                continue
            section = node.name.removesuffix("Config").lower()
            if not section:
                continue
            title = f"[{section}]"
            yield from (title, "-" * len(title), "", ast.get_docstring(node) or "", "")
            rows = []
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    assert field.end_lineno is not None
                    tail = comments[field.end_lineno - 1][field.end_col_offset or 0 :]
                    about = tail.partition("#")[2].strip().replace("*", r"\*")
                    default = ast.unparse(field.value) if field.value else ""
                    kind = ast.unparse(field.annotation)
                    choices = config.CHOICES.get(field.target.id)
                    if choices:
                        about += " One of " + ", ".join(f"``{one}``" for one in choices) + "."
                    rows.append((f"``{field.target.id}``", f"``{kind}``, ``{default}``", about))
            yield from _table("22 24 54", rows)


def _table(widths: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    if not rows:
        return
    yield from (".. list-table::", f"   :widths: {widths}", "   :width: 100%", "")
    for row in rows:
        for column, cell in enumerate(row):
            yield f"   {'*' if column == 0 else ' '} - {cell}".rstrip()
    yield ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("bt-commands", Commands)
    app.add_directive("bt-settings", Settings)
    return {"parallel_read_safe": True}
