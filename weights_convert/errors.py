"""What goes wrong in a conversion, all of it at once."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 12
LONGEST_LINE = 300
"""Letters of another library's message; some show the file itself."""


class ConversionError(ValueError):
    """A checkpoint that cannot be read, understood or converted.

    Attributes:
        problems: Every single one; the message shows the first dozen.
        advice: What to do about them; may be empty.

    Example:
        >>> print(ConversionError("a.safetensors", ["no rule for 'x'", "'fc.bias' is missing"]))
        a.safetensors: no rule for 'x'
        a.safetensors: 'fc.bias' is missing
    """

    def __init__(self, where: str, problems: Sequence[str], advice: str = "") -> None:
        self.problems, self.advice = tuple(problems), advice
        lines = [f"{where}: {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"{where}: and {len(problems) - SHOWN} more of the kind")
        super().__init__("\n".join(lines + [advice] * bool(advice)))


def first_line(error: Exception) -> str:
    """An error in one line: some libraries' messages are a page, and some are empty."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."
