"""ONNX graphs: of trees, made here in 64 bits; of other estimators, made by skl2onnx."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from crossfade.compiled.tabulate import NotConvertible
from crossfade.compiled.trees import Forest

_SUM, _NO_TRANSFORM, _AT_MOST = 1, 0, 0
"""Codes of TreeEnsemble's attributes: `aggregate_function`, `post_transform`, `nodes_modes`."""

_OPSET, _ML_OPSET, _IR = 18, 5, 10
"""Opset 5 of ai.onnx.ml brought trees whose input, thresholds and output are all of 64 bits."""


def forest_graph(forest: Forest, width: int) -> bytes:
    """Make the graph of an ensemble's trees: X, shape (n, width), to Y.

    The operator's leaf adds one number to one score. Where that is all that each leaf does, Y holds the sums, of shape
    (n, scores). Else Y holds the numbers of the leaves that the row falls into, of shape (n, trees).
    """
    if adds_one_number(forest):
        targets = np.abs(forest.leaves).argmax(axis=1)
        weights, width_out = forest.leaves[np.arange(len(targets)), targets], forest.leaves.shape[1]
    else:
        targets, weights = np.array(_tree_of_leaf(forest)), np.arange(len(forest.leaves), dtype=np.float64)
        width_out = len(forest.roots)
    trees = helper.make_node(
        "TreeEnsemble",
        ["X"],
        ["Y"],
        domain="ai.onnx.ml",
        n_targets=width_out,
        aggregate_function=_SUM,
        post_transform=_NO_TRANSFORM,
        tree_roots=forest.roots.tolist(),
        nodes_modes=helper.make_tensor(
            "modes", TensorProto.UINT8, [len(forest.feature)], [_AT_MOST] * len(forest.feature)
        ),
        nodes_featureids=forest.feature.tolist(),
        nodes_splits=_doubles("splits", forest.threshold),
        nodes_trueleafs=(forest.below < 0).astype(int).tolist(),
        nodes_truenodeids=np.where(forest.below < 0, ~forest.below, forest.below).tolist(),
        nodes_falseleafs=(forest.above < 0).astype(int).tolist(),
        nodes_falsenodeids=np.where(forest.above < 0, ~forest.above, forest.above).tolist(),
        leaf_targetids=targets.tolist(),
        leaf_weights=_doubles("leaves", weights),
    )
    x = helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, width])
    y = helper.make_tensor_value_info("Y", TensorProto.DOUBLE, [None, width_out])
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(helper.make_graph([trees], "forest", [x], [y]), opset_imports=opsets, ir_version=_IR)
    graph: bytes = model.SerializeToString()
    return graph


def adds_one_number(forest: Forest) -> bool:
    """Tell whether every leaf adds to one score at most, as in boosting, or where the leaves hold one class each."""
    return bool((np.count_nonzero(forest.leaves, axis=1) <= 1).all())


def _doubles(name: str, numbers: Any) -> Any:
    return helper.make_tensor(name, TensorProto.DOUBLE, [len(numbers)], numbers.tolist())


def _tree_of_leaf(forest: Forest) -> list[int]:
    trees = [0] * len(forest.leaves)
    for tree, root in enumerate(forest.roots.tolist()):
        open_places = [root]
        while open_places:
            place = open_places.pop()
            for child in (int(forest.below[place]), int(forest.above[place])):
                if child < 0:
                    trees[~child] = tree
                else:
                    open_places.append(child)
    return trees


def estimator_graph(estimator: Any, width: int) -> bytes:
    """Convert an estimator, in 64 bits: X, shape (n, width), to labels and probabilities.

    Raises
    ------
    NotConvertible
        skl2onnx knows no graph for it, or it has no probabilities.
    """
    from skl2onnx import to_onnx  # type: ignore[import-untyped]  # ships no types
    from skl2onnx.common.data_types import DoubleTensorType  # type: ignore[import-untyped]

    if not hasattr(estimator, "predict_proba"):
        raise NotConvertible(f"{type(estimator).__name__} has no probabilities, and is no linear model")
    if not np.issubdtype(np.asarray(estimator.classes_).dtype, np.integer):
        raise NotConvertible("its own labels are text")
    try:
        model = to_onnx(
            estimator,
            initial_types=[("X", DoubleTensorType([None, width]))],
            options={id(estimator): {"zipmap": False}},
        )
    except Exception as error:  # skl2onnx raises whatever its converters do
        raise NotConvertible(f"skl2onnx: {str(error).splitlines()[0][:200]}") from error
    graph: bytes = model.SerializeToString()
    return graph
