"""Show the docstrings' reStructuredText roles and formulas on the Markdown pages of the API.

A Griffe extension, named in ``mkdocs.yml``: ``.. math::`` blocks and ``:math:`` roles become the
dollar signs that the pages typeset, and references such as ``:class:`~rectiflow.flow.Flow```
become code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# The directive's line, then every line that is indented more, blank ones in between included.
_MATH_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. math::[ ]*(?P<first>.*)\n"
    r"(?P<rest>(?:(?P=indent) +\S.*\n|[ ]*\n(?=(?P=indent) +\S))*)",
    re.MULTILINE,
)
_MATH_ROLE = re.compile(r":math:`([^`]+)`")
_REFERENCE = re.compile(r":(?:class|meth|func|mod|attr|data|exc):`(~?)([\w.]+)`")
_LITERAL = re.compile(r"^( *)::$", re.MULTILINE)


def _block(found: re.Match[str]) -> str:
    indent = found["indent"]
    lines = [found["first"].strip(), *(line.strip() for line in found["rest"].splitlines())]
    formula = f"\n{indent}".join(line for line in lines if line)
    return f"\n{indent}$$\n{indent}{formula}\n{indent}$$\n\n"


def markdown(text: str) -> str:
    """Return a docstring with its roles and formulas in Markdown."""
    text = _MATH_BLOCK.sub(_block, text + "\n")
    text = _MATH_ROLE.sub(r"$\1$", text)
    text = _REFERENCE.sub(
        lambda found: f"`{found[2].rpartition('.')[2] if found[1] else found[2]}`", text
    )
    return _LITERAL.sub(r"\1", text).rstrip()


class RstToMarkdown(griffe.Extension):
    """Rewrite every docstring as it is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Griffe calls this for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
