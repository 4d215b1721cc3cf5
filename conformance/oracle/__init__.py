"""The oracle in pieces, right or with faults in it."""
