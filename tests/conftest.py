"""Of all tests."""

import signal

# A shell gives what it runs in the background an ignored SIGINT, which children inherit: tests of Ctrl-C would wait for
# ever. A handler is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
