"""The drift rule on whole tables: large enough to matter and not noise."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from crossfade.loop import drift
from crossfade.loop.drift import DriftReport, DriftRule
from crossfade.loop.driftpage import write_drift_page
from crossfade.loop.evidence import metric_name
from crossfade.loop.policy import Recommendation
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.trend import trend_of
from crossfade.loop.window import count_frame
from crossfade.stats.divergence import category_shift, ks, psi
from crossfade.stats.profile import CategoricalProfile, NumericProfile


def check_drift(reference: ReferenceProfile, live: pd.DataFrame, rule: DriftRule, **misread: int) -> DriftReport:
    """Check the rows of a frame."""
    return drift.check_drift(reference, count_frame(reference, live, misread), rule)


def _features(rows: int, seed: int, **shift: float) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: rng.normal(shift.get(name, 0.0), 1.0, rows) for name in ("a", "b", "c")})


def _outputs(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"prediction": rng.choice(["0", "1"], rows), "probability": rng.uniform(0.5, 1.0, rows)})


@pytest.fixture(scope="module")
def reference() -> ReferenceProfile:
    """2000 rows of three standard normal features, and outputs of 500."""
    return ReferenceProfile.of(_features(2000, 1), _outputs(500, 2))


def test_same_data_is_stable(reference: ReferenceProfile) -> None:
    """Rows of the same distribution are stable, column by column."""
    report = check_drift(reference, _features(1000, 3).join(_outputs(1000, 4)), DriftRule())
    assert report.verdict == "stable"
    assert report.drifted == []
    assert {column.verdict for column in report.columns} == {"stable"}
    assert [column.feature for column in report.columns] == ["a", "b", "c", "prediction", "probability"]


def test_a_shifted_feature_drifted(reference: ReferenceProfile) -> None:
    """A shift in one feature is drift, of that feature, with its size in the reference's standard deviations."""
    report = check_drift(reference, _features(1000, 3, b=1.0), DriftRule())
    assert (report.verdict, report.drifted, report.rows) == ("drift", ["b"], 1000)
    column = next(c for c in report.columns if c.feature == "b")
    assert column.shift == pytest.approx(1.0, abs=0.15)
    assert "b (PSI " in report.reason


def test_drifted_columns_come_largest_first(reference: ReferenceProfile) -> None:
    """Drifted columns are listed by PSI, the largest first."""
    assert check_drift(reference, _features(1000, 3, a=1.0, c=2.0), DriftRule()).drifted == ["c", "a"]


def test_a_sure_but_small_shift_is_not_drift(reference: ReferenceProfile) -> None:
    """A shift that is not noise but below both thresholds does not count."""
    report = check_drift(reference, _features(50_000, 3, a=0.15), DriftRule())
    column = report.columns[0]
    assert column.ks_pvalue is not None
    assert column.ks_pvalue < 1e-4
    assert column.ks_statistic is not None
    assert column.ks_statistic < 0.1
    assert report.verdict == "stable"


def test_a_large_shift_that_may_be_noise_is_not_drift() -> None:
    """A distance above the threshold on few rows does not count while it may be chance."""
    small = ReferenceProfile.of(_features(30, 5), _outputs(30, 6))
    rule = DriftRule(psi_threshold=0.05, ks_threshold=0.05, min_rows=20)
    report = check_drift(small, _features(30, 7), rule)
    assert any((c.psi or 0) > 0.05 and (c.ks_statistic or 0) > 0.05 for c in report.columns)
    assert report.verdict == "stable"


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        (DriftRule(ks_threshold=1.0), "drift"),
        (DriftRule(psi_threshold=99.0), "drift"),
        (DriftRule(psi_threshold=99.0, ks_threshold=1.0), "stable"),
    ],
)
def test_either_distance_is_enough(reference: ReferenceProfile, rule: DriftRule, verdict: str) -> None:
    """PSI alone or KS alone calls drift; with both thresholds out of reach nothing does."""
    assert check_drift(reference, _features(1000, 3, b=1.0), rule).verdict == verdict


