"""`python -m weights_convert` is the command `weights-convert`."""

from weights_convert.cli import main

main(prog_name="weights-convert")
