"""Cases: what is run, on which inputs, weights and recipes."""