def test_p_values_are_holms(reference: ReferenceProfile) -> None:
    """The p-values of all tests, PSI, KS and chi-square, are adjusted together by Holm."""
    live = _features(600, 8, a=0.1, b=0.12).join(_outputs(600, 9))
    report = check_drift(reference, live, DriftRule())
    raw_psi, raw_shape = [], []
    for name, profile in reference.columns.items():
        counts = profile.count(live[name])
        divergence = psi(profile, counts)
        assert divergence is not None
        raw_psi.append(divergence.p_value)
        numeric = isinstance(profile, NumericProfile)
        distance = ks(profile, counts) if numeric else category_shift(profile, counts)  # type: ignore[arg-type]
        assert distance is not None
        raw_shape.append(distance.p_value)
    found = report.to_frame()
    shape = found["ks_pvalue"].fillna(found["chi2_pvalue"])
    adjusted = multipletests([*raw_psi, *raw_shape], method="holm")[1]
    assert [*found["psi_pvalue"], *shape] == pytest.approx(adjusted.tolist())
    assert (
        found["ks_pvalue"].notna().tolist() == found["chi2_pvalue"].isna().tolist() == [True, True, True, False, True]
    )


def test_too_few_rows_are_not_stable(reference: ReferenceProfile) -> None:
    """Below min_rows the verdict is insufficient_data, whatever the rows look like, and says what is needed."""
    report = check_drift(reference, _features(199, 3, a=9.0), DriftRule())
    assert report.verdict == "insufficient_data"
    assert (report.rows, report.columns) == (199, ())
    assert "199 live rows; a verdict needs 200" in report.reason


def test_min_rows_is_enough(reference: ReferenceProfile) -> None:
    """Exactly min_rows are enough."""
    assert check_drift(reference, _features(200, 3, a=9.0), DriftRule()).verdict == "drift"


@pytest.mark.parametrize(("share", "verdict"), [(0.0, "drift"), (0.3, "drift"), (1 / 3, "stable"), (0.5, "stable")])
def test_drift_needs_more_than_its_share(reference: ReferenceProfile, share: float, verdict: str) -> None:
    """Drift is called when more than DRIFT_SHARE of the columns drifted: here one of three."""
    report = check_drift(reference, _features(1000, 3, a=1.0), DriftRule(share=share))
    assert report.verdict == verdict
    assert report.drifted == ["a"]


def test_outputs_are_monitored(reference: ReferenceProfile) -> None:
    """A model that suddenly answers one class drifted in its prediction."""
    live = _features(1000, 3).join(_outputs(1000, 4).assign(prediction="1"))
    assert check_drift(reference, live, DriftRule()).drifted == ["prediction"]


def test_outputs_of_other_versions_are_left_out(reference: ReferenceProfile) -> None:
    """Rows without an output (another version answered them) are left out of that column, and of it only."""
    live = _features(1000, 3).join(_outputs(1000, 4))
    live.loc[::2, ["prediction", "probability"]] = np.nan
    report = check_drift(reference, live, DriftRule())
    rows = {column.feature: column.rows for column in report.columns}
    assert rows == {"a": 1000, "b": 1000, "c": 1000, "prediction": 500, "probability": 500}
    assert report.verdict == "stable"


def test_outputs_too_few_to_judge_are_insufficient(reference: ReferenceProfile) -> None:
    """An output known in fewer than min_rows rows is insufficient_data, not stable, and calls no drift."""
    live = _features(1000, 3).join(_outputs(1000, 4).assign(prediction="9"))
    live.loc[100:, ["prediction", "probability"]] = np.nan
    report = check_drift(reference, live, DriftRule())
    verdicts = {column.feature: column.verdict for column in report.columns}
    assert verdicts["prediction"] == verdicts["probability"] == "insufficient_data"
    assert report.verdict == "stable"


def test_a_feature_that_goes_missing_drifted(reference: ReferenceProfile) -> None:
    """Values that go missing drift, however few are left."""
    live = _features(1000, 3)
    live.loc[1:, "a"] = np.nan
    report = check_drift(reference, live, DriftRule())
    assert report.drifted == ["a"]
    assert report.columns[0].live_mean == pytest.approx(live.loc[0, "a"])


