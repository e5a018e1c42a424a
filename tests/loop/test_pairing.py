"""Paired scoring on real models in a real MLflow database: right counts, and no row asked twice."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from crossfade.featurestore import FeatureStore
from crossfade.loop import pairing
from crossfade.loop.evaluate import Experiment
from crossfade.loop.installation import Installation
from crossfade.loop.pairing import Pairs, score_pairs
from crossfade.model import SklearnModel
from crossfade.registry import Registry
from crossfade.requestlog import CsvRequestLog, LateLabel, LogRow, utc_now
from crossfade.schema import Feature, FeatureSchema, label_text
from crossfade.settings import Settings, load_settings
from crossfade.signature import signature_of

SCHEMA = FeatureSchema((Feature("size", nullable=True), Feature("colour", "categorical"), Feature("weight")))
COLOURS = ("red", "blue", "green")
LINEAR, TREE, NARROW, DOOMED, FILELESS = "1", "2", "3", "4", "5"
"""Versions: NARROW raises on a colour that it never saw, those after it are taken away by a test."""


def _draw(seed: int, rows: int = 300) -> tuple[pd.DataFrame, list[int]]:
    """Draw features as `conform` makes them, and noisy labels in 0 to 2."""
    random = np.random.default_rng(seed)
    size, weight = random.normal(size=rows), random.normal(size=rows)
    colour = random.choice(COLOURS, rows).astype(object)
    truth = (size + weight > 0).astype(int) + (colour == "red")
    labels = np.where(random.random(rows) < 0.2, random.integers(0, 3, rows), truth)
    frame = pd.DataFrame({"size": np.where(random.random(rows) < 0.1, np.nan, size), "colour": colour})
    return frame.assign(weight=weight), labels.tolist()


def _register(registry: Registry, estimator: Any, unknown: str = "ignore", rows: int = 200) -> None:
    """Fit a pipeline and register it as the next version."""
    encode = OneHotEncoder(handle_unknown=unknown, sparse_output=False)
    columns = make_column_transformer((encode, ["colour"]), remainder="passthrough")
    features, labels = _draw(rows, rows)
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(
            make_pipeline(columns, SimpleImputer(), estimator).fit(features, labels),
            name="model",
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
            signature=signature_of(SCHEMA, text_labels=False),
            metadata={"classes": [0, 1, 2]},
        )
    registry.register(run.info.run_id, info.model_uri, {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Settings, Registry]:
    """A registry with all the versions; tests that take one away have their own."""
    home = tmp_path_factory.mktemp("pairs")
    shutil.copy(empty_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as environment:
        for name in Settings.model_fields:
            environment.delenv(name.upper(), raising=False)
        settings = load_settings(crossfade_home=home, mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db")
    registry = Registry(settings.mlflow_tracking_uri, settings.reg_model_name)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("pairs", f"file://{home}/mlruns"))
    _register(registry, LogisticRegression())
    _register(registry, DecisionTreeClassifier(max_depth=2, random_state=0), rows=300)
    _register(registry, LogisticRegression(C=0.01), unknown="error")
    for _ in (DOOMED, FILELESS):
        _register(registry, LogisticRegression(), rows=50)
    return settings, registry


@dataclass(frozen=True)
class Trial:
    """An experiment with a log and a cache of its own."""

    here: Installation
    experiment: Experiment

    def look(self, one_per_user: bool = False) -> Pairs | None:
        return score_pairs(self.here, self.experiment, one_per_user)

    @property
    def folder(self) -> Path:
        return self.here.settings.report_dir / "scores" / self.experiment.id

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    @cached_property
    def models(self) -> dict[str, SklearnModel]:
        numbers = {"A": self.experiment.version_a, "B": self.experiment.version_b}
        registry = self.here.registry
        return {variant: registry.load(registry.get(number)).model for variant, number in numbers.items()}

    def serve(self, numbers: range, labeled: bool = True, **changes: Any) -> list[LogRow]:
        """Log answers to rows of these numbers, every third one B's."""
        frame, labels = _draw(seed=7)
        sent = SCHEMA.rows_of(frame)
        said = {variant: _said(model, frame) for variant, model in self.models.items()}
        rows = []
        for number in numbers:
            variant = "A" if number % 3 else "B"
            values: dict[str, Any] = {
                "ts_utc": utc_now(),
                "request_id": f"r{number}",
                "user_id": f"u{number // 4}",
                "experiment_id": self.experiment.id,
                "variant": variant,
                "alias": "",
                "model": "m",
                "model_version": self.experiment.version_a if variant == "A" else self.experiment.version_b,
                "ab_split_b": 0.5,
                "features_json": json.dumps(dict(zip(SCHEMA.names, sent[number], strict=True))),
                "label": str(labels[number]) if labeled else "",
                "prediction": said[variant][number],
                "probability": None,
                "latency_ms": 1.0,
                "status": 200,
            }
            rows.append(LogRow(**{**values, **changes}))
        self.here.log.append(rows)
        return rows

    def expected(self, numbers: Sequence[int], labels: dict[int, str] | None = None) -> Pairs:
        """Ask both models everything."""
        frame, truth = _draw(seed=7)
        right = {
            variant: [answer == (labels or {}).get(i, str(truth[i])) for i, answer in enumerate(_said(model, frame))]
            for variant, model in self.models.items()
        }
        a, b = (np.array([right[variant][number] for number in numbers]) for variant in ("A", "B"))
        return Pairs(len(numbers), int((a & ~b).sum()), int((b & ~a).sum()))


