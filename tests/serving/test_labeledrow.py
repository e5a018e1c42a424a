"""One labelled row from elsewhere, against what prod learnt."""

from __future__ import annotations

import pytest

from crossfade.errors import InvalidInput
from crossfade.model import Label, SklearnModel
from crossfade.schema import FeatureSchema
from crossfade.serving.labeledrow import RowReader


def _label(label: object, *classes: Label) -> str:
    model = SklearnModel(None, FeatureSchema.of_numbers("b", "a"), classes)
    return RowReader(model, max_rows=10).read({"a": 1, "b": 2}, label, "batch", 0).label


@pytest.mark.parametrize("label", [2, "2", 2.0, "-7", 9])
def test_whole_numbers_are_labels_of_a_model_that_learnt_some(label: object) -> None:
    """Whole numbers are taken however they are written, and new ones too: a class may be new."""
    assert _label(label, 0, 1, 2) == str(int(float(str(label))))


@pytest.mark.parametrize("label", ["setosa", "2.5", "1e3", "\u0663"])
def test_text_is_no_label_of_a_model_that_learnt_numbers(label: str) -> None:
    """A label that retraining would have to leave out is refused at the door."""
    with pytest.raises(InvalidInput, match="allowed: a whole number, as the labels that prod learnt"):
        _label(label, 0, 1, 2)


@pytest.mark.parametrize(("label", "expected"), [("setosa", "setosa"), (2, "2")])
def test_any_label_suits_a_model_that_learnt_text(label: object, expected: str) -> None:
    """Text labels may look like numbers."""
    assert _label(label, "setosa", "virginica") == expected


def test_the_same_row_is_the_same_text() -> None:
    """Features stand in one order, whatever the order of prod's signature."""
    rows = [
        RowReader(SklearnModel(None, FeatureSchema.of_numbers(*names), (0, 1)), 10).read({"a": 1, "b": 2}, 0, "x", 0)
        for names in ("ab", "ba")
    ]
    assert rows[0] == rows[1]
