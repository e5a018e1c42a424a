"""Features and labels from outside: what is read, and what is refused by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.errors import InvalidInput
from crossfade.schema import LARGEST, Feature, FeatureSchema, Kind, Value, category_text, label_text, plain_text

SCHEMA = FeatureSchema.of_numbers("height", "width")
MIXED = FeatureSchema(
    (
        Feature("size", nullable=True),
        Feature("colour", "categorical", nullable=True),
        Feature("flag", "boolean", nullable=True),
    )
)
KINDS: list[Kind] = ["numeric", "categorical", "boolean"]


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


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        ("numeric", 3, 3.0),
        ("numeric", -0.5, -0.5),
        ("numeric", 0, 0.0),
        ("categorical", "red", "red"),
        ("categorical", "7", "7"),
        ("categorical", " ", " "),
        ("boolean", True, True),
        ("boolean", False, False),
        ("boolean", 1, True),
        ("boolean", 0.0, False),
    ],
)
def test_values_of_their_kind_are_taken(kind: Kind, value: object, parsed: Value) -> None:
    """Numbers, category names, and booleans (or 0 and 1 for them) are taken."""
    (found,) = FeatureSchema((Feature("a", kind),)).parse({"a": value})
    assert (found, type(found)) == (parsed, type(parsed))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("numeric", "3", "is the text '3'; allowed: a number"),
        ("numeric", True, "is the boolean true; allowed: a number"),
        ("numeric", 4e38, "is too large"),
        ("categorical", 7, "is the number 7; allowed: text, the name of a category"),
        ("categorical", True, "is the boolean true; allowed: text"),
        ("categorical", "", "has 0 characters; allowed: 1 to 256"),
        ("categorical", "x" * 257, "has 257 characters"),
        ("categorical", "a\ud800b", "half a character"),
        ("categorical", ["red"], "is a list"),
        ("boolean", 2, "is the number 2; allowed: true or false"),
        ("boolean", "true", "is the text 'true'; allowed: true or false"),
        ("boolean", math.nan, "allowed: true or false"),
        ("boolean", {}, "is an object"),
    ],
)
@pytest.mark.parametrize("nullable", [False, True])
def test_values_of_another_kind_are_refused(kind: Kind, value: object, said: str, nullable: bool) -> None:
    """A value of another kind is refused by name, with what is allowed, whether or not null is."""
    with pytest.raises(InvalidInput) as refused:
        FeatureSchema((Feature("a", kind, nullable),)).parse({"a": value})
    assert refused.value.field == "features.a"
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("numeric", "a number"), ("categorical", "text"), ("boolean", "true or false")]
)
def test_null_is_taken_where_training_had_it(kind: Kind, wanted: str) -> None:
    """Null is taken by a feature that lacked values in training, and refused by one that never did."""
    assert FeatureSchema((Feature("a", kind, nullable=True),)).parse([None]) == [None]
    with pytest.raises(InvalidInput, match=f"is null; allowed: {wanted}, as training had no missing values here"):
        FeatureSchema((Feature("a", kind),)).parse([None])


@pytest.mark.parametrize("kind", KINDS)
def test_a_nullable_feature_may_not_be_left_out(kind: Kind) -> None:
    """Null has to be said: a feature left out is a mistake of the caller."""
    with pytest.raises(InvalidInput, match=r"features\.a: is missing"):
        FeatureSchema((Feature("a", kind, nullable=True),)).parse({})


def test_rows_become_the_frame_that_models_take() -> None:
    """Numbers and booleans become float64 (a boolean 0 or 1), categories text, null NaN."""
    frame = MIXED.frame_of([[1.5, "red", True], [None, None, None]])
    assert frame.dtypes.tolist() == [np.dtype("float64"), np.dtype(object), np.dtype("float64")]
    assert frame.iloc[0].tolist() == [1.5, "red", 1.0]
    assert frame.iloc[1].isna().all()
    assert type(frame["colour"].iloc[1]) is float  # NaN and not None: PyCaret's imputer knows no other


def test_one_row_of_nulls_keeps_the_types() -> None:
    """Even a single row of nothing but null has the types of a full one."""
    assert MIXED.frame_of([[None, None, None]]).dtypes.equals(MIXED.frame_of([[1.0, "a", False]]).dtypes)


values_of: dict[str, st.SearchStrategy[Value]] = {
    "size": st.none() | st.floats(-LARGEST, LARGEST) | st.integers(-(2**53), 2**53).map(float),
    "colour": st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
    "flag": st.none() | st.booleans(),
}


@given(st.lists(st.fixed_dictionaries(values_of), min_size=1, max_size=8))
def test_what_is_logged_is_read_as_it_was_served(rows: list[dict[str, Value]]) -> None:
    """A row parsed, written as JSON and read by the learning loop gives the very frame that the model answered."""
    parsed = [MIXED.parse(json.loads(json.dumps(row))) for row in rows]
    served = MIXED.frame_of(parsed)
    logged = [json.loads(json.dumps(dict(zip(MIXED.names, row, strict=True)))) for row in parsed]
    read = MIXED.conform(pd.DataFrame(logged, columns=list(MIXED.names), dtype=object))
    pd.testing.assert_frame_equal(read, served)


def test_a_table_of_any_types_conforms() -> None:
    """Text, numbers and booleans of a table are read as the features' kinds, on the table's index."""
    table = pd.DataFrame(
        {
            "flag": ["true", "FALSE", "1", "maybe", None],
            "other": range(5),
            "size": ["1.5", 2, "?", np.inf, 1e39],
            "colour": ["red", 7, 7.0, "", None],
        },
        index=[9, 7, 5, 3, 1],
    )
    found = MIXED.conform(table)
    expected = pd.DataFrame(
        {
            "size": [1.5, 2.0, np.nan, np.nan, np.nan],
            "colour": pd.Series(["red", "7", "7", np.nan, np.nan], [9, 7, 5, 3, 1], dtype=object),
            "flag": [1.0, 0.0, 1.0, np.nan, np.nan],
        },
        index=[9, 7, 5, 3, 1],
    )
    pd.testing.assert_frame_equal(found, expected)


def test_a_column_the_table_lacks_is_missing() -> None:
    """A feature that the table lacks is missing in every row, in its own type."""
    found = MIXED.conform(pd.DataFrame({"size": [1, 2]}))
    assert found.dtypes.tolist() == [np.dtype("float64"), np.dtype(object), np.dtype("float64")]
    assert found[["colour", "flag"]].isna().all().all()


@pytest.mark.parametrize("dtype", ["category", "string", object])
def test_categories_of_any_type_become_text(dtype: object) -> None:
    """pandas' own text types become plain text with NaN."""
    column = pd.Series(["a", None, "b"], dtype=dtype)  # type: ignore[call-overload]
    found = FeatureSchema((Feature("c", "categorical"),)).conform(pd.DataFrame({"c": column}))["c"]
    assert found.dtype == object
    assert [found[0], found[2]] == ["a", "b"]
    assert type(found[1]) is float


