"""The registry: names to values."""

from __future__ import annotations

import pytest

from unlearn_guard.guard.errors import UnknownNameError
from unlearn_guard.guard.registry import Registry


@pytest.fixture
def colours() -> Registry[str]:
    registry: Registry[str] = Registry("colour")
    registry.register("dark-red")("#800")
    registry.register("blue2")("#00f")
    return registry


def test_finds_what_was_registered(colours: Registry[str]) -> None:
    assert colours["dark-red"] == "#800"
    assert list(colours) == ["dark-red", "blue2"]
    assert "blue2" in colours
    assert "green" not in colours


def test_register_returns_the_value() -> None:
    registry: Registry[object] = Registry("thing")
    value = object()
    assert registry.register("a")(value) is value


def test_unknown_name_says_kind_known_and_nearest(colours: Registry[str]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        colours["dark-rad"]
    message = str(caught.value)
    assert message.startswith("unknown colour: 'dark-rad'")
    assert "blue2, dark-red" in message
    assert "did you mean 'dark-red'?" in message


def test_taken_name_is_refused_and_the_old_value_stays(colours: Registry[str]) -> None:
    with pytest.raises(ValueError, match="'blue2' is registered already"):
        colours.register("blue2")("#fff")
    assert colours["blue2"] == "#00f"


@pytest.mark.parametrize("name", ["", "Red", "2red", "dark_red", "-red", "dark red", "red\n"])
def test_ill_formed_name_is_refused(name: str) -> None:
    registry: Registry[str] = Registry("colour")
    with pytest.raises(ValueError, match="must match"):
        registry.register(name)