def _said(model: SklearnModel, frame: pd.DataFrame) -> list[str]:
    return [label_text(label) for label in model.pipeline.predict(frame).tolist()]


def _late(request_id: str, label: str) -> LateLabel:
    return LateLabel(utc_now(), request_id, label)


TrialFactory = Callable[..., Trial]


@pytest.fixture
def start(trained: tuple[Settings, Registry], tmp_path: Path) -> TrialFactory:
    """Start an experiment of two versions on an empty log."""

    def make(a: str = LINEAR, b: str = TREE) -> Trial:
        settings, registry = trained
        settings = settings.model_copy(update={"report_dir": tmp_path})
        log = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")
        here = Installation(settings, registry, log, FeatureStore(settings.feature_store))
        return Trial(here, Experiment(f"m-v{a}-v{b}", a, b))

    return make


@pytest.fixture
def trial(start: TrialFactory) -> Trial:
    """The experiment of the linear model against the tree."""
    return start()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of a model in a look was about."""
    calls: list[int] = []
    ask = SklearnModel.predict_frame

    def counted(model: SklearnModel, frame: pd.DataFrame) -> Any:
        calls.append(len(frame))
        return ask(model, frame)

    monkeypatch.setattr(SklearnModel, "predict_frame", counted)
    return calls


class TestCounts:
    """Who was right on what."""

    def test_they_are_those_of_asking_both_models_everything(self, trial: Trial) -> None:
        """Each row is answered by its own arm in the log and by the other version offline; labels are compared."""
        trial.serve(range(300))
        found = trial.look()
        assert found == trial.expected(range(300))
        assert found.only_a > 5
        assert found.only_b > 5

    def test_batches_make_no_difference(self, trial: Trial, monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> None:
        """Rows are scored a batch at a time, and each gets its own answer."""
        monkeypatch.setattr(pairing, "_BATCH_ROWS", 64)
        trial.serve(range(300))
        assert trial.look() == trial.expected(range(300))
        assert sorted(asked) == [8, 36, 64, 64, 64, 64]

    def test_only_labelled_rows_of_the_experiment_count(self, trial: Trial) -> None:
        """Rows without a label, failed ones and those of another experiment are none of it."""
        trial.serve(range(40))
        trial.serve(range(40, 60), labeled=False)
        trial.serve(range(60, 80), experiment_id="another")
        trial.serve(range(80, 100), status=500, prediction="")
        assert trial.look() == trial.expected(range(40))

    def test_rows_of_another_version_are_skipped(self, trial: Trial) -> None:
        """A row that its arm's version did not answer tells nothing of the two versions, and is counted as skipped."""
        trial.serve(range(40))
        trial.serve(range(40, 43), model_version="9")
        trial.serve(range(43, 45), variant="C")
        trial.serve(range(45, 46), prediction="")
        assert trial.look() == replace(trial.expected(range(40)), skipped=6)

    def test_without_labels_there_are_no_pairs(self, trial: Trial) -> None:
        """An experiment without labelled rows has no pairs, and nothing is written."""
        assert trial.look() == Pairs(0, 0, 0)
        trial.serve(range(10), labeled=False)
        assert trial.look() == Pairs(0, 0, 0)
        assert trial.files == []

    @pytest.mark.parametrize("one_per_user", [False, True])
    def test_one_row_per_user(self, trial: Trial, one_per_user: bool, asked: list[int]) -> None:
        """With one outcome per user only the first labelled row of each counts, and only it is scored."""
        trial.serve(range(200))
        trial.here.log.append_labels([_late("r9", "1")])
        counted = range(0, 200, 4) if one_per_user else range(200)
        found = trial.look(one_per_user)
        assert sum(asked) == len(counted)
        assert found == trial.expected(counted, {9: "1"})

    def test_a_user_first_labelled_row_may_change(self, trial: Trial) -> None:
        """A late label on an earlier row of a user makes that the first one; rows without user stand by themselves."""
        trial.serve(range(2), labeled=False)
        trial.serve(range(2, 8))
        trial.serve(range(8, 12), user_id="")
        assert trial.look(one_per_user=True) == trial.expected([2, 4, 8, 9, 10, 11])
        trial.here.log.append_labels([_late("r1", "2")])
        assert trial.look(one_per_user=True) == trial.expected([1, 4, 8, 9, 10, 11], {1: "2"})


