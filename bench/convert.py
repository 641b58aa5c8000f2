"""llama.cpp's own converter on a checkpoint whose vocabulary is made up.

`python bench/convert.py LLAMA_SOURCE ...`: the rest goes to convert_hf_to_gguf.py. Its only change: the converter knows
tokenizers by a fingerprint, and is told that this one cuts text as Qwen3.5's does.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Convert."""
    source = Path(sys.argv[1])
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    from conversion import base  # type: ignore[import-not-found]  # llama.cpp's

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
    script = source / "convert_hf_to_gguf.py"
    sys.argv = [str(script), *sys.argv[2:]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
