"""Of all tests."""

import os
import signal

from hypothesis import HealthCheck, settings

# A shell gives what it runs in the background an ignored SIGINT, which children inherit: tests of Ctrl-C would wait for
# ever. A handler is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no failure. Under CI the examples are the same each time (hypothesis's own profile, as patient as
# this one); elsewhere they are drawn anew.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if "CI" in os.environ else "patient")
