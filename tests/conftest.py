"""Of all tests."""

import importlib
import os
import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# A shell gives what it runs in the background an ignored SIGINT, which children inherit: tests of Ctrl-C would wait for
# ever. A handler is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no failure. Under CI the examples are the same each time (hypothesis's own profile, as patient as
# this one); elsewhere they are drawn anew.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if "CI" in os.environ else "patient")


def pytest_addoption(parser):
    parser.addoption("--pauses", metavar="SEED", help="wait at random places, to find tests that hope to be quick")


def pytest_collection_finish(session):
    if seed := session.config.getoption("--pauses"):
        place = str(Path(__file__).with_name("pauses"))
        os.environ |= {"INGOT_PAUSES": seed, "PYTHONPATH": os.pathsep.join([place, os.environ.get("PYTHONPATH", "")])}
        sys.path.insert(0, place)
        sys.modules.pop("sitecustomize", None)
        session.config.pauses = importlib.import_module("sitecustomize")


def pytest_runtest_setup(item):
    if pauses := getattr(item.config, "pauses", None):
        pauses.calls.clear()
