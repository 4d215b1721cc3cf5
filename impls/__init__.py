"""One ResNet-50, written once per framework so that the versions read alike.

`impls.config` holds the facts; `impls.numpy` is the float64 specification; `impls.torch`, `impls.flax` and
`impls.keras` are the implementations. Importing `impls` imports no framework.
"""
