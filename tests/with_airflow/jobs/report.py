"""A Spark application without a session, so for a quick spark-submit: prints, waits, ends as told."""

import argparse
import os
import sys
import time

GATE_DEADLINE_S = 240.0

parser = argparse.ArgumentParser()
parser.add_argument("words", nargs="*")
parser.add_argument("--gate", help="a file to wait for")
parser.add_argument("--fail", action="store_true")
arguments = parser.parse_args()

print("driver says", *arguments.words, flush=True)
print("driver pid", os.getpid(), flush=True)
deadline = time.monotonic() + GATE_DEADLINE_S
while arguments.gate and not os.path.exists(arguments.gate):  # noqa: PTH110
    if time.monotonic() > deadline:
        sys.exit("the gate never opened")
    time.sleep(0.2)
if arguments.fail:
    raise ValueError("column salary does not exist")
print("driver is done", flush=True)
