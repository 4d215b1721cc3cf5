"""Adapters whose process comes to a bad end; NumPy underneath, so that they start at once."""

import os
import signal
import sys
import time

from conformance.run.adapters.numpy import Oracle


class Killed(Oracle):
    def record(self, images, train, layers):
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Oracle):
    def record(self, images, train, layers):
        time.sleep(600)


class Crashing(Oracle):
    def record(self, images, train, layers):
        raise RuntimeError("the sky fell")


class Exiting(Oracle):
    def record(self, images, train, layers):
        sys.stderr.write("a library complains\n")
        os._exit(7)


class Chattering(Oracle):
    """Correct, but it prints to standard output, where the worker's own words go."""

    def record(self, images, train, layers):
        sys.stdout.write("a library greets you\n")
        os.write(1, b"so does its C++ half\n")
        return super().record(images, train, layers)


class Imprecise(Oracle):
    """Multiplies as a GPU with TF32 does."""

    def multiply(self, left, right):
        return left.astype("float16") @ right.astype("float16")
