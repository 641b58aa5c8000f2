"""What an installation holds."""

from __future__ import annotations

import importlib.metadata
import re
from importlib import resources

import pytest

import ingot

DATA = [f"spec/sizes/{size}.json" for size in ("0.8b", "2b", "4b", "9b")]
DATA += ["py.typed", "prompt/default_template.jinja"]
NUGGET = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("name", DATA)
def test_a_data_file_is_installed(name):
    assert resources.files("ingot").joinpath(name).is_file()


@pytest.mark.parametrize("name", NUGGET)
def test_the_nugget_is_installed_and_small(name):
    nugget = resources.files("ingot").joinpath("nugget")
    if not nugget.joinpath("model.safetensors").is_file():
        pytest.skip("this tree has no nugget yet")
    assert 0 < len(nugget.joinpath(name).read_bytes()) <= 6_000_000


def test_version_and_licence_are_told():
    try:
        about = importlib.metadata.metadata("ingot-lm")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ingot-lm runs from its sources here")
    assert about["Version"] == ingot.__version__
    assert about["License-Expression"] == "Apache-2.0"
    assert "torch" not in {re.split(r"\W", need)[0] for need in about.get_all("Requires-Dist") if "extra" not in need}
