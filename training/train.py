"""Trains the example model on features that `interdict backfill` wrote, and writes its bundle.

After the Fraud Detection Handbook: the days are split into training, a delay in which labels are still unknown,
validation (the thresholds are chosen there) and test; measured are AUC, average precision and card precision at 100.

The bundle is written only if ONNX Runtime gives what LightGBM gives: at most 1e-5 apart on 10,000 rows.
"""

import argparse
import json
import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path

import lightgbm
import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from onnxmltools.convert import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.metrics import average_precision_score, roc_auc_score

WINDOWS = ["1d", "7d", "30d"]
# Model input and what the model is given when the value is null.
INPUTS = (
    [("amount", 0.0), ("is_weekend", 0.0), ("is_night", 0.0), ("amount_vs_avg", 1.0)]
    + [(f"customer_spend.tx_count_{window}", 0.0) for window in WINDOWS]
    + [(f"customer_spend.amount_avg_{window}", 0.0) for window in WINDOWS]
    + [(f"terminal_risk.tx_count_{window}", 0.0) for window in WINDOWS]
    + [(f"terminal_risk.fraud_ratio_{window}", 0.0) for window in WINDOWS]
)
GROUPS = ["customer_spend", "terminal_risk"]
DERIVED = ["is_weekend", "is_night", "amount_vs_avg"]
# The widest window and the terminal's delay: before that, features are not yet what they will be.
WARM_UP_DAYS = 37
DELAY_DAYS = 7
VALIDATION_DAYS = 7
TEST_DAYS = 7
REFERENCE_ROWS = 10_000
PARITY_ROWS = 10_000
PARITY = 1e-5
GOLDEN_ROWS = 120
BUNDLE_BYTES_MAX = 1_500_000
BLOCK_PRECISION = 0.95
REVIEW_SHARE = 0.02


def column(name: str) -> str:
    return name.replace(".", "__")


def read(path: Path, history: Path | None) -> tuple[pd.DataFrame, dict[str, dict[str, str]]]:
    """The feature table, ordered by time and position, and the hash of each group's and derived feature's definition.

    Columns of the event that the table does not repeat are taken from the history it was computed from.
    """
    file = pq.ParquetFile(path)
    metadata = file.schema_arrow.metadata or {}
    hashes: dict[str, dict[str, str]] = {"group": {}, "derived": {}}
    for kind, name in [("group", group) for group in GROUPS] + [("derived", feature) for feature in DERIVED]:
        found = metadata.get(f"interdict.{kind}.{name}".encode())
        if found is None:
            sys.exit(f"{path} does not say which definition of '{name}' it holds; write it with `interdict backfill`")
        hashes[kind][name] = found.decode()
    table = file.read().to_pandas()
    absent = [name for name in ["amount", *needed()] if name not in table.columns]
    if absent and history is not None:
        events = pq.read_table(history, columns=["transaction_id", *absent]).to_pandas()
        table = table.merge(events, on="transaction_id", how="left", validate="one_to_one")
    missing = [name for name in [column(name) for name, _ in INPUTS] + needed() if name not in table.columns]
    if missing:
        sys.exit(f"{path} lacks the columns {', '.join(missing)}")
    table["amount"] = table["amount"].astype(float)
    time = pd.to_datetime(table["tx_datetime"], utc=True)
    table["day"] = (time - time.min().normalize()).dt.days
    return table.sort_values(["tx_datetime", "_position"], kind="stable").reset_index(drop=True), hashes


def needed() -> list[str]:
    return ["transaction_id", "tx_datetime", "customer_id", "is_fraud", "_position"]


def values(table: pd.DataFrame) -> np.ndarray:
    """One row per event in the model's order as doubles, NaN where the value is null."""
    columns = [pd.to_numeric(table[column(name)]).astype("float64") for name, _ in INPUTS]
    return np.column_stack([series.to_numpy(dtype=np.float64, na_value=np.nan) for series in columns])


def model_input(vectors: np.ndarray) -> np.ndarray:
    """What the engine gives the model: nulls replaced, then the nearest float32."""
    missing = np.array([value for _, value in INPUTS])
    return np.where(np.isnan(vectors), missing, vectors).astype(np.float32)


