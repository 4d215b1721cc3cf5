"""Identification: what a layer computes, measured from its answers to probes, and said as a fact."""
