"""9. Hot swap: the reloader on a real registry."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from app import create_app
from crossfade.data import load_dataset
from crossfade.errors import NoModel, RegistryUnavailable
from crossfade.logreader import read_log
from crossfade.modelcache import ModelCache
from crossfade.registry import Registry, connect
from crossfade.requestlog import CsvRequestLog
from crossfade.serving.catalog import Catalog
from crossfade.serving.reload import Reloader
from crossfade.settings import Settings
from crossfade.version import LoadedModel, Version

Register = Callable[..., Version]
MakeReloader = Callable[..., Reloader]
Eventually = Callable[[Callable[[], bool]], bool]

NAMES = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
NOBODY = "http://127.0.0.1:9"


@dataclass
class Switchable:
    """A registry that can be cut off: every call goes to the one that is set."""

    target: Registry

    @property
    def name(self) -> str:
        return self.target.name

    def at(self, alias: str) -> Version | None:
        return self.target.at(alias)

    def fetch_compiled(self, version: Version, folder: Path) -> Path:
        return self.target.fetch_compiled(version, folder)

    def load_trained(self, version: Version, folder: Path) -> LoadedModel:
        return self.target.load_trained(version, folder)


@pytest.fixture
def dead(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry where nobody answers, which is noticed at the first try."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry(NOBODY, settings.reg_model_name)
    connect(settings.mlflow_tracking_uri)  # MLflow has one address per process; the living registry needs it
    return registry


@pytest.fixture
def reloader(registry: Registry, make_reloader: MakeReloader) -> Reloader:
    """A reloader on the living registry that looks when it is told to."""
    return make_reloader(registry)


def _move(registry: Registry, alias: str, to: Version) -> None:
    found = registry.at(alias)
    registry.move(alias, to.number, expected=found.number if found else None)


def _newest_files(settings: Settings) -> Path:
    """Folder of the files of the version that was registered last."""
    return max(settings.crossfade_home.rglob("MLmodel"), key=lambda path: path.stat().st_mtime_ns).parent


def _never_answers() -> BaseEstimator:
    class NeverAnswers(ClassifierMixin, BaseEstimator):
        """Learns, and then fails on every row."""

        def fit(self, X: pd.DataFrame, y: pd.Series) -> NeverAnswers:  # noqa: N803 - scikit-learn's names
            self.classes_ = np.unique(y)
            return self

        def predict(self, X: pd.DataFrame) -> np.ndarray:  # noqa: N803
            raise RuntimeError("no answer today")

    return NeverAnswers()


def test_an_empty_registry_gives_no_model(reloader: Reloader) -> None:
    """Before any version is registered there is nothing to serve, and the error says what to do."""
    reloader.refresh()
    with pytest.raises(NoModel, match=r"alias prod.*Trigger the DAG drift_retrain_ab_pipeline"):
        _ = reloader.current


def test_before_the_first_look_there_is_no_model(reloader: Reloader, register: Register) -> None:
    """A reloader that has not looked yet serves nothing and says so."""
    register("prod")
    with pytest.raises(NoModel, match="no model to serve yet"):
        _ = reloader.current


def test_staging_alone_gives_no_model(reloader: Reloader, register: Register) -> None:
    """A challenger without a prod version is not served to anybody."""
    register("staging")
    reloader.refresh()
    with pytest.raises(NoModel, match="alias prod"):
        _ = reloader.current


def test_prod_alone_is_served_to_everybody(reloader: Reloader, register: Register) -> None:
    """With prod alone there is no experiment, and nothing is wrong."""
    register("prod")
    reloader.refresh()
    assert (reloader.current.prod.version, reloader.current.experiment_id) == ("1", None)
    assert reloader.last_look.problem is None


def test_prod_and_staging_make_an_experiment(reloader: Reloader, register: Register) -> None:
    """Two versions under the two aliases are the two arms of an experiment."""
    register("prod")
    register("staging")
    reloader.refresh()
    assert reloader.current.experiment_id == "IrisClassifier-v1-v2"


def test_the_same_version_under_both_aliases_is_no_experiment(reloader: Reloader, register: Register) -> None:
    """Prod and staging on one version: no experiment, everybody on A."""
    register("prod", "staging")
    reloader.refresh()
    assert (reloader.current.staging, reloader.current.experiment_id) == (None, None)


def test_a_look_that_succeeds_is_dated(reloader: Reloader, register: Register) -> None:
    """The last look has no date before the first and one after it."""
    register("prod")
    before = reloader.last_look.at
    reloader.refresh()
    assert before == 0 < reloader.last_look.at


def test_a_moved_prod_alias_is_followed(reloader: Reloader, registry: Registry, register: Register) -> None:
    """After a look the version under prod is the one that serves."""
    register("prod")
    reloader.refresh()
    _move(registry, "prod", register())
    reloader.refresh()
    assert reloader.current.prod.version == "2"


def test_a_moved_staging_alias_is_a_new_experiment(reloader: Reloader, registry: Registry, register: Register) -> None:
    """Another version under staging gives another experiment id."""
    register("prod")
    register("staging")
    reloader.refresh()
    _move(registry, "staging", register())
    reloader.refresh()
    assert reloader.current.experiment_id == "IrisClassifier-v1-v3"


def test_a_dropped_staging_alias_ends_the_experiment(
    reloader: Reloader, registry: Registry, register: Register
) -> None:
    """Once staging is gone, everybody is on A."""
    register("prod")
    register("staging")
    reloader.refresh()
    registry.drop("staging", "2")
    reloader.refresh()
    assert reloader.current.experiment_id is None


def test_a_dropped_prod_alias_keeps_serving(reloader: Reloader, registry: Registry, register: Register) -> None:
    """When prod's alias vanishes, what is loaded stays in service and the problem is named."""
    register("prod")
    reloader.refresh()
    registry.drop("prod", "1")
    reloader.refresh()
    assert reloader.current.prod.version == "1"
    assert "alias prod" in (reloader.last_look.problem or "")


