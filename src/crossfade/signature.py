"""A model's features as its MLflow signature: where the dataset's schema is written down, and read again."""

from __future__ import annotations

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from crossfade.schema import Feature, FeatureSchema, Kind

_TYPES: dict[Kind, DataType] = {
    "numeric": DataType.double,
    "categorical": DataType.string,
    "boolean": DataType.boolean,
}
_KINDS: dict[DataType, Kind] = {
    **{kind_type: kind for kind, kind_type in _TYPES.items()},
    DataType.float: "numeric",
    DataType.integer: "numeric",
    DataType.long: "numeric",
}


def signature_of(schema: FeatureSchema, text_labels: bool) -> ModelSignature:
    """Write a schema down; a feature that may be null is an optional column."""
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(_TYPES[f.kind], f.name, required=not f.nullable) for f in schema.features
    ]
    label = ColSpec(DataType.string if text_labels else DataType.long)
    return ModelSignature(inputs=Schema(columns), outputs=Schema([label]))


def schema_of(signature: ModelSignature | None) -> FeatureSchema | None:
    """Read a schema; None when the signature names no columns, or one of a type that is no feature."""
    columns = signature.inputs.inputs if signature is not None and signature.inputs is not None else []
    if not columns or not all(isinstance(c, ColSpec) and c.name and c.type in _KINDS for c in columns):
        return None
    return FeatureSchema(tuple(Feature(str(c.name), _KINDS[c.type], nullable=not c.required) for c in columns))
