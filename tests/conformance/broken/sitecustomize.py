"""Makes packages look uninstalled, for a process and the workers it starts: those named in HIDDEN_PACKAGES."""

import os
from importlib.machinery import PathFinder

HIDDEN = set(filter(None, os.environ.get("HIDDEN_PACKAGES", "").split(",")))
find_spec = PathFinder.find_spec

if HIDDEN:
    PathFinder.find_spec = lambda name, path=None, target=None: (
        None if name.partition(".")[0] in HIDDEN else find_spec(name, path, target)
    )