def test_a_rollback_is_followed(reloader: Reloader, registry: Registry, register: Register) -> None:
    """Prod moved back to an older version is served by that version again."""
    first = register("prod")
    _move(registry, "prod", register())
    reloader.refresh()
    _move(registry, "prod", first)
    reloader.refresh()
    assert reloader.current.prod.version == "1"


def test_nothing_changed_nothing_loaded(reloader: Reloader, register: Register) -> None:
    """A look that finds the same aliases keeps the very same deployment."""
    register("prod")
    register("staging")
    reloader.refresh()
    before = reloader.current
    reloader.refresh()
    assert reloader.current is before


def test_a_kept_arm_keeps_its_model(reloader: Reloader, registry: Registry, register: Register) -> None:
    """When staging alone moves, prod's model in memory is used on."""
    register("prod")
    register("staging")
    reloader.refresh()
    before = reloader.current.prod.loaded
    _move(registry, "staging", register())
    reloader.refresh()
    assert reloader.current.prod.loaded is before


def test_a_promoted_challenger_keeps_its_model(reloader: Reloader, registry: Registry, register: Register) -> None:
    """A challenger that becomes prod is not loaded again."""
    register("prod")
    challenger = register("staging")
    reloader.refresh()
    before = reloader.current.staging
    _move(registry, "prod", challenger)
    registry.drop("staging", challenger.number)
    reloader.refresh()
    assert before is not None
    assert reloader.current.prod.loaded is before.loaded


def test_a_challenger_with_other_features_is_left_out(reloader: Reloader, register: Register) -> None:
    """A challenger that takes other features gets no traffic, and the problem names both sets."""
    register("prod")
    register("staging", columns=["a", "b", "c", "d"])
    reloader.refresh()
    assert reloader.current.staging is None
    problem = reloader.last_look.problem or ""
    assert "takes a (numeric), b (numeric), c (numeric), d (numeric)" in problem
    assert "petal width (cm)" in problem


