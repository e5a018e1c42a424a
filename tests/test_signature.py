"""A schema written down as an MLflow signature, and read again from a model that was really logged."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest
from mlflow.models import ModelSignature, get_model_info, infer_signature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from sklearn.dummy import DummyClassifier

from crossfade.registry import Registry
from crossfade.schema import Feature, FeatureSchema, Kind
from crossfade.signature import schema_of, signature_of

EVERY_KIND = FeatureSchema(
    tuple(
        Feature(f"{kind}{' (cm)' if nullable else ''}", kind, nullable)
        for kind in ("numeric", "categorical", "boolean")
        for nullable in (False, True)
    )
)


def test_a_schema_survives_a_logged_model(registry: Registry) -> None:
    """Names, kinds, order and nulls are read from a registered model as they were written, and it loads with them."""
    frame = EVERY_KIND.frame_of([[1.0, None, "a", None, True, None], [2.0, 1.0, "b", "c", False, True]])
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(
            DummyClassifier().fit(frame, ["yes", "no"]),
            name="model",
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
            signature=signature_of(EVERY_KIND, text_labels=True),
            metadata={"classes": ["no", "yes"]},
        )
    assert schema_of(get_model_info(info.model_uri).signature) == EVERY_KIND
    version = registry.register(run.info.run_id, info.model_uri, {})
    assert registry.schema(version) == EVERY_KIND
    assert registry.load(version).model.schema == EVERY_KIND


@pytest.mark.parametrize("schema", [EVERY_KIND, FeatureSchema(EVERY_KIND.features[::-1])])
def test_a_signature_survives_json(schema: FeatureSchema) -> None:
    """A signature read back from its dictionary is the same schema, in the same order."""
    written = signature_of(schema, text_labels=False).to_dict()
    assert schema_of(ModelSignature.from_dict(written)) == schema


@pytest.mark.parametrize(("text_labels", "label"), [(True, DataType.string), (False, DataType.long)])
def test_the_label_has_its_own_type(text_labels: bool, label: DataType) -> None:
    """The output is text or a whole number, as the labels are."""
    assert signature_of(EVERY_KIND, text_labels).outputs == Schema([ColSpec(label)])


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        (DataType.double, "numeric"),
        (DataType.float, "numeric"),
        (DataType.integer, "numeric"),
        (DataType.long, "numeric"),
        (DataType.string, "categorical"),
        (DataType.boolean, "boolean"),
    ],
)
def test_types_that_others_write_are_read(written: DataType, kind: Kind) -> None:
    """Every number type of MLflow is a number, so a model that another program logged can be read."""
    assert schema_of(ModelSignature(Schema([ColSpec(written, "a")]))) == FeatureSchema((Feature("a", kind),))


def test_an_inferred_signature_is_read() -> None:
    """The signature that MLflow infers from a table with gaps is read."""
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", None], "c": [True, False]})
    found = schema_of(infer_signature(frame))
    assert found is not None
    assert found.kinds == {"a": "numeric", "b": "categorical", "c": "boolean"}
    assert [feature.nullable for feature in found.features] == [False, True, False]


@pytest.mark.parametrize(
    "signature",
    [
        None,
        ModelSignature(outputs=Schema([ColSpec(DataType.long)])),
        ModelSignature(Schema([ColSpec(DataType.double)])),
        ModelSignature(Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.datetime, "b")])),
        ModelSignature(Schema([ColSpec(DataType.binary, "a")])),
        ModelSignature(Schema([TensorSpec(pd.Series([1.0]).to_numpy().dtype, (-1, 4))])),
    ],
    ids=["none", "outputs only", "no names", "a date", "bytes", "a tensor"],
)
def test_what_is_no_table_of_features_has_no_schema(signature: ModelSignature | None) -> None:
    """A signature without names, or with dates, bytes or tensors, is none of ours."""
    assert schema_of(signature) is None
