"""Ingot: the Qwen3.5 small-model system. `ingot.load()` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingot.language_model import LanguageModel
    from ingot.loading import load
    from ingot.saving import save

__version__ = "0.1.0"
__all__ = ["LanguageModel", "__version__", "load", "save"]


def __getattr__(name: str) -> Any:
    # lazily: `import ingot` must not pay for numpy, the tokenizer and the kernels
    if name == "load":
        from ingot.loading import load

        return load
    if name == "save":
        from ingot.saving import save

        return save
    if name == "LanguageModel":
        from ingot.language_model import LanguageModel

        return LanguageModel
    raise AttributeError(f"module 'ingot' has no attribute {name!r}")
