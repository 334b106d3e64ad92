import sys
from pathlib import Path

import pytest

from moleflow_pl._internal.registry import Registry, import_modules
from moleflow_pl.errors import ConfigError


def shapes() -> Registry[object]:
    registry: Registry[object] = Registry("shape")
    registry.add("square")(1)
    registry.add("circle")(2)
    return registry


def test_unknown_name_is_answered_with_the_argument_the_names_and_the_closest() -> None:
    with pytest.raises(ConfigError) as error:
        shapes()["sqare"]
    assert str(error.value) == (
        "shape has to be one of 'circle', 'square', got 'sqare': did you mean 'square'?"
    )


@pytest.mark.parametrize("name", ["hexahedron", None, 3])
def test_a_name_unlike_any_other_gets_no_hint(name: object) -> None:
    with pytest.raises(
        ConfigError, match="shape has to be one of 'circle', 'square', got .*$"
    ) as e:
        shapes()[name]  # type: ignore[index]
    assert "did you mean" not in str(e.value)


def test_looking_whether_a_name_is_there_raises_nothing() -> None:
    assert "sqare" not in shapes()
    assert shapes().get("sqare") is None


def test_a_name_is_added_once() -> None:
    registry = shapes()
    with pytest.raises(ValueError, match="shape 'square' is already registered"):
        registry.add("square")
    assert registry["square"] == 1


def test_a_class_that_is_added_knows_its_name_and_a_function_stays_as_it_is() -> None:
    registry = shapes()

    @registry.add("parent")
    class Parent:
        name: str

    @registry.add("child")
    class Child(Parent):
        pass

    assert (Parent.name, Child.name) == ("parent", "child")
    assert registry.add("largest")(max) is max
    assert registry["child"] is Child


def test_every_module_of_a_package_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "toy_package"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("one", "two"):
        (package / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    import_modules("toy_package", [str(package)])
    assert {"toy_package.one", "toy_package.two"} <= set(sys.modules)
