"""One ResNet-50, written once per framework so that the versions read alike.

`impls.config` and `impls.recipe` hold the facts of the network and of its training; `impls.numpy` is the specification,
in float64; `impls.torch`, `impls.flax` and `impls.keras` are the implementations that are held to it. Importing `impls`
imports no framework.
"""
