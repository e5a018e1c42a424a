"""The panels as they are now: what each is drawn from, and those that a page does not have yet."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dash import html, no_update

from crossfade.dashboard.distribution import distribution_of, features_of
from crossfade.dashboard.drift import DriftView, drift_view
from crossfade.dashboard.experiment import ExperimentView, experiment_view
from crossfade.dashboard.history import Happening, history_of
from crossfade.dashboard.panels import drift, experiment, header, history, traffic
from crossfade.dashboard.panels.frame import options
from crossfade.dashboard.panels.palette import Palette, palette_of
from crossfade.dashboard.panels.parts import Component, Links, link
from crossfade.dashboard.traffic import SpanName, traffic_of
from crossfade.dashboard.watch import Picture, Watch
from crossfade.settings import Settings
from crossfade.stack.airflow import DAG_ID

PANELS = ("services", "cards", "traffic", "experiment", "drift", "distribution", "history", "run", "feature-choice")
"""Elements whose children are brought up to date."""

_MOST_KEPT = 64
"""Drawn panels: several pages, light and dark, with several features, share the work."""


@dataclass(frozen=True)
class Wish:
    """What a page wants to see."""

    theme: str
    """`light` or `dark`."""
    span: SpanName
    feature: str | None
    """None: the first one."""


class Board:
    """Draws panels, but for those that a page has already.

    Parameters
    ----------
    watch : Watch
        What is known.
    settings : Settings
        Names, thresholds and addresses.
    """

    def __init__(self, watch: Watch, settings: Settings) -> None:
        self._watch = watch
        self._settings = settings
        self._born = uuid.uuid4().hex[:8]  # a page may have been drawn by a process before this one
        self._drawn: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def update(self, wish: Wish, keys: Mapping[str, str]) -> tuple[list[Any], dict[str, str]]:
        """Return the children of every one of `PANELS`, and the keys of what the page then has.

        Parameters
        ----------
        wish : Wish
            What the page wants to see.
        keys : mapping of str to str
            Those of the last time; a panel whose key has not changed is not sent again.
        """
        picture = self._watch.picture()
        drawing = Drawing(picture, self._settings, wish)
        fresh = {name: f"{self._born} {made_of!r}" for name, made_of in drawn_from(picture, wish).items()}
        children = [no_update if keys.get(name) == fresh[name] else self._draw(drawing, name, fresh) for name in PANELS]
        return children, fresh

    def _draw(self, drawing: Drawing, name: str, keys: Mapping[str, str]) -> Any:
        place = (name, keys[name])
        drawn = self._drawn.get(place)
        if drawn is None:
            drawn = drawing.panel(name)
            if name != "services":  # they differ each time
                self._drawn[place] = drawn
                while len(self._drawn) > _MOST_KEPT:
                    self._drawn.popitem(last=False)
        return drawn


def drawn_from(picture: Picture, wish: Wish) -> dict[str, tuple[object, ...]]:
    """Say what each panel is drawn from: while that stays the same, so does the panel."""
    log, router, mlflow = picture.log.revision, picture.router.revision, picture.mlflow.revision
    files, decisions, live = picture.drift.revision, picture.decisions.revision, picture.live.revision
    return {
        "services": (time.time(),),  # they tell when they were seen last
        "cards": (router, mlflow, files, decisions, log),
        "traffic": (log, int(time.time() // 60), wish.span, wish.theme),
        "experiment": (router, mlflow, decisions, log, wish.theme),
        "drift": (files, mlflow, wish.theme),
        "distribution": (mlflow, live, wish.feature, wish.theme),
        "history": (decisions, mlflow, wish.theme),
        "run": (picture.airflow.revision,),
        "feature-choice": (mlflow,),
    }


@dataclass(frozen=True)
class Drawing:
    """One picture, about to be drawn for one wish; what several panels show is arranged once."""

    picture: Picture
    settings: Settings
    wish: Wish

    def panel(self, name: str) -> list[Component]:
        """Draw one of `PANELS`."""
        draw: dict[str, Callable[[], list[Component]]] = {
            "services": lambda: header.services(self.picture),
            "cards": lambda: header.cards(self.picture, self._drift, self._experiment, self._history, self._links),
            "traffic": self._traffic,
            "experiment": self._experiment_panel,
            "drift": self._drift_panel,
            "distribution": self._distribution,
            "history": self._history_panel,
            "run": self._run,
            "feature-choice": lambda: options([(name, name) for name in self._features]),
        }
        return draw[name]()

    @cached_property
    def _palette(self) -> Palette:
        return palette_of(self.wish.theme)

    @cached_property
    def _links(self) -> Links:
        settings, number = self.settings, self.picture.mlflow.value.experiment_number
        return Links(settings.mlflow_ui_url, settings.airflow_ui_url, settings.reg_model_name, number)

    @cached_property
    def _features(self) -> list[str]:
        return features_of(self.picture.mlflow.value.learnt)

    @cached_property
    def _drift(self) -> DriftView:
        return drift_view(self.picture.drift.value, self.settings.psi_threshold)

    @cached_property
    def _experiment(self) -> ExperimentView:
        picture, settings = self.picture, self.settings
        running = picture.router.value.experiment_id
        return experiment_view(
            picture.decisions.value, picture.log.value, running, settings.ab_min_labeled, settings.ab_test
        )

    @cached_property
    def _history(self) -> list[Happening]:
        verdicts = self.picture.mlflow.value.verdicts
        return history_of(self.picture.decisions.value, verdicts, self.settings.prod_alias, self.settings.staging_alias)

    def _traffic(self) -> list[Component]:
        now = int(time.time() * 1000)
        found = traffic_of(self.picture.log.value, self.wish.span, now)
        return traffic.traffic_panel(found, self.picture.log, self._palette, self.settings.request_log)

    def _experiment_panel(self) -> list[Component]:
        picture = self.picture
        looks = (("decisions", picture.decisions), ("request log", picture.log), ("router", picture.router))
        return experiment.experiment_panel(self._experiment, looks, self._links, self._palette)

    def _drift_panel(self) -> list[Component]:
        looks = (("drift reports", self.picture.drift), ("MLflow", self.picture.mlflow))
        return drift.drift_panel(self._drift, looks, self._links, self._palette)

    def _distribution(self) -> list[Component]:
        learnt, wanted = self.picture.mlflow.value.learnt, self.wish.feature
        feature = wanted if wanted in self._features else next(iter(self._features), "")
        found = distribution_of(learnt, self.picture.live.value, feature) if learnt else None
        return [drift.distribution_chart(found, self._palette)]

    def _history_panel(self) -> list[Component]:
        looks = (("decisions", self.picture.decisions), ("MLflow", self.picture.mlflow))
        return history.history_panel(self._history, looks, self._links, self._palette)

    def _run(self) -> list[Component]:
        run = self.picture.airflow.value.run
        if run is None:
            return []
        at_work = ", ".join(task for task, state in run.tasks.items() if state == "running")
        address = f"{self._links.airflow}/dags/{DAG_ID}/runs/{run.id}"
        return [html.P([link(run.id, address), f": {run.state}" + (f", {at_work} is at work" if at_work else "")])]
