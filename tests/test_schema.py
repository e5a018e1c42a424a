"""Features and labels from outside: what is read, and what is refused by name."""

from __future__ import annotations

import pytest

from crossfade.errors import InvalidInput
from crossfade.schema import FeatureSchema, label_text, plain_text

SCHEMA = FeatureSchema(("height", "width"))


@pytest.mark.parametrize("label", [1, 1.0, "1", True])
def test_one_class_has_one_text(label: object) -> None:
    """1, 1.0, "1" and True are the same class."""
    assert label_text(label) == "1"


@pytest.mark.parametrize(
    ("label", "text"), [(0, "0"), (-0.0, "0"), (False, "0"), (-3, "-3"), ("Iris setosa", "Iris setosa")]
)
def test_labels_keep_what_they_say(label: object, text: str) -> None:
    """Zero, negative numbers and text with blanks are labels as they stand."""
    assert label_text(label) == text


@pytest.mark.parametrize(
    "label",
    [
        1.5,
        float("nan"),
        float("inf"),
        None,
        [1],
        {"a": 1},
        "",
        "a\nb",
        "a\x00",
        "x" * 257,
        pytest.param(10**300, id="301 digits"),
        pytest.param(10**5000, id="huge"),
    ],
)
def test_what_is_no_label_is_refused(label: object) -> None:
    """Fractions, null, lists, objects, empty, too long or unprintable labels are refused, naming the field."""
    with pytest.raises(InvalidInput) as refused:
        label_text(label, "label.3")
    assert refused.value.field == "label.3"
    assert str(refused.value).startswith("label.3: ")


def test_an_object_is_put_in_signature_order() -> None:
    """An object is read by name, whatever its order."""
    assert SCHEMA.parse({"width": 2, "height": 1.5}) == [1.5, 2.0]


@pytest.mark.parametrize("features", [[1, 2.5], (1, 2.5)])
def test_a_list_is_read_in_signature_order(features: object) -> None:
    """A list is read in signature order."""
    assert SCHEMA.parse(features) == [1.0, 2.5]


@pytest.mark.parametrize(
    ("features", "field", "said"),
    [
        ({"height": 1}, "features.width", "missing"),
        ({"height": 1, "width": 2, "depth": 3}, "features.depth", "no feature"),
        ({"height": 1, "width": "2"}, "features.width", "'2'"),
        ({"height": 1, "width": None}, "features.width", "null"),
        ({"height": 1, "width": True}, "features.width", "true"),
        ({"height": 1, "width": [2]}, "features.width", "list"),
        ({"height": 1, "width": {}}, "features.width", "object"),
        ({"height": 1, "width": float("nan")}, "features.width", "nan"),
        ({"height": float("-inf"), "width": 1}, "features.height", "-inf"),
        ({"height": 10**400, "width": 1}, "features.height", "too large"),
        ([1], "features", "1 values"),
        ([1, 2, 3], "features", "3 values"),
        ([1, "2"], "features.width", "'2'"),
        ("12", "features", "the text"),
        (None, "features", "null"),
        (7, "features", "the number 7"),
        pytest.param(10**5000, "features", "the number", id="huge"),
    ],
)
def test_a_refused_row_names_the_field(features: object, field: str, said: str) -> None:
    """Every refusal names the field and what came."""
    with pytest.raises(InvalidInput) as refused:
        SCHEMA.parse(features)
    assert refused.value.field == field
    assert said in str(refused.value)


def test_the_place_in_a_batch_is_named() -> None:
    """An error in a batch names the item."""
    with pytest.raises(InvalidInput) as refused:
        SCHEMA.parse([1, None], "features.4")
    assert refused.value.field == "features.4.width"


def test_a_long_unknown_name_is_cut() -> None:
    """A caller's huge name does not make a huge answer."""
    with pytest.raises(InvalidInput) as refused:
        SCHEMA.parse({"x" * 10_000: 1})
    assert len(str(refused.value)) < 200


def test_text_up_to_the_limit_passes() -> None:
    """Printable text of 1 to 256 characters is taken as it is, beyond ASCII too."""
    assert plain_text("é" * 256, "user_id") == "é" * 256
