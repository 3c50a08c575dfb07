"""Text of others in messages: names in files, and messages of other libraries."""


def make_printable(text: str, limit: int = 1000) -> str:
    """Returns text of others for a message: of limited length, with control characters escaped.

    Names in files could otherwise break lines, command the terminal, or fill pages.

    Args:
      text: The text.
      limit: Most characters of the text, before they are escaped.
    """
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
