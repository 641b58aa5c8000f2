"""Pauses at calls and returns of ingot's functions and of tests, at rarer ones more often: what a busy machine does to
an order that nobody promised, many times in a run. `pytest --pauses SEED` sets INGOT_PAUSES for all processes of a run.
"""

import atexit
import os
import random
import sys
import threading
import time
from collections import Counter

LONGEST_S = 0.3  # longer than what most tests take for "by now" (taste)
OFTEN, RARER = 0.2, 0.9  # call n of a function waits with chance 0.2 / n^0.9 (so that a run takes three times as long)
OURS = tuple(f"{os.sep}{name}{os.sep}" for name in ("ingot", "tests"))
FAST = tuple(f"{os.sep}{name}{os.sep}" for name in ("ops", "model", "quant"))  # arithmetic: no order to break
calls = Counter()


def begin(seed):
    """Pause from here on, in this thread and those to come."""
    dice, paused = random.Random(f"{seed} {os.getpid()}"), {}

    def at(frame, event, _):
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in paused:
            name = code.co_filename
            paused[code] = any(o in name for o in OURS) and not any(f in name for f in FAST) and "<" not in code.co_name
        if paused[code]:
            calls[code] += 1
            if dice.random() < OFTEN / calls[code] ** RARER:
                time.sleep(LONGEST_S * dice.random() ** 3)

    threading.setprofile(at)
    sys.setprofile(at)
    atexit.register(sys.setprofile, None)  # after that modules are taken apart


if "INGOT_PAUSES" in os.environ:
    begin(os.environ["INGOT_PAUSES"])
