"""Writes the tiny models of this folder. Needs numpy, onnx, scikit-learn and skl2onnx; see README.md."""

import json
import pathlib

import numpy as np
from onnx import TensorProto, checker, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

FOLDER = pathlib.Path(__file__).parent
INPUT = [("X", FloatTensorType([None, 3]))]
THRESHOLDS = {"review": 0.5, "block": 0.8}


def save(name, model):
    checker.check_model(model)
    (FOLDER / name).write_bytes(model.SerializeToString())


def outcome(score):
    return "block" if score >= THRESHOLDS["block"] else "review" if score >= THRESHOLDS["review"] else "approve"


def by_hand(name, nodes, constants):
    """A model that scores the first of three inputs with `nodes`."""
    first = helper.make_node("Slice", ["X", "start", "end", "axis"], ["first"])
    integers = {"start": 0, "end": 1, "axis": 1, "rows": 0}
    tensors = [helper.make_tensor(key, TensorProto.INT64, [1], [value]) for key, value in integers.items()]
    tensors += [helper.make_tensor(key, TensorProto.FLOAT, [1], [value]) for key, value in constants.items()]
    graph = helper.make_graph(
        [first, *nodes],
        name,
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        tensors,
    )
    save(name, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def main():
    generator = np.random.default_rng(7)
    rows = generator.uniform(0, 100, (2000, 3)).astype(np.float32)
    labels = ((rows[:, 0] > 60) & (rows[:, 1] > 30) | (rows[:, 2] > 90)).astype(int)
    forest = RandomForestClassifier(n_estimators=8, max_depth=4, random_state=3).fit(rows, labels)
    save("forest.onnx", to_onnx(forest, initial_types=INPUT, options={"zipmap": False}, target_opset=18))
    linear = LogisticRegression().fit(rows / 100, labels)
    save("zipmap.onnx", to_onnx(linear, initial_types=INPUT, target_opset=18))
    by_hand(
        "nan.onnx",  # the square root of a negative number where the first value is over 50
        [
            helper.make_node("Sub", ["fifty", "first"], ["rest"]),
            helper.make_node("Sqrt", ["rest"], ["root"]),
            helper.make_node("Sigmoid", ["root"], ["score"]),
        ],
        {"fifty": 50.0},
    )
    by_hand(
        "company.onnx",  # the score depends on the other rows of the batch
        [
            helper.make_node("ReduceMean", ["first", "rows"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["first", "mean"], ["rest"]),
            helper.make_node("Mul", ["rest", "small"], ["shrunk"]),
            helper.make_node("Sigmoid", ["shrunk"], ["score"]),
        ],
        {"small": 0.01},
    )
    vectors = [[round(float(value), 2) for value in row] for row in generator.uniform(0, 100, (60, 3))]
    for row in range(0, 60, 9):
        vectors[row][row % 3] = None
    filled = np.array([[0.0 if value is None else value for value in row] for row in vectors], dtype=np.float32)
    scores = [float(score) for score in forest.predict_proba(filled)[:, 1]]
    keep = [row for row in range(60) if all(abs(scores[row] - limit) > 1e-3 for limit in THRESHOLDS.values())][:40]
    golden = {
        "vectors": [vectors[row] for row in keep],
        "scores": [scores[row] for row in keep],
        "outcomes": [outcome(scores[row]) for row in keep],
    }
    (FOLDER / "golden.json").write_text(json.dumps(golden, indent=None) + "\n")


main()