def split(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    last = int(table["day"].max()) + 1
    test = last - TEST_DAYS
    validation = test - VALIDATION_DAYS
    delay = validation - DELAY_DAYS
    if delay - WARM_UP_DAYS < 7:
        sys.exit(f"{last} days are too few: {WARM_UP_DAYS + DELAY_DAYS + VALIDATION_DAYS + TEST_DAYS + 7} are needed")
    days = table["day"]
    return {
        "training": table[(days >= WARM_UP_DAYS) & (days < delay)],
        "delay": table[(days >= delay) & (days < validation)],
        "validation": table[(days >= validation) & (days < test)],
        "test": table[days >= test],
    }


def card_precision(table: pd.DataFrame, scores: np.ndarray, known: set, top: int = 100) -> float:
    """Mean over days of the share of truly compromised cards among the `top` suspected; known ones are left out.

    A card found on one day is known on the next, as in the handbook.
    """
    known = set(known)
    precisions = []
    ranked = table.assign(score=scores)
    for _, today in ranked.groupby("day"):
        cards = today[~today["customer_id"].isin(known)].groupby("customer_id").agg(
            score=("score", "max"), is_fraud=("is_fraud", "max")
        )
        suspected = cards.sort_values("score", ascending=False, kind="stable").head(top)
        found = set(suspected.index[suspected["is_fraud"]])
        precisions.append(len(found) / top)
        known |= found
    return float(np.mean(precisions))


def train(inputs: np.ndarray, labels: np.ndarray) -> lightgbm.Booster:
    parameters = {
        "objective": "binary",
        "num_leaves": 12,
        "max_depth": 5,
        "learning_rate": 0.05,
        "min_data_in_leaf": 100,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        # Nulls are replaced by numbers before the model sees them.
        "use_missing": False,
        "seed": 1,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(inputs.astype(np.float64), labels.astype(int), free_raw_data=False)
    return with_float_thresholds(lightgbm.train(parameters, data, num_boost_round=200))


def with_float_thresholds(booster: lightgbm.Booster) -> lightgbm.Booster:
    """Lowers every threshold to the next float32: `x <= t` stays the same for every float32 x, and ONNX, which holds
    float32 thresholds, splits exactly as LightGBM does."""
    lines = []
    for line in booster.model_to_string().split("\n"):
        if line.startswith("threshold="):
            thresholds = np.array([float(text) for text in line.removeprefix("threshold=").split()])
            lowered = thresholds.astype(np.float32)
            lowered = np.where(lowered > thresholds, np.nextafter(lowered, np.float32(-np.inf)), lowered)
            line = "threshold=" + " ".join(repr(float(value)) for value in lowered)
        # Sizes of the text of each tree: it changed.
        if not line.startswith("tree_sizes="):
            lines.append(line)
    return lightgbm.Booster(model_str="\n".join(lines))


def export(booster: lightgbm.Booster) -> bytes:
    initial = [("input", FloatTensorType([None, len(INPUTS)]))]
    # Without a name the converter makes one up, and the same training would give another file.
    model = convert_lightgbm(booster, name="handbook", initial_types=initial, zipmap=False, target_opset=15)
    # The converter takes these from a set, in any order.
    imports = sorted(model.opset_import, key=lambda operators: operators.domain)
    del model.opset_import[:]
    model.opset_import.extend(imports)
    return model.SerializeToString()


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_scores(model: onnxruntime.InferenceSession, inputs: np.ndarray, batch: int | None = None) -> np.ndarray:
    step = batch or max(len(inputs), 1)
    parts = [
        model.run(["probabilities"], {model.get_inputs()[0].name: inputs[at : at + step]})[0][:, 1]
        for at in range(0, len(inputs), step)
    ]
    return np.concatenate(parts)


def check_parity(booster: lightgbm.Booster, model: onnxruntime.InferenceSession, inputs: np.ndarray) -> float:
    expected = booster.predict(inputs.astype(np.float64))
    worst = float(np.abs(expected - onnx_scores(model, inputs)).max())
    if not worst <= PARITY:
        sys.exit(f"ONNX Runtime and LightGBM differ by {worst:.3g} on {len(inputs)} rows; nothing was written")
    return worst


def choose_thresholds(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Block: the lowest score from which on enough are frauds. Review: the share people can look at."""
    order = np.argsort(-scores, kind="stable")
    precision = np.cumsum(labels[order]) / np.arange(1, len(order) + 1)
    sure = np.nonzero(precision >= BLOCK_PRECISION)[0]
    block = float(scores[order[sure[-1]]]) if len(sure) else 1.0
    review = float(np.quantile(scores, 1.0 - REVIEW_SHARE))
    block = round(min(max(block, 0.5), 0.99), 3)
    return round(min(review, block), 3), block


def outcome(score: float, review: float, block: float) -> str:
    return "block" if score >= block else "review" if score >= review else "approve"


def choose_golden(scores: np.ndarray, labels: np.ndarray, thresholds: tuple[float, float]) -> np.ndarray:
    """Rows of every outcome, frauds among them, none so near a threshold that rounding could flip it."""
    clear = np.ones(len(scores), dtype=bool)
    for threshold in thresholds:
        clear &= np.abs(scores - threshold) > 10 * PARITY
    random = np.random.default_rng(1)
    kinds = [clear & labels, clear & ~labels & (scores >= thresholds[0]), clear & ~labels & (scores < thresholds[0])]
    rows = []
    for kind in kinds:
        candidates = np.nonzero(kind)[0]
        rows.extend(random.choice(candidates, min(GOLDEN_ROWS // 3, len(candidates)), replace=False))
    return np.sort(np.array(rows))


def toml_text(value: str) -> str:
    return json.dumps(value)


def manifest(
    created: str, thresholds: tuple[float, float], hashes: dict[str, dict[str, str]], version: str, facts: dict[str, object]
) -> str:
    lines = [
        "format = 1",
        'name = "handbook"',
        f"version = {toml_text(version)}",
        f"created = {toml_text(created)}",
        'model = "model.onnx"',
        'golden = "golden.json"',
        'reference = "reference.parquet"',
        'output = "probabilities"',
        "",
        "[thresholds]",
        f"review = {thresholds[0]}",
        f"block = {thresholds[1]}",
        "",
        "[groups]",
    ]
    lines += [f"{name} = {toml_text(value)}" for name, value in hashes["group"].items()]
    lines += ["", "[derived]"]
    lines += [f"{name} = {toml_text(value)}" for name, value in hashes["derived"].items()]
    for name, missing in INPUTS:
        lines += ["", "[[input]]", f"name = {toml_text(name)}", f"missing = {missing}"]
    lines += ["", "[training]"]
    lines += [f"{name} = {toml_text(value) if isinstance(value, str) else value}" for name, value in facts.items()]
    return "\n".join(lines) + "\n"


def write_reference(path: Path, vectors: np.ndarray, scores: np.ndarray) -> None:
    columns = {
        column(name): pa.array(vectors[:, index], pa.float64(), from_pandas=True)
        for index, (name, _) in enumerate(INPUTS)
    }
    columns["score"] = pa.array(scores.astype(np.float64), pa.float64())
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19)


def measure(name: str, table: pd.DataFrame, scores: np.ndarray, known: set) -> dict[str, float]:
    labels = table["is_fraud"].to_numpy(bool)
    measured = {
        "auc": round(float(roc_auc_score(labels, scores)), 4),
        "average_precision": round(float(average_precision_score(labels, scores)), 4),
        "card_precision_100": round(card_precision(table, scores, known), 4),
    }
    figures = ", ".join(f"{name} {value}" for name, value in measured.items())
    print(f"{name}: {len(table)} rows, {int(labels.sum())} frauds, {figures}")
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True, help="Parquet written by `interdict backfill`")
    parser.add_argument("--history", type=Path, help="what they were computed from")
    parser.add_argument("--bundle", type=Path, required=True, help="folder to write")
    parser.add_argument("--version", default="1")
    parser.add_argument("--auc-min", type=float, default=0.85, help="refuse a worse model")
    options = parser.parse_args()

    table, hashes = read(options.features, options.history)
    table["is_fraud"] = table["is_fraud"].fillna(False).astype(bool)
    parts = split(table)
    training, test, validation = parts["training"], parts["test"], parts["validation"]
    booster = train(model_input(values(training)), training["is_fraud"].to_numpy())
    model = export(booster)
    runtime = session(model)

    sample = table[table["day"] >= WARM_UP_DAYS].sample(PARITY_ROWS, random_state=1, replace=False)
    worst = check_parity(booster, runtime, model_input(values(sample)))
    print(f"LightGBM and ONNX Runtime: at most {worst:.2g} apart on {len(sample)} rows")

    known = set(training.loc[training["is_fraud"], "customer_id"]) if len(training) else set()
    scored = {name: onnx_scores(runtime, model_input(values(part))) for name, part in parts.items()}
    measure("training", training, scored["training"], set())
    measure("validation", validation, scored["validation"], known)
    measured = measure("test", test, scored["test"], known)
    if measured["auc"] < options.auc_min:
        sys.exit(f"AUC {measured['auc']} on the test days is below {options.auc_min}; nothing was written")
    thresholds = choose_thresholds(scored["validation"], validation["is_fraud"].to_numpy())
    labels = test["is_fraud"].to_numpy()
    for name, threshold in zip(["review", "block"], thresholds):
        hit = scored["test"] >= threshold
        precision = labels[hit].mean() if hit.any() else 0.0
        recall = labels[hit].sum() / labels.sum()
        print(f"{name} from {threshold}: {hit.sum()} test rows, precision {precision:.3f}, recall {recall:.3f}")

    # The engine compares with the score at its own batch size; what counts is that ours is one of them.
    vectors = values(test)
    golden = choose_golden(scored["test"], labels, thresholds)
    golden_scores = onnx_scores(runtime, model_input(vectors[golden]), batch=1)
    for batch in (7, 128):
        equal = np.array_equal(golden_scores, onnx_scores(runtime, model_input(vectors[golden]), batch=batch))
        print(f"golden vectors in batches of {batch}: {'bit-equal' if equal else 'not bit-equal'}")

    folder = options.bundle.with_name(options.bundle.name + ".tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    # A value read back from JSON must be the very double: repr of a Python float is.
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in vectors[golden]]
    outcomes = [outcome(float(score), *thresholds) for score in golden_scores]
    document = {"vectors": rows, "scores": [float(score) for score in golden_scores], "outcomes": outcomes}
    (folder / "golden.json").write_text(json.dumps(document, allow_nan=False) + "\n")
    # What the model was validated on is what its life is compared with.
    recent = pd.concat([validation, test])
    reference = recent.sample(min(REFERENCE_ROWS, len(recent)), random_state=1)
    reference_vectors = values(reference)
    reference_scores = onnx_scores(runtime, model_input(reference_vectors))
    write_reference(folder / "reference.parquet", reference_vectors, reference_scores)
    facts = {
        "library": f"lightgbm {lightgbm.__version__}",
        "rows": len(training),
        "frauds": int(training["is_fraud"].sum()),
        "first": str(training["tx_datetime"].min()),
        "last": str(training["tx_datetime"].max()),
        "test_rows": len(test),
        "test_frauds": int(labels.sum()),
        **{f"test_{name}": value for name, value in measured.items()},
    }
    created = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    (folder / "bundle.toml").write_text(manifest(created, thresholds, hashes, options.version, facts))
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > BUNDLE_BYTES_MAX:
        sys.exit(f"the bundle has {size} bytes, more than {BUNDLE_BYTES_MAX}; it stays in {folder}")
    shutil.rmtree(options.bundle, ignore_errors=True)
    folder.rename(options.bundle)
    print(f"{options.bundle}: {size} bytes, {len(golden)} golden vectors, {len(reference)} reference rows")


if __name__ == "__main__":
    main()