def test_a_feature_without_any_value_broke_the_schema(reference: ReferenceProfile) -> None:
    """A feature that no row has a value of has not drifted: something upstream is broken, and there is no mean."""
    report = check_drift(reference, _features(1000, 3).assign(a=np.nan), DriftRule())
    column = report.columns[0]
    assert (report.verdict, report.drifted) == ("schema_broken", [])
    assert report.reason == "of 1000 rows, a has a value in none: mend what sends them"
    assert [c.verdict for c in report.columns] == ["schema_broken", "stable", "stable"]
    assert (column.ks_statistic, column.live_mean, column.shift) == (None, None, None)


def test_a_feature_that_is_gone_broke_the_schema(reference: ReferenceProfile) -> None:
    """A column that is not there at all is told from an empty one, and has a line in the report."""
    report = check_drift(reference, _features(1000, 3).drop(columns="b"), DriftRule())
    assert (report.verdict, report.reason) == ("schema_broken", "of 1000 rows, b is in none: mend what sends them")
    assert [(c.feature, c.verdict, c.rows) for c in report.columns][1] == ("b", "schema_broken", 0)


@pytest.mark.parametrize(("misread", "verdict"), [(50, "stable"), (51, "schema_broken")])
def test_values_of_another_type_break_the_schema(reference: ReferenceProfile, misread: int, verdict: str) -> None:
    """A stray value of another type is a missing one; above 5 % the column is not what it was."""
    live = _features(1000, 3)
    live.loc[: misread - 1, "a"] = np.nan
    report = check_drift(reference, live, DriftRule(psi_threshold=9, ks_threshold=1), a=misread)
    assert report.verdict == verdict
    if verdict == "schema_broken":
        assert "a is of another type than it was in 51 of the 1000 that have it" in report.reason


@pytest.mark.parametrize(("rows", "verdict"), [(300, "stable"), (5000, "schema_broken")])
def test_a_feature_that_is_all_but_empty_may_be_empty(rows: int, verdict: str) -> None:
    """Where one row in a thousand had a value, 300 rows without one are no surprise, and 5000 are."""
    rare = pd.DataFrame({"a": [1.0] + [np.nan] * 999, "b": np.arange(1000.0)})
    reference = ReferenceProfile.of(rare, _outputs(500, 2))
    live = pd.DataFrame({"a": np.nan, "b": np.linspace(0, 999, rows)})
    assert check_drift(reference, live, DriftRule()).verdict == verdict


def test_many_broken_features_are_counted(reference: ReferenceProfile) -> None:
    """Of many broken features six are told, and the number of the rest."""
    wide = ReferenceProfile.of(pd.DataFrame({f"f{i}": np.arange(500.0) for i in range(8)}), _outputs(500, 2))
    report = check_drift(wide, pd.DataFrame(index=range(500)), DriftRule())
    assert report.reason.count("is in none") == 6
    assert "; and 2 more" in report.reason


def test_unknown_columns_are_ignored(reference: ReferenceProfile) -> None:
    """Columns that the reference does not know change nothing."""
    live = _features(1000, 3, b=1.0)
    assert check_drift(reference, live.assign(colour="red"), DriftRule()) == check_drift(reference, live, DriftRule())


def test_a_constant_feature_has_no_shift_in_deviations() -> None:
    """Where the reference does not vary, a shift in standard deviations is undefined, and drift is still seen."""
    constant = ReferenceProfile.of(pd.DataFrame({"a": np.ones(500)}), _outputs(50, 1))
    column = check_drift(constant, pd.DataFrame({"a": np.full(500, 2.0)}), DriftRule()).columns[0]
    assert (column.shift, column.reference_mean, column.live_mean) == (None, 1.0, 2.0)
    assert column.verdict == "drift"


def test_drift_stops_once_the_new_data_is_learnt() -> None:
    """Measured against the profile of a model that learnt the new data, the same traffic is stable."""
    learnt = ReferenceProfile.of(_features(2000, 1, a=2.0, b=2.0, c=2.0), _outputs(500, 2))
    assert check_drift(learnt, _features(1000, 3, a=2.0, b=2.0, c=2.0), DriftRule()).verdict == "stable"


def test_a_reference_profile_survives_json(reference: ReferenceProfile) -> None:
    """A profile read back from JSON gives the same report, to the last bit, and the same features."""
    read = ReferenceProfile.from_json(reference.to_json())
    live = _features(1000, 3, b=0.4).join(_outputs(1000, 4))
    assert read.features == reference.features == ["a", "b", "c"]
    assert check_drift(read, live, DriftRule()) == check_drift(reference, live, DriftRule())