def test_a_challenger_with_features_in_another_order_is_served(
    settings: Settings, registry: Registry, register: Register
) -> None:
    """A challenger that lists the same features in another order gets each value under its own name, as prod does."""
    order = list(reversed(NAMES))
    register("prod")
    register("staging", columns=order)
    frame = load_dataset(Settings()).frame
    features, target = frame.drop(columns="target"), frame["target"]
    prod = LogisticRegression(max_iter=500).fit(features, target)
    staging = LogisticRegression(max_iter=500).fit(features.set_axis(order, axis=1), target)
    asked = features.iloc[[0, 25, 60, 75, 110, 149]]
    client = create_app(settings, registry=registry, follow=False).test_client()
    answers = {}
    for variant, split in (("A", 0), ("B", 1)):
        client.post("/config", json={"ab_split_b": split})
        replies = [client.post("/predict", json={"features": row}).json for row in asked.to_dict("records")]
        assert {reply["variant"] for reply in replies} == {variant}
        answers[variant] = [reply["probability"] for reply in replies]
    assert answers["A"] == pytest.approx(prod.predict_proba(asked).max(axis=1))
    assert answers["B"] == pytest.approx(staging.predict_proba(asked[order]).max(axis=1))
    assert answers["B"] != pytest.approx(staging.predict_proba(asked.set_axis(order, axis=1)).max(axis=1))


def _garble(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"no pickle")


def _lose_the_pickle(folder: Path) -> None:
    (folder / "model.pkl").unlink()


