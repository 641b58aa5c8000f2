"""Which lines of Ingot have run: what tells a useful input from others. Costs little once most lines were seen."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

import ingot

_PLACE = str(ingot.__file__).removesuffix("__init__.py")


class Coverage:
    """Counts (file, line) pairs of the package while it is `on`."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int]] = set()
        self._left: dict[CodeType, set[int]] = {}

    def __len__(self) -> int:
        return len(self.seen)

    def start(self) -> None:
        """From now on every line counts, in this thread."""
        if hasattr(sys, "monitoring"):
            self._monitor()
        else:
            sys.settrace(self._called)

    def stop(self) -> None:
        """Count nothing any more."""
        if hasattr(sys, "monitoring"):
            _monitoring().set_events(_monitoring().COVERAGE_ID, 0)
        else:
            sys.settrace(None)

    def _monitor(self) -> None:
        """Python 3.12 and later: a line reports once, then costs nothing."""
        monitoring = _monitoring()
        if monitoring.get_tool(monitoring.COVERAGE_ID) is None:
            monitoring.use_tool_id(monitoring.COVERAGE_ID, "ingot-fuzz")
        monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, self._line_once)
        monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)

    def _line_once(self, code: CodeType, line: int) -> Any:
        if code.co_filename.startswith(_PLACE):
            self.seen.add((code, line))
        return _monitoring().DISABLE

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        left = self._left.get(code)
        if left is None:
            ours = code.co_filename.startswith(_PLACE)
            left = self._left[code] = {line for *_, line in code.co_lines() if line} if ours else set()
        return self._traced if left else None  # a function all of whose lines were seen runs untraced

    def _traced(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.seen.add((frame.f_code, frame.f_lineno))
            self._left[frame.f_code].discard(frame.f_lineno)
        return self._traced


def _monitoring() -> Any:
    return vars(sys)["monitoring"]  # of Python 3.12 and later; the types are those of 3.11
