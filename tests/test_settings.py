from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from platformdirs import user_cache_path
from pydantic import ValidationError

from stenopool.errors import UsageError
from stenopool.settings import Settings, settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.upper().startswith("STENO_"):
            monkeypatch.delenv(name)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_defaults_need_no_environment() -> None:
    found = Settings()
    assert found.models_dir == user_cache_path("stenopool") / "models"
    assert found.offline is False
    assert found.threads == 0
    assert found.max_hours == 48.0


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("models_dir", "/srv/models with spaces", Path("/srv/models with spaces")),
        ("offline", "1", True),
        ("offline", "false", False),
        ("threads", "3", 3),
        ("max_hours", "0.5", 0.5),
        ("database", "postgresql://me@host/name", "postgresql://me@host/name"),
        ("idle_seconds", "0", 0.0),
        ("stall_seconds", "1", 1.0),
        ("worker_memory_gb", "1.5", 1.5),
        ("price_per_hour", "0.25", 0.25),
        ("history_days", "7", 7.0),
    ],
)
def test_environment_sets_each_attribute(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"STENO_{name.upper()}", text)
    assert getattr(Settings(), name) == value


def test_variables_without_the_prefix_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADS", "5")
    monkeypatch.setenv("OFFLINE", "1")
    assert (Settings().threads, Settings().offline) == (0, False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("STENO_THREADS", "-1"),
        ("STENO_THREADS", "many"),
        ("STENO_THREADS", "1.5"),
        ("STENO_MAX_HOURS", "0"),
        ("STENO_MAX_HOURS", "-2"),
        ("STENO_MAX_HOURS", "nan"),
        ("STENO_MAX_HOURS", "inf"),
        ("STENO_OFFLINE", "perhaps"),
        ("STENO_IDLE_SECONDS", "-1"),
        ("STENO_STALL_SECONDS", "0"),
        ("STENO_WORKER_MEMORY_GB", "inf"),
        ("STENO_PRICE_PER_HOUR", "-0.1"),
        ("STENO_HISTORY_DAYS", "0"),
    ],
)
def test_bad_value_is_an_error_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ValidationError) as caught:
        Settings()
    problem = caught.value.errors()[0]
    assert problem["loc"] == (name.removeprefix("STENO_").lower(),)
    assert problem["input"] == text


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings()
    monkeypatch.setenv("STENO_THREADS", "7")
    assert settings() is first
    settings.cache_clear()
    assert settings().threads == 7


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("variable", "value"),
    [("STENO_OFFLINE", "maybe"), ("STENO_THREADS", "-1"), ("STENO_MAX_HOURS", "long")],
)
def test_wrong_value_is_a_usage_error_that_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"`{variable}` is `{value}`"):
        settings()


def test_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STENO_MODELS_DIR", "")
    assert settings().models_dir == user_cache_path("stenopool") / "models"


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STENO_MODELS_DIR", "~/models")
    assert settings().models_dir == Path.home() / "models"