class TestCost:
    """What was scored is not scored again."""

    def test_a_second_look_scores_nothing(
        self, trial: Trial, asked: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without new labels no model is loaded, no feature read and no file written."""
        trial.serve(range(90))
        first = trial.look()
        assert (sum(asked), trial.files) == (90, ["00001.parquet"])
        monkeypatch.setattr(Registry, "load", None)
        monkeypatch.setattr(pairing, "_ask", None)
        assert trial.look() == first
        assert (sum(asked), trial.files) == (90, ["00001.parquet"])

    def test_new_rows_cost_only_themselves(self, trial: Trial, asked: list[int]) -> None:
        """A look scores the rows, and the late labels, that came since the last one."""
        trial.serve(range(90))
        trial.serve(range(90, 100), labeled=False)
        trial.look()
        trial.serve(range(100, 120))
        trial.here.log.append_labels([_late("r95", "2")])
        asked.clear()
        found = trial.look()
        assert (sum(asked), trial.files) == (21, ["00001.parquet", "00002.parquet"])
        assert found == trial.expected([*range(90), 95, *range(100, 120)], {95: "2"})

    def test_corrected_labels_cost_nothing(self, trial: Trial, asked: list[int]) -> None:
        """The last label of a row wins at every look, and no model is asked again."""
        trial.serve(range(90))
        first = trial.look()
        corrected = {number: str(number % 3) for number in range(60)}
        trial.here.log.append_labels([_late(f"r{number}", label) for number, label in corrected.items()])
        second = trial.look()
        assert (sum(asked), trial.files) == (90, ["00001.parquet"])
        assert second == trial.expected(range(90), corrected)
        assert second != first

    def test_a_request_sent_again_is_scored_again(self, trial: Trial, asked: list[int]) -> None:
        """An id that comes back with other features is answered by what it says now."""
        first = trial.serve(range(30))
        trial.look()
        second = trial.serve(range(30, 31), request_id="r0")
        assert first[0].features_json != second[0].features_json
        asked.clear()
        found = trial.look()
        assert sum(asked) == 1
        assert found == trial.expected(range(1, 31))

    def test_another_model_of_the_same_number_is_asked_anew(
        self, trial: Trial, asked: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Answers that a version of another run gave, before the registry was made anew, are no answers of this one."""
        trial.serve(range(30))
        first = trial.look()
        versions = [replace(version, run_id=f"new {version.run_id}") for version in trial.here.registry.versions()]
        monkeypatch.setattr(Registry, "versions", lambda self: versions)
        asked.clear()
        assert trial.look() == first
        assert sum(asked) == 30


class TestKeptFiles:
    """The files of scores among crashes and other looks."""

    @pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "other columns"])
    def test_a_broken_file_is_scored_again(
        self, trial: Trial, damage: str, asked: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file that cannot be read is deleted with a warning, and its rows are scored again, no others."""
        trial.serve(range(30))
        trial.look()
        trial.serve(range(30, 50))
        trial.look()
        path = trial.folder / "00001.parquet"
        if damage == "other columns":
            pd.DataFrame({"request_id": ["r1"], "prediction": ["1"]}).to_parquet(path)
        else:
            whole = path.read_bytes()
            path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "garbage": b"?" * len(whole)}[damage])
        asked.clear()
        found = trial.look()
        assert sum(asked) == 30
        assert found == trial.expected(range(50))
        assert "00001.parquet cannot be read" in caplog.text
        caplog.clear()
        assert trial.look() == found
        assert sum(asked) == 30
        assert caplog.text == ""

    def test_a_draft_left_by_a_killed_look_is_no_file(self, trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
        """What a look was writing when it was killed is not read."""
        trial.serve(range(30))
        trial.folder.mkdir(parents=True)
        (trial.folder / ".0123456789abcdef").write_bytes(b"PAR1")
        assert trial.look() == trial.expected(range(30))
        assert "cannot be read" not in caplog.text

    def test_two_looks_at_once(self, trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
        """Looks that score the same rows at the same time both count right, and leave the next one nothing to do."""
        trial.serve(range(90))
        expected = trial.expected(range(90))
        together, keep = threading.Barrier(4, timeout=60), pairing._keep

        def keep_together(folder: Path, scores: pd.DataFrame) -> None:
            together.wait()
            keep(folder, scores)

        monkeypatch.setattr(pairing, "_keep", keep_together)
        with ThreadPoolExecutor(4) as pool:
            looks = [pool.submit(trial.look) for _ in range(4)]
            assert [look.result() for look in looks] == [expected] * 4
        assert trial.files == [f"{number:05d}.parquet" for number in range(1, 5)]
        monkeypatch.setattr(pairing, "_ask", None)
        assert trial.look() == expected

    def test_a_look_killed_before_it_kept_anything_is_repeated(
        self, trial: Trial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look that dies while its file is put in place leaves nothing half-done, not even a draft."""
        trial.serve(range(30))

        def die(*paths: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as dying:
            dying.setattr("crossfade.loop.pairing.os.link", die)
            with pytest.raises(KeyboardInterrupt):
                trial.look()
        assert trial.files == []
        assert trial.look() == trial.expected(range(30))


class TestUnanswered:
    """Rows, and versions, without an answer."""

    def test_rows_with_other_features_are_skipped(
        self, trial: Trial, asked: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A row that lacks what the version never saw missing is not scored, now or later; a nullable one may lack."""
        trial.serve(range(30))
        trial.serve(range(30, 32), features_json='{"size": 1.0, "weight": 2.0}')
        trial.serve(range(32, 33), features_json='{"size": 1.0, "colour": "red", "weight": "heavy"}')
        trial.serve(range(33, 34), features_json="no object")
        found = trial.look()
        assert sum(asked) == 30
        assert found == replace(trial.expected(range(30)), skipped=4)
        assert "version 2 cannot answer 2 of 22 rows: 2 lack a feature, on 0 it failed" in caplog.text
        asked.clear()
        assert trial.look() == found
        assert asked == []

    def test_a_row_that_a_model_fails_on_costs_no_other(
        self, start: TrialFactory, asked: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where a model raises on some rows of a batch, the others are answered; the bad ones are not tried daily."""
        monkeypatch.setattr(pairing, "_BATCH_ROWS", 50)
        trial = start(LINEAR, NARROW)
        trial.serve(range(120))
        for number in (121, 124):  # A's, so the narrow model is asked
            trial.serve(range(number, number + 1), features_json='{"size": 1, "colour": "mauve", "weight": 1}')
        found = trial.look()
        assert found == replace(trial.expected(range(120)), skipped=2)
        asked.clear()
        assert trial.look() == found
        assert asked == []

    def test_a_model_that_fails_on_everything_is_broken(
        self, start: TrialFactory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When no row at all is answered it is not the rows: there are no pairs, and nothing is kept."""
        trial = start(LINEAR, NARROW)
        trial.serve(range(160), features_json='{"size": 1, "colour": "mauve", "weight": 1}')
        assert trial.look() is None
        assert "version 3 failed on each of 106 rows" in caplog.text
        assert trial.files == []
        monkeypatch.setattr(SklearnModel, "predict_frame", lambda self, frame: [])
        assert trial.look() is None

    def test_a_version_that_is_gone(self, start: TrialFactory, caplog: pytest.LogCaptureFixture) -> None:
        """Without one of the versions there are no pairs, and a warning says which."""
        trial = start(LINEAR, DOOMED)
        trial.serve(range(10))
        registry = trial.here.registry
        MlflowClient(trial.here.settings.mlflow_tracking_uri).delete_model_version(registry.name, DOOMED)
        with caplog.at_level(logging.WARNING):
            assert trial.look() is None
        assert "version 4 is not registered any more" in caplog.text

    def test_a_version_whose_files_are_gone(self, start: TrialFactory, caplog: pytest.LogCaptureFixture) -> None:
        """Its answers of earlier looks still count; with new rows there are no pairs."""
        trial = start(FILELESS, TREE)
        trial.serve(range(10))
        assert trial.look() == (known := trial.expected(range(10)))
        client = MlflowClient(trial.here.settings.mlflow_tracking_uri)
        name = trial.here.registry.name
        source = client.get_model_version_download_uri(name, FILELESS)
        shutil.rmtree(source.removeprefix("file://"))
        assert trial.look() == known
        trial.serve(range(10, 20))
        assert trial.look() is None
        assert "version 5: its files cannot be" in caplog.text