def test_a_report_is_jsonable(reference: ReferenceProfile) -> None:
    """The report's summary is plain JSON; the table has one line per column."""
    report = check_drift(reference, _features(1000, 3, b=1.0), DriftRule())
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert len(report.to_frame()) == len(report.columns) == 3


COLOURS = ["red", "green", "blue"]


def _mixed(rows: int, seed: int, shares: tuple[float, ...] = (0.5, 0.3, 0.2), gaps: float = 0.05) -> pd.DataFrame:
    """A number, a category and a boolean, as the models take them, some of each missing."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=rows),
            "colour": rng.choice(COLOURS, rows, p=shares).astype(object),
            "flag": (rng.random(rows) < 0.3).astype(float),
        }
    )
    for name in frame:
        frame.loc[rng.random(rows) < gaps, name] = np.nan
    return frame


@pytest.fixture(scope="module")
def mixed() -> ReferenceProfile:
    """2000 rows of every kind of feature."""
    return ReferenceProfile.of(_mixed(2000, 1), _outputs(500, 2))


def test_kinds_have_their_profiles(mixed: ReferenceProfile) -> None:
    """Text is profiled by category; numbers and booleans by value, also after JSON."""
    for profile in (mixed, ReferenceProfile.from_json(mixed.to_json())):
        assert isinstance(profile.columns["colour"], CategoricalProfile)
        assert isinstance(profile.columns["size"], NumericProfile)
        assert isinstance(profile.columns["flag"], NumericProfile)


@pytest.mark.parametrize("seed", range(5))
def test_a_stable_mixed_table_is_stable(mixed: ReferenceProfile, seed: int) -> None:
    """Rows of the same distribution are stable in every kind of feature."""
    report = check_drift(mixed, _mixed(1000, 100 + seed), DriftRule())
    assert {column.feature: column.verdict for column in report.columns} == dict.fromkeys(
        ("size", "colour", "flag"), "stable"
    )


def test_other_shares_of_categories_drifted(mixed: ReferenceProfile) -> None:
    """Categories in other shares are drift of that feature, and the reason names its distance."""
    report = check_drift(mixed, _mixed(1000, 3, shares=(0.2, 0.3, 0.5)), DriftRule())
    assert (report.verdict, report.drifted) == ("drift", ["colour"])
    column = next(c for c in report.columns if c.feature == "colour")
    assert column.category_distance == pytest.approx(0.3, abs=0.05)
    assert column.chi2_pvalue is not None
    assert column.chi2_pvalue < 1e-6
    assert (column.ks_statistic, column.ks_pvalue, column.reference_mean, column.live_mean) == (None,) * 4
    assert f"colour (PSI {column.psi:.2f}, distance {column.category_distance:.2f})" in report.reason


@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_a_new_category_drifted(mixed: ReferenceProfile, share: float) -> None:
    """A category that the reference never had is drift once it is frequent."""
    live = _mixed(1000, 3)
    live.loc[np.random.default_rng(0).random(1000) < share, "colour"] = "violet"
    assert check_drift(mixed, live, DriftRule()).drifted == ["colour"]


def test_a_new_category_in_a_few_rows_is_not_drift(mixed: ReferenceProfile) -> None:
    """A handful of rows of a new category is stable: no threshold is reached."""
    live = _mixed(1000, 3)
    live.loc[:9, "colour"] = "violet"
    assert check_drift(mixed, live, DriftRule()).verdict == "stable"


@pytest.mark.parametrize("name", ["size", "colour", "flag"])
def test_values_that_go_missing_drifted(mixed: ReferenceProfile, name: str) -> None:
    """A share of missing values that grew is drift of that feature, whatever its kind."""
    live = _mixed(1000, 3)
    live.loc[np.random.default_rng(0).random(1000) < 0.4, name] = np.nan
    report = check_drift(mixed, live, DriftRule())
    assert report.drifted == [name]
    assert report.rows == 1000


def test_a_boolean_that_turned_round_drifted(mixed: ReferenceProfile) -> None:
    """A boolean whose share of true grew is drift."""
    live = _mixed(1000, 3).assign(flag=lambda rows: 1 - rows["flag"])
    assert check_drift(mixed, live, DriftRule()).drifted == ["flag"]


def test_a_category_that_is_missing_everywhere_broke_the_schema(mixed: ReferenceProfile) -> None:
    """A category that is missing in every row broke the schema, and has no distance to speak of."""
    live = _mixed(1000, 3).assign(colour=pd.Series(np.nan, range(1000), dtype=object))
    report = check_drift(mixed, live, DriftRule())
    column = next(c for c in report.columns if c.feature == "colour")
    assert (report.verdict, column.verdict) == ("schema_broken", "schema_broken")
    assert (column.category_distance, column.chi2_pvalue) == (None, None)


def test_either_distance_of_categories_is_enough(mixed: ReferenceProfile) -> None:
    """PSI alone, or the category distance alone (against KS_THRESHOLD), calls drift; neither, and nothing does."""
    live = _mixed(1000, 3, shares=(0.2, 0.3, 0.5))
    assert check_drift(mixed, live, DriftRule(ks_threshold=1.0)).drifted == ["colour"]
    assert check_drift(mixed, live, DriftRule(psi_threshold=99.0)).drifted == ["colour"]
    assert check_drift(mixed, live, DriftRule(psi_threshold=99.0, ks_threshold=1.0)).drifted == []


def test_the_report_has_a_column_per_number(mixed: ReferenceProfile) -> None:
    """The table has one line per feature, with every number under its own name, and fits JSON."""
    live = _mixed(1000, 3).join(_outputs(1000, 4))
    frame = check_drift(mixed, live, DriftRule()).to_frame()
    assert frame["feature"].tolist() == ["size", "colour", "flag", "prediction", "probability"]
    assert {"psi", "psi_pvalue", "ks_statistic", "ks_pvalue", "category_distance", "chi2_pvalue"} < set(frame.columns)
    assert {"reference_mean", "live_mean", "shift", "verdict", "rows"} < set(frame.columns)
    assert frame["category_distance"].notna().tolist() == [False, True, False, True, False]
    assert frame["ks_statistic"].isna().tolist() == [False, True, False, True, False]
    json.dumps(frame.astype(object).where(frame.notna(), None).to_dict("records"), allow_nan=False)


@pytest.mark.parametrize("categories", [90, 300])
def test_many_rare_categories_are_no_drift(categories: int) -> None:
    """Categories of about 1 % of the rows are not kept or merged by what chance made of the reference."""
    rng, called = np.random.default_rng(5), 0
    names = np.array([f"c{i}" for i in range(categories)], dtype=object)
    shares = 1 / np.arange(1, categories + 1) if categories > 100 else np.ones(categories)
    for _ in range(150):
        learnt, seen = (pd.DataFrame({"c": rng.choice(names, n, p=shares / shares.sum())}) for n in (500, 1000))
        called += check_drift(ReferenceProfile.of(learnt, _outputs(50, 1)), seen, DriftRule()).verdict == "drift"
    assert called <= 5


@pytest.mark.parametrize(
    "names", [["net_$ minus tax_$", "_hidden", "a//b", "..", "x" * 400], ["a b", "a?b", "a/b", "/"]]
)
def test_any_name_can_be_drawn_and_logged(names: list[str], tmp_path: Path) -> None:
    """Names that are formulas to matplotlib, or folders to MLflow, stop no report."""
    live = pd.DataFrame({name: np.arange(500.0) for name in names})
    reference = ReferenceProfile.of(live, _outputs(50, 1))
    window = count_frame(reference, live + 100)
    report = drift.check_drift(reference, window, DriftRule())
    trend = trend_of(reference, [window], "m", "1", 200)
    decision = Recommendation("monitor", ("a <b> reason",))
    write_drift_page(tmp_path / "page.html", report, decision, trend, 0.2, None)
    page = (tmp_path / "page.html").read_text()
    assert "a &lt;b&gt; reason" in page
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("names", f"file://{tmp_path}/artifacts"))
    with mlflow.start_run() as run:
        mlflow.log_metrics({metric_name(name): 1.0 for name in names})
    assert len(mlflow.get_run(run.info.run_id).data.metrics) == len(names)
