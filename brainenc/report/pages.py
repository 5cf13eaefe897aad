"""Pages of HTML from the templates of this package."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, context: dict[str, Any]) -> str:
    """HTML of a template, in which values are escaped, and one that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("brainenc.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