def _lose_everything(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _lose(key: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        described = yaml.safe_load((folder / "MLmodel").read_text())
        del described[key]
        (folder / "MLmodel").write_text(yaml.safe_dump(described))

    return edit


BREAKAGES = {
    "garbled pickle": _garble,
    "no pickle": _lose_the_pickle,
    "no files": _lose_everything,
    "no signature": _lose("signature"),
    "no classes": _lose("metadata"),
}


@pytest.mark.parametrize("broken", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_a_broken_new_version_keeps_the_old_one(
    settings: Settings,
    reloader: Reloader,
    registry: Registry,
    register: Register,
    broken: Callable[[Path], None],
) -> None:
    """When the version that prod moved to cannot be loaded, the old one stays in service and the problem names it."""
    register("prod")
    reloader.refresh()
    bad = register()
    broken(_newest_files(settings))
    _move(registry, "prod", bad)
    reloader.refresh()
    assert reloader.current.prod.version == "1"
    assert "version 2" in (reloader.last_look.problem or "")


def test_a_new_version_that_cannot_answer_keeps_the_old_one(
    reloader: Reloader, registry: Registry, register: Register
) -> None:
    """A version that loads but fails on a trial row never gets to a user."""
    register("prod")
    reloader.refresh()
    _move(registry, "prod", register(model=_never_answers()))
    reloader.refresh()
    assert reloader.current.prod.version == "1"
    assert "version 2 fails on a trial row: no answer today" in (reloader.last_look.problem or "")


def test_a_broken_challenger_leaves_prod_alone(settings: Settings, reloader: Reloader, register: Register) -> None:
    """A challenger that cannot be loaded is left out: prod serves everybody, and the problem names the version."""
    register("prod")
    register("staging")
    _garble(_newest_files(settings))
    reloader.refresh()
    assert (reloader.current.prod.version, reloader.current.staging) == ("1", None)
    assert "staging is left out, prod serves everybody: version 2" in (reloader.last_look.problem or "")


def test_a_broken_first_version_gives_no_model(settings: Settings, reloader: Reloader, register: Register) -> None:
    """When the only version cannot be loaded, the error says why there is nothing to serve."""
    register("prod")
    _garble(_newest_files(settings))
    reloader.refresh()
    with pytest.raises(NoModel, match="version 1: its files cannot be loaded"):
        _ = reloader.current


def test_a_good_version_ends_the_problem(
    settings: Settings, reloader: Reloader, registry: Registry, register: Register
) -> None:
    """After a broken version a good one is swapped in, and nothing is wrong any more."""
    register("prod")
    _garble(_newest_files(settings))
    reloader.refresh()
    _move(registry, "prod", register())
    reloader.refresh()
    assert (reloader.current.prod.version, reloader.last_look.problem) == ("2", None)


def test_a_registry_that_does_not_answer_keeps_what_is_loaded(
    registry: Registry, dead: Registry, register: Register, make_reloader: MakeReloader
) -> None:
    """While MLflow does not answer, both arms stay in service, and the problem and the last good look are told."""
    register("prod")
    register("staging")
    switchable = Switchable(registry)
    reloader = make_reloader(switchable)
    reloader.refresh()
    before, seen = reloader.current, reloader.last_look.at
    switchable.target = dead
    reloader.refresh()
    assert reloader.current is before
    assert f"MLflow at {NOBODY} does not answer" in (reloader.last_look.problem or "")
    assert reloader.last_look.at == seen


def test_a_registry_that_answers_again_is_followed(
    registry: Registry, dead: Registry, register: Register, make_reloader: MakeReloader
) -> None:
    """Once MLflow is back, its aliases are followed and the problem is gone."""
    switchable = Switchable(dead)
    reloader = make_reloader(switchable)
    register("prod")
    reloader.refresh()
    switchable.target = registry
    reloader.refresh()
    assert (reloader.current.prod.version, reloader.last_look.problem) == ("1", None)


def test_a_registry_that_never_answered_gives_no_model(dead: Registry, make_reloader: MakeReloader) -> None:
    """A router started while MLflow is down has no model, and the error says that MLflow does not answer."""
    reloader = make_reloader(dead)
    reloader.refresh()
    with pytest.raises(NoModel, match="does not answer"):
        _ = reloader.current


@pytest.fixture
def copies(settings: Settings, registry: Registry, register: Register, make_reloader: MakeReloader) -> Path:
    """What a router with a cache leaves behind that served version 1 and, to some, version 2."""
    folder = settings.crossfade_home / "models"
    register("prod")
    register("staging")
    caching = Catalog(registry, "auto", ModelCache(folder))
    make_reloader(caching).refresh()
    return folder


def test_a_router_starts_without_mlflow(
    copies: Path, dead: Registry, registry: Registry, make_reloader: MakeReloader
) -> None:
    """Both arms are served from copies, and it is told that MLflow does not answer; once it does, it is followed."""
    switchable = Switchable(dead)
    reloader = make_reloader(Catalog(switchable, "auto", ModelCache(copies)))
    reloader.refresh()
    deployment = reloader.current
    assert deployment.staging is not None
    assert (deployment.prod.version, deployment.staging.version) == ("1", "2")
    assert deployment.prod.loaded.model.predict([[5.1, 3.5, 1.4, 0.2]])[0].label == 0
    assert "does not answer" in (reloader.last_look.problem or "")
    assert reloader.last_look.at == 0
    registry.drop("staging", expected="2")
    switchable.target = registry
    reloader.refresh()
    assert (reloader.current.staging, reloader.last_look.problem) == (None, None)
    assert reloader.current.prod.loaded is deployment.prod.loaded


def test_what_stood_there_last_is_remembered(copies: Path, registry: Registry, dead: Registry) -> None:
    """An alias that was dropped is not served from a copy."""
    caching = Catalog(registry, "auto", ModelCache(copies))
    reloader = Reloader(caching, "prod", "staging", copies / "signal", 3600)
    reloader.refresh()
    registry.drop("staging", expected="2")
    reloader.refresh()
    found = Catalog(dead, "auto", ModelCache(copies))
    prod = found.remembered("prod")
    assert (prod and prod.number, found.remembered("staging")) == ("1", None)


def test_a_broken_copy_is_fetched_anew(copies: Path, settings: Settings, registry: Registry) -> None:
    """Whatever a disk did to a copy: while MLflow answers, the version is loaded and its copy whole again."""
    pickles = list(copies.rglob("*.pkl"))
    assert len(pickles) == 2
    for path in pickles:
        path.write_bytes(b"no pickle")
    caching = Catalog(registry, "auto", ModelCache(copies))
    assert caching.load(registry.get("1")).model.predict([[5.1, 3.5, 1.4, 0.2]])[0].label == 0
    assert sum(path.read_bytes() == b"no pickle" for path in copies.rglob("*.pkl")) == 1


def test_copies_that_cannot_be_written_stop_nobody(settings: Settings, registry: Registry, register: Register) -> None:
    """Where the folder is a file, versions are loaded all the same."""
    register("prod")
    (settings.crossfade_home / "models").write_text("in the way")
    cache = ModelCache(settings.crossfade_home / "models")
    reloader = Reloader(
        Catalog(registry, "auto", cache),
        "prod",
        "staging",
        settings.crossfade_home / "signal",
        3600,
    )
    reloader.refresh()
    assert (reloader.current.prod.version, reloader.last_look.problem) == ("1", None)


def test_old_copies_are_dropped(copies: Path, settings: Settings, registry: Registry, register: Register) -> None:
    """A copy that no alias has needed for a day goes when the next version is served."""
    (old,) = copies.glob("2-*")
    os.utime(old, (0, 0))
    _move(registry, "staging", register())
    caching = Catalog(registry, "auto", ModelCache(copies))
    Reloader(caching, "prod", "staging", copies / "signal", 3600).refresh()
    assert sorted(path.name.split("-")[0] for path in copies.iterdir() if path.is_dir()) == ["1", "3"]


def test_a_broken_registry_database_keeps_what_is_loaded(
    settings: Settings, reloader: Reloader, register: Register
) -> None:
    """When the registry answers with an error of its own (here: no database), what is loaded stays in service."""
    register("prod")
    reloader.refresh()
    (settings.crossfade_home / "mlflow.db").write_bytes(b"no database" * 1000)
    reloader.refresh()
    assert reloader.current.prod.version == "1"
    assert reloader.last_look.problem is not None


def test_the_follower_outlives_a_broken_registry_database(
    settings: Settings, registry: Registry, register: Register, make_reloader: MakeReloader, eventually: Eventually
) -> None:
    """A worker whose registry broke follows the aliases again once it is repaired."""
    register("prod")
    register("staging")
    database = settings.crossfade_home / "mlflow.db"
    whole = database.read_bytes()
    reloader = make_reloader(registry, poll_seconds=0.02)
    reloader.start()
    assert eventually(lambda: reloader.last_look.at > 0)
    database.write_bytes(b"no database" * 1000)
    assert eventually(lambda: reloader.last_look.problem is not None)
    database.write_bytes(whole)
    assert eventually(lambda: reloader.last_look.problem is None)


def test_the_follower_sees_a_moved_alias(
    registry: Registry, register: Register, make_reloader: MakeReloader, eventually: Eventually
) -> None:
    """A started reloader follows an alias that somebody else moved, without being told."""
    register("prod")
    new = register()
    reloader = make_reloader(registry, poll_seconds=0.05)
    reloader.start()
    assert eventually(lambda: reloader.last_look.at > 0)
    mover = threading.Thread(target=_move, args=(registry, "prod", new))
    mover.start()
    mover.join()
    assert eventually(lambda: reloader.current.prod.version == "2")


def test_the_follower_loads_the_first_model(
    registry: Registry, register: Register, make_reloader: MakeReloader, eventually: Eventually
) -> None:
    """A worker that started before any model was there serves the first one once it has the alias."""
    reloader = make_reloader(registry, poll_seconds=0.05)
    reloader.start()
    assert eventually(lambda: reloader.last_look.problem is not None)
    register("prod")
    assert eventually(lambda: reloader.last_look.problem is None)
    assert reloader.current.prod.version == "1"


def test_a_signal_makes_the_follower_look_at_once(
    registry: Registry, register: Register, make_reloader: MakeReloader, eventually: Eventually
) -> None:
    """A worker that would look again in an hour looks when another one touches the signal file."""
    register("prod")
    new = register()
    follower, other = make_reloader(registry, poll_seconds=3600), make_reloader(registry)
    follower.start()
    assert eventually(lambda: follower.last_look.at > 0)
    _move(registry, "prod", new)
    other.tell_other_workers()
    assert eventually(lambda: follower.current.prod.version == "2")


def test_every_signal_counts(
    registry: Registry, register: Register, make_reloader: MakeReloader, eventually: Eventually
) -> None:
    """A second touch of a signal file that is there already makes a worker look again."""
    first, second = register("prod"), register()
    follower, other = make_reloader(registry, poll_seconds=3600), make_reloader(registry)
    other.tell_other_workers()
    follower.start()
    assert eventually(lambda: follower.last_look.at > 0)
    for version in (second, first):
        _move(registry, "prod", version)
        other.tell_other_workers()
        assert eventually(lambda number=version.number: follower.current.prod.version == number)


def test_swaps_interrupt_nobody(settings: Settings, registry: Registry, register: Register) -> None:
    """While aliases move under traffic every request is answered by a version that was in service, and logged."""
    first, second = register("prod"), register(model=DecisionTreeClassifier(random_state=0))
    app = create_app(settings, registry=registry, follow=False)
    reloader, stop, under_way = app.extensions["crossfade"].reloader, threading.Event(), threading.Semaphore(0)

    def ask() -> list[tuple[int, str, str | None]]:
        client, answers = app.test_client(), []
        while not stop.is_set():
            reply = client.post("/predict", json={"features": [6.0, 3.0, 4.5, 1.5]})
            answers.append((reply.status_code, reply.json["model_version"], reply.json["experiment_id"]))
            under_way.release()
        return answers

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for version in [second, first] * 3:
            _move(registry, "prod", version)
            reloader.refresh()
            for _ in range(8):
                assert under_way.acquire(timeout=120)
        stop.set()
        answers = [answer for asked in asking for answer in asked.result()]
    assert {answer[0] for answer in answers} == {200}
    assert {answer[1:] for answer in answers} == {("1", None), ("2", None)}
    assert len(read_log(CsvRequestLog(settings.request_log, settings.labels_log)).rows) == len(answers)


class _BreaksOnce(Registry):
    """A registry whose first download of a version breaks in the middle."""

    def __init__(self, tracking_uri: str, name: str, number: str) -> None:
        super().__init__(tracking_uri, name)
        self._breaks = {number}

    def load_trained(self, version: Version, folder: Path) -> LoadedModel:
        if version.number in self._breaks:
            self._breaks.remove(version.number)
            raise RegistryUnavailable("Connection broken: IncompleteRead")
        return super().load_trained(version, folder)


def test_a_broken_download_is_tried_again(
    settings: Settings, registry: Registry, register: Callable[..., Version], make_reloader: Callable[..., Reloader]
) -> None:
    """A challenger whose download broke is left out for now, prod moves meanwhile, and the next look brings both."""
    register("prod")
    breaking = _BreaksOnce(settings.mlflow_tracking_uri, settings.reg_model_name, "3")
    reloader = make_reloader(breaking)
    reloader.refresh()
    registry.move("prod", register().number, expected="1")
    register("staging")
    reloader.refresh()
    assert (reloader.current.prod.version, reloader.current.staging) == ("2", None)
    assert "IncompleteRead" in str(reloader.last_look.problem)
    reloader.refresh()
    assert reloader.current.experiment_id == "IrisClassifier-v2-v3"
    assert reloader.last_look.problem is None
