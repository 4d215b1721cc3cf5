"""Finding the network in a tree of arrays: prefixes, several networks, heads, and what lies beside a network.

Names decide the spelling of a network, never its function: no module here knows strides, paddings or epsilons.
"""

from weights_convert.recognition.request import Request
from weights_convert.recognition.selection import Selection, select
from weights_convert.recognition.subtrees import Subtree, recognise_dialect

__all__ = ["Request", "Selection", "Subtree", "recognise_dialect", "select"]
