"""The error that a refused conversion raises, with every problem in one message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SHOWN = 12
"""Number of problems that a message shows; the error keeps all of them."""

LONGEST_LINE = 300
"""Characters kept of another library's message, since some of them print the file itself."""


class ConversionError(ValueError):
    """A checkpoint that cannot be read, recognised or converted.

    Args:
        where: The source or target that the problems belong to; it stands before each of them.
        problems: Every problem, each in one line.
        advice: What the user can do about them; may be empty.

    Attributes:
        problems: All problems; the message shows the first twelve.
        advice: As given.

    Example:
        >>> print(ConversionError("a.safetensors", ["'x' has no rule", "'fc.bias' is missing"]))
        a.safetensors: 'x' has no rule
        a.safetensors: 'fc.bias' is missing
    """

    def __init__(self, where: str, problems: Sequence[str], advice: str = "") -> None:
        self.problems, self.advice = tuple(problems), advice
        lines = [f"{where}: {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"{where}: and {len(problems) - SHOWN} more problems")
        super().__init__("\n".join(lines + [advice] * bool(advice)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def listed(names: Iterable[object], most: int = 4) -> str:
    """Write the first of some names, separated by commas, and count the rest.

    Example:
        >>> listed(["stage1.0", "stage1.1"]), listed([f"stage3.{n}" for n in range(6)])
        ('stage1.0, stage1.1', 'stage3.0, stage3.1, stage3.2, stage3.3 and 2 more')
    """
    words = list(map(str, names))
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
