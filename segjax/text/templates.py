"""Prompt templates: sentences into which the name of a class is put."""

import pathlib
from collections.abc import Sequence

# Seven of OpenAI's eighty, which they found to be nearly as good (CLIP, notebook on prompts)
SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}.",),
    "seven": SEVEN,
}


def find_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Returns templates by name, from a file, or as they are given.

    Args:
      templates: a key of `TEMPLATES`, a text file with one template per line, one template, or
        several. A template has {} in place of the name.

    Raises:
      ValueError: unknown name, or a template without {}.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if "{}" in templates:
            templates = (templates,)
        elif (path := pathlib.Path(templates)).is_file():
            templates = [line for line in path.read_text().splitlines() if line.strip()]
        else:
            raise ValueError(
                f"templates are {templates!r}; expected one of {', '.join(TEMPLATES)}, a text with "
                "{} in place of the name, or a file of such lines"
            )
    found = tuple(templates)
    wrong = [template for template in found if template.count("{}") != 1]
    if wrong or not found:
        raise ValueError(
            f"template {wrong[0]!r} needs {{}} once, in place of the name"
            if wrong
            else "no template"
        )
    return found


def parse_names(names: str | Sequence[str]) -> list[str]:
    """Returns class names from a list, or from text with commas.

    Raises:
      ValueError: no name, an empty one, or one that occurs twice.
    """
    parts = names.split(",") if isinstance(names, str) else list(names)
    found = [part.strip() for part in parts]
    if not found or not all(found):
        raise ValueError(f"class names are {names!r}; expected names such as 'cup,spoon,table'")
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ValueError(f"class name {twice[0]!r} occurs twice in {', '.join(found)}")
    return found
