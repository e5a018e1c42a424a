"""The registry, on a real MLflow database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crossfade.errors import AliasMoved, RegistryUnavailable
from crossfade.registry import Registry
from crossfade.version import Version


def test_what_is_not_there_is_none(registry: Registry) -> None:
    """An alias of a model that does not exist points nowhere."""
    assert registry.at("prod") is None
    assert registry.versions() == []


def test_a_run_is_registered_once(registry: Registry, register: Callable[..., Version]) -> None:
    """Registering the same run again gives the version it has."""
    version = register("prod")
    assert registry.register(version.run_id, "models:/any", {}).number == version.number
    assert len(registry.versions()) == 1


def test_an_alias_moves_only_from_where_it_was_seen(registry: Registry, register: Callable[..., Version]) -> None:
    """A move that expects another version is refused, and the alias stays."""
    first, second = register("prod"), register()
    with pytest.raises(AliasMoved, match="points at version 1, not at 7"):
        registry.move("prod", second.number, expected="7")
    assert registry.at("prod") == registry.get(first.number)


def test_equal_models_have_equal_digests(registry: Registry, register: Callable[..., Version]) -> None:
    """The same model registered twice has one digest; it names what answers, not the version."""
    first, second = registry.load(register()), registry.load(register())
    assert first.version.number != second.version.number
    assert first.digest == second.digest


def test_an_unreachable_server_is_named_without_its_password() -> None:
    """The error says which server does not answer, and keeps its login to itself."""
    with pytest.raises(RegistryUnavailable) as refused:
        Registry("http://bob:s3cret@127.0.0.1:9", "IrisClassifier").at("prod")
    assert "127.0.0.1:9 does not answer" in str(refused.value)
    assert "s3cret" not in str(refused.value)
