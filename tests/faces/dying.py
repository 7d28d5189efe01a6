"""A process that is killed at a step of its writing: what a child of the tests begins with."""

# Its second argument says before which sync of a file or a folder, or rename, from 0 on.
KILLED_AT_A_STEP = """
import os, pathlib, signal, sys
from tenfold.core import files
steps = int(sys.argv[2])
def step(function):
    def counted(*given):
        global steps
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
        return function(*given)
    return counted
files._sync, pathlib.Path.replace = step(files._sync), step(pathlib.Path.replace)
"""
