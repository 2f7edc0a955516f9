"""A page that is one HTML file: its style and script are part of it, and it loads nothing.

    text = rendered("benchmark.report", "index.html.jinja", styles=["page.css"], script="page.js")

Text that goes into the template is escaped; its content security policy allows the page's own style
and script by their hashes, `{{ style_hash }}` and `{{ script_hash }}`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

FOLDER = "page"  #: of a package, with its template, style and script


def rendered(
    package: str, template: str, *, styles: Sequence[str], script: str, **content: Any
) -> str:
    """The page. `styles` and `script` name files beside the `template`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    own_style, own_script = _ours(package, *styles), _ours(package, script)
    return environment.get_template(template).render(
        **content,
        style=own_style,
        script=own_script,
        style_hash=_hash(own_style),
        script_hash=_hash(own_script),
    )


def _ours(package: str, *names: str) -> Any:
    """Files of the package, which go into the page as they are."""
    from markupsafe import Markup

    return Markup("".join((files(package) / FOLDER / name).read_text("utf-8") for name in names))


def _breakable(name: str) -> Any:
    """A name that breaks before a bracket and after a comma, not only at its hyphens."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?=\[)|(?<=,)", name))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
