"""Every broken or hostile input is answered with the sentence that docs/errors.md shows, soon and in little memory."""

from __future__ import annotations

import os

import pytest

from ingot.store import SafetensorsFile
from tests.hostile.page import HEAD, PAGE, cell, expected
from tests.hostile.row import sentence, settled
from tests.hostile.table import table
from tools.fuzz.target import what_is_wrong_with

ROWS = table()
SAID = expected()


@pytest.mark.parametrize("key", ROWS, ids=lambda key: f"{key[0]}-{key[1]}"[:80])
def test_a_hostile_input_gets_its_sentence(tmp_path, key):
    said = sentence(ROWS[key], tmp_path)
    assert what_is_wrong_with(said) == ""
    assert cell(settled(said)) == SAID.get((key[0], cell(key[1])))


def test_the_page_shows_these_rows():
    """`python -m tests.hostile.page` writes it."""
    assert list(SAID) == [(section, cell(name)) for section, name in ROWS]
    assert PAGE.read_text(encoding="utf-8").startswith(HEAD.format(count=len(ROWS)))
    assert len(ROWS) > 300


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch(0o000)
    with pytest.raises(ValueError, match="cannot be opened: Permission denied"):
        SafetensorsFile(path)
