"""Recordings: the traces of one candidate in one file, which another machine compares without any framework."""
