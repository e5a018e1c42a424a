"""Logged features: from a JSON text per row to a column per feature."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as pa_json

from crossfade.schema import LARGEST, FeatureSchema, Kind, lost

_ROWS_AT_ONCE = 100_000

_ARROW: dict[Kind, pa.DataType] = {"numeric": pa.float64(), "categorical": pa.string(), "boolean": pa.bool_()}


@dataclass(frozen=True)
class Unpacked:
    """Features of some rows."""

    frame: pd.DataFrame
    """Shape (rows, features), as `FeatureSchema.conform` makes it: what a row lacks, or has of another kind, is NaN."""
    misread: Counter[str]
    """By feature: values that are there, but of another kind."""


def unpack(texts: pa.ChunkedArray | pd.Series[Any], schema: FeatureSchema) -> Unpacked:
    """Read an object of feature name to value per row, shape (rows,); a text that is none holds no feature."""
    if isinstance(texts, pd.Series):
        arrays = [pa.array(texts.iloc[i : i + _ROWS_AT_ONCE], pa.string()) for i in range(0, len(texts), _ROWS_AT_ONCE)]
        frame, misread = _unpack(pa.chunked_array(arrays, pa.string()), schema)
        return Unpacked(frame.set_index(texts.index), misread)
    return Unpacked(*_unpack(texts, schema))


def _unpack(texts: pa.ChunkedArray, schema: FeatureSchema) -> tuple[pd.DataFrame, Counter[str]]:
    frames, misread = [schema.conform(pd.DataFrame())], Counter[str]()
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        chunk = texts.slice(start, _ROWS_AT_ONCE).combine_chunks()
        frame = _all_as_they_should_be(chunk, schema)
        if frame is None:
            raw = pd.DataFrame([_object(text) for text in chunk.to_pylist()], dtype=object)
            frame = schema.conform(raw)
            misread.update({name: int(lost(raw[name], frame[name]).sum()) for name in schema.names if name in raw})
        frames.append(frame)
    return pd.concat(frames[1:] or frames, ignore_index=True), misread


def _all_as_they_should_be(texts: pa.Array, schema: FeatureSchema) -> pd.DataFrame | None:
    """Read all rows at once, as lines of JSON; None when a value is not of its feature's kind."""
    lines = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    buffer = pc.binary_join(lines, "\n")[0].as_buffer()
    kinds = pa.schema([(feature.name, _ARROW[feature.kind]) for feature in schema.features])
    try:
        table = pa_json.read_json(
            pa.BufferReader(buffer),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(buffer) + 1),
            parse_options=pa_json.ParseOptions(explicit_schema=kinds, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(texts):  # a line of no object, or of two
        return None
    columns: dict[str, Any] = {}
    for feature in schema.features:
        column = table[feature.name]
        if feature.kind == "categorical":
            text = column.to_pandas()
            columns[feature.name] = text.where(text.notna() & (text != ""), np.nan)
            continue
        numbers = column.cast(pa.uint8()).cast(pa.float64()) if feature.kind == "boolean" else column
        array = numbers.to_numpy()
        if not np.nanmax(np.abs(array), initial=0.0) <= LARGEST:
            return None
        columns[feature.name] = array
    return pd.DataFrame(columns)


def _object(text: str) -> dict[str, Any]:
    """Read a JSON object; what is none holds no feature."""
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
