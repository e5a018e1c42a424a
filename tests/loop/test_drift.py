"""The drift rule on whole tables: large enough to matter and not noise."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from crossfade.loop.drift import DriftRule, ReferenceProfile, check_drift
from crossfade.stats.divergence import ks, psi
from crossfade.stats.profile import NumericProfile


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
    """The p-values of all columns are adjusted by Holm, those of PSI and of KS apart."""
    live = _features(600, 8, a=0.1, b=0.12).join(_outputs(600, 9))
    report = check_drift(reference, live, DriftRule())
    raw_psi, raw_ks = [], []
    for name, profile in reference.columns.items():
        counts = profile.count(live[name])
        divergence = psi(profile, counts)
        assert divergence is not None
        raw_psi.append(divergence.p_value)
        if isinstance(profile, NumericProfile):
            distance = ks(profile, counts)  # type: ignore[arg-type]
            assert distance is not None
            raw_ks.append(distance.p_value)
    found = report.to_frame()
    assert found["psi_pvalue"].tolist() == pytest.approx(multipletests(raw_psi, method="holm")[1])
    assert found["ks_pvalue"].dropna().tolist() == pytest.approx(multipletests(raw_ks, method="holm")[1])


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
    """Values that go missing drift, and there is no mean to speak of when all are."""
    report = check_drift(reference, _features(1000, 3).assign(a=np.nan), DriftRule())
    column = report.columns[0]
    assert report.drifted == ["a"]
    assert (column.ks_statistic, column.live_mean, column.shift) == (None, None, None)


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
