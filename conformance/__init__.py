"""The conformance suite: case -> run -> compare -> report.

Cases say what is run; workers, one process per implementation and precision, turn them into traces; comparing judges
traces by the table of limits; reporting shows the verdict. Importing `conformance` imports no framework.
"""
