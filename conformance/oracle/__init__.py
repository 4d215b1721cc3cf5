"""The NumPy network in float64, right or with faults in it: segment by segment, gradient by gradient, step by step."""
