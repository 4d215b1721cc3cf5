"""Finding the network in a tree of arrays: prefixes, several networks, heads, and what lies beside a network.

Names decide the spelling of a network, never its function.
"""

from weights_convert.recognition.choice import Choice
from weights_convert.recognition.copies import without_copies
from weights_convert.recognition.families import family_of
from weights_convert.recognition.heads import only_linear_layer
from weights_convert.recognition.relatives import relative_of
from weights_convert.recognition.selection import ON_REQUEST, Selection, select
from weights_convert.recognition.subtrees import Subtree, recognise_dialect

__all__ = [
    "ON_REQUEST",
    "Choice",
    "Selection",
    "Subtree",
    "family_of",
    "only_linear_layer",
    "recognise_dialect",
    "relative_of",
    "select",
    "without_copies",
]