def test_conforming_twice_changes_nothing() -> None:
    """What conforms already stays as it is."""
    once = MIXED.frame_of([[1.5, "red", True], [None, None, None], [-3.0, "7", False]])
    pd.testing.assert_frame_equal(MIXED.conform(once), once)


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (7.0, "7"), (7.5, "7.5"), ("7.0", "7.0"), (True, "True"), (-0.0, "0")]
)
def test_a_category_has_one_text(value: object, text: str) -> None:
    """A whole number has the same name whether or not its column lacks values elsewhere."""
    assert category_text(value) == text


def test_null_is_allowed_where_these_rows_lack_a_value() -> None:
    """The nulls of a schema follow the rows that were learnt, in both directions."""
    frame = MIXED.frame_of([[1.0, "a", None], [2.0, "b", True]])
    assert [f.nullable for f in MIXED.with_nulls_of(frame).features] == [False, False, True]


@pytest.mark.parametrize("schema", [SCHEMA, MIXED])
def test_the_example_is_a_row_that_parses(schema: FeatureSchema) -> None:
    """The example row is one that the schema takes."""
    assert schema.parse(schema.example()) == schema.example()


def test_features_are_picked_by_kind() -> None:
    """Names by kind come in order."""
    assert MIXED.of_kind("boolean", "numeric") == ["size", "flag"]
    assert MIXED.kinds == {"size": "numeric", "colour": "categorical", "flag": "boolean"}
