"""The account of everything in a source that is not the network: left out with a reason, or a problem."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from weights_convert.recognition.beside import grouped, known_beside
from weights_convert.recognition.heads import HEAD_NAMES, linear_layers
from weights_convert.recognition.subtrees import Subtree
from weights_convert.shapes import Shape

LISTED = 8
"""The number of options that an advice names."""

OBJECT = "an object of "
"""The beginning of the type of a value whose class belongs to another library, and which was not built."""


@dataclass
class Account:
    """An account of what is left out of a source, and of what nobody said may be left out.

    Attributes:
        tree: The network.
        base: The path that the user named by `--entry`; None if there was none.
        dropped: What is left out, by path, each with the reason; completed here.
        problems: What is wrong, one line each; completed here.
        shapes: The shapes of arrays, where they are known.
        unknown: The number of names at every path that no rule and no row knows.
        linear: Those of these paths that hold one linear layer.
        left_out: The names that are left out.
    """

    tree: Subtree
    base: str | None
    dropped: dict[str, str]
    problems: list[str]
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    linear: list[str] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)

    def leave_out(self, names: Collection[str], reason: str) -> None:
        """Leave names out for a reason, in groups."""
        kept = [name for name in self.tree.readings if name not in names]
        self.left_out |= set(names)
        self.dropped.update(dict.fromkeys(grouped(names, kept), reason))

    def arrays(self, names: Collection[str]) -> None:
        """Account for every array that is not one of the network's."""
        outside: list[str] = []
        unknown: list[str] = []
        for name in names:
            if name in self.tree.readings or name in self.left_out:
                continue
            if (reason := self._dialect_drops(name)) is not None:
                self.dropped[name] = reason
            elif known := known_beside(name, self.tree.entry):
                self.dropped[known[0]] = known[1]
            else:
                (unknown if self._is_in_entry(name) else outside).append(name)
        self.leave_out(outside, f"beside {self.base!r}, which was asked for")
        groups = grouped(unknown, self.tree.readings) if self.tree.is_whole else dict.fromkeys(unknown, 1)
        layers = linear_layers(groups, self.tree.dialect, names)
        self.linear = [path for path in layers if self._may_be_classifier(path)]
        for path, count in groups.items():
            self.problems.append(self._unknown(path) + (f" ({count} arrays)" if count > 1 else ""))
            self.unknown[path] = count

    def others(self, others: Mapping[str, str]) -> None:
        """Account for every value that is no array."""
        for name, kind in others.items():
            if known := known_beside(name, self.tree.entry):
                self.dropped.setdefault(*known)
            elif self.tree.entry and not name.startswith(self.tree.outer):
                if kind.startswith(OBJECT) and self._is_in_entry(name):
                    self.problems.append(f"{name!r} is {kind}, which is not built")
                    self.unknown[name] = 1
                else:
                    self.dropped[name] = f"no array, but {kind}"
            elif self._is_in_entry(name):
                self.problems.append(f"{name!r} is {kind}, expected an array")
                self.unknown[name] = 1

    def advice(self) -> str:
        """Return the options that would accept what nobody said may be left out; empty if there is nothing."""
        if not (self.unknown and self.tree.is_whole):
            return ""
        drop = " ".join(f"--drop {path}" for path in list(self.unknown)[:LISTED])
        more = f" and so on, {len(self.unknown)} in all" if len(self.unknown) > LISTED else ""
        lines = [f"Leave out what is no part of the network: {drop}{more} (in Python, drop=[...])."]
        if self.tree.entry and not any(path.startswith(self.tree.outer) for path in self.unknown):
            entry = self.tree.entry
            lines = [f"Read the network alone: --entry {entry} (in Python, entry={entry!r}); or l{lines[0][1:]}"]
        has_classifier = any(canonical.startswith("fc.") for canonical in self.tree.canonical.values())
        if self.linear and not has_classifier:
            path = self.linear[0]
            lines.append(f"If the linear layer {path!r} is the classifier: --head {path} (in Python, head={path!r}).")
        starts = tuple(f"{place}{name}." for place in self.tree.levels[:1] for name in HEAD_NAMES)
        heads = [path for path in self.unknown if f"{path}.".startswith(starts) and path not in self.linear]
        if heads and not has_classifier:
            lines.append(f"{heads[0]!r} is no single linear layer; --drop-head leaves it out as the classifier.")
        return "\n".join(lines)

    def _may_be_classifier(self, path: str) -> bool:
        """Return whether the kernel of a layer is a matrix that takes the network's features, as far as is known."""
        last = next((name for name, path in self.tree.canonical.items() if path == "stage4.0.bn3.bias"), "")
        kernels = [s for name, s in self.shapes.items() if name.rpartition(".")[0] == path and len(s) > 1]
        features = self.shapes.get(last, ())[-1:]
        return all(len(kernel) == 2 and set(features) <= set(kernel) for kernel in kernels)

    def _unknown(self, path: str) -> str:
        if path.startswith(self.tree.outer):
            return f"{self.tree.dialect.name} has no rule for {path!r}"
        return f"{path!r} lies beside the network {self.tree.entry!r}"

    def _dialect_drops(self, name: str) -> str | None:
        return self.tree.dialect.why_dropped(self.tree.names[name]) if name in self.tree.names else None

    def _is_in_entry(self, name: str) -> bool:
        if self.base is None:
            return True
        if self.base in (self.tree.entry, self.tree.path):
            return name in self.tree.names or f"{name}.".startswith(f"{self.base}.")
        return name.startswith(f"{self.base}.")
