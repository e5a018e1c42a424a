"""7. Evaluation: which arm is better, and is the evidence good enough to move `prod`?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from crossfade.experiment import experiment_id
from crossfade.loop.champion import Scores
from crossfade.loop.quality import share_of_answers
from crossfade.requestlog import LogContents, units
from crossfade.stats.proportions import (
    Allocation,
    ChiSquare,
    SampleRatio,
    Share,
    accuracy_interval,
    chi_square,
    sample_ratio,
    worse_share,
)

Verdict = Literal["promote", "keep", "reject", "invalid"]


@dataclass(frozen=True)
class EvaluationRule:
    """When B's lead counts."""

    test: str = "chi2"
    alpha: float = 0.05
    min_labeled: int = 30
    """Labelled rows that each arm needs."""
    min_delta_accuracy: float = 0.0
    max_days: float = 5.0
    """Days of traffic after which an experiment without a verdict is given up..."""
    max_labeled: int = 1000
    """...or as soon as each arm has so many labelled rows."""
    promise_alpha: float = 0.01
    """p-value below which B is worse than its training promised."""


@dataclass(frozen=True)
class Experiment:
    """A challenger tested against prod."""

    id: str
    version_a: str
    version_b: str

    @classmethod
    def between(cls, model: str, prod: str | None, staging: str | None) -> Experiment | None:
        """Name the experiment of two versions; None when there is nothing to compare."""
        if prod is None or staging is None or staging == prod:
            return None
        return cls(experiment_id(model, prod, staging), prod, staging)


@dataclass(frozen=True)
class Arm:
    """What one arm did in an experiment."""

    version: str
    rows: int
    """Answered rows, failed ones included."""
    errors: int
    """Rows the model failed on."""
    users: int
    labeled: int
    """Answered rows whose label is known."""
    correct: int
    accuracy_interval: tuple[float, float] | None
    """Wilson, 95 %; None without labels."""
    scores: Scores | None
    """None without labels."""


@dataclass(frozen=True)
class Evaluation:
    """Outcome of one look at an experiment."""

    verdict: Verdict
    reasons: tuple[str, ...]
    experiment: Experiment | None
    rule: EvaluationRule
    arms: dict[str, Arm]
    """By variant, A and B; empty without an experiment."""
    chi_square: ChiSquare | None
    """None when nothing can be told apart."""
    sample_ratio: SampleRatio | None
    """None without users."""
    users_in_both: int
    """Users that both arms answered under one split: should be 0."""
    set_aside: int
    """Lines of the log that could not be read."""

    @property
    def delta_accuracy(self) -> float | None:
        """B's accuracy minus A's; None when an arm has no label."""
        scores = [arm.scores for arm in self.arms.values()]
        if len(scores) != 2 or scores[0] is None or scores[1] is None:
            return None
        return scores[1].accuracy - scores[0].accuracy

    def to_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "experiment_id": self.experiment and self.experiment.id,
            "model_version_a": self.experiment and self.experiment.version_a,
            "model_version_b": self.experiment and self.experiment.version_b,
            "test": self.rule.test,
            "alpha": self.rule.alpha,
            "chi2": self.chi_square and self.chi_square.statistic,
            "p_value": self.chi_square and self.chi_square.p_value,
            "delta_accuracy": self.delta_accuracy,
            "arms": {variant: asdict(arm) for variant, arm in self.arms.items()},
            "sample_ratio": self.sample_ratio and {**asdict(self.sample_ratio), "mismatch": self.sample_ratio.mismatch},
            "users_in_both": self.users_in_both,
            "log_lines_set_aside": self.set_aside,
        }


def evaluate(
    contents: LogContents, experiment: Experiment | None, rule: EvaluationRule, promise: Share | None = None
) -> Evaluation:
    """Judge an experiment by the rows that belong to it, and no others.

    Parameters
    ----------
    contents : LogContents
        The request log.
    experiment : Experiment or None
        None when nothing is compared.
    rule : EvaluationRule
        When B's lead counts.
    promise : Share or None
        B's right answers on the rows held out at its training; None when they are not known.
    """
    if experiment is None:
        reason = "no experiment is open: staging is unset, or the same version as prod"
        return Evaluation("keep", (reason,), None, rule, {}, None, None, 0, contents.set_aside)
    contents = contents.of_experiment(experiment.id)
    rows, labeled = contents.rows, contents.labeled()
    arms = {
        variant: _arm(rows[rows["variant"] == variant], labeled[labeled["variant"] == variant], version)
        for variant, version in (("A", experiment.version_a), ("B", experiment.version_b))
    }
    allocations, both = _allocations(rows)
    ratio = sample_ratio(allocations)
    a, b = arms["A"], arms["B"]
    test = chi_square(a.correct, a.labeled, b.correct, b.labeled)
    verdict, reasons = _judge(a, b, test, ratio, rule)
    days = (rows["ts_utc"].max() - rows["ts_utc"].min()) / pd.Timedelta(days=1) if len(rows) else 0.0
    fewest = min(a.labeled, b.labeled)
    if verdict == "keep" and fewest >= rule.min_labeled and promise and _broken(labeled, a, b, promise, rule):
        verdict, reasons = "reject", (*reasons, f"B is not ahead, nor what its held-out {promise.value:.3f} promised")
    elif verdict == "keep" and (fewest >= rule.max_labeled or (days >= rule.max_days and fewest >= rule.min_labeled)):
        spent = f"{days:.1f} days of traffic and {fewest} labelled rows per arm"
        verdict, reasons = "reject", (*reasons, f"inconclusive after {spent}")
    if both:
        reasons = (*reasons, f"{both} users were answered by both arms under one split")
    return Evaluation(verdict, reasons, experiment, rule, arms, test, ratio, both, contents.set_aside)


def _judge(
    a: Arm, b: Arm, test: ChiSquare | None, ratio: SampleRatio | None, rule: EvaluationRule
) -> tuple[Verdict, tuple[str, ...]]:
    if ratio is not None and ratio.mismatch:
        shares = f"B has {ratio.observed_b} users where {ratio.expected_b:.1f} were due (p = {ratio.p_value:.2g})"
        return "invalid", (f"the split is broken: {shares}; find out why before trusting any number here",)
    short = [
        f"{n} more labelled rows of {name}"
        for name, arm in (("A", a), ("B", b))
        if (n := rule.min_labeled - arm.labeled) > 0
    ]
    if short:
        return "keep", (f"the test needs {' and '.join(short)}",)
    if test is None or a.scores is None or b.scores is None:
        return "keep", ("both arms were right (or wrong) every time: nothing tells them apart",)
    delta = b.scores.accuracy - a.scores.accuracy
    seen = (
        f"accuracy {a.scores.accuracy:.3f} (A, version {a.version}) against "
        f"{b.scores.accuracy:.3f} (B, version {b.version}), chi-square p = {test.p_value:.3g}"
    )
    if test.p_value >= rule.alpha:
        return "keep", (f"{seen}: not below {rule.alpha}, the difference may be chance",)
    if delta < 0:
        return "reject", (f"{seen}: B is worse",)
    if delta < rule.min_delta_accuracy:
        return "keep", (f"{seen}: B leads by less than {rule.min_delta_accuracy}",)
    return "promote", (f"{seen}: B is better",)


def _broken(labeled: pd.DataFrame, a: Arm, b: Arm, promise: Share, rule: EvaluationRule) -> bool:
    """Tell whether B is behind A, and significantly worse than promised: the world it learnt is gone.

    Such an experiment would end without a verdict, and keep the next challenger waiting until then.
    """
    if a.scores is None or b.scores is None or b.scores.accuracy > a.scores.accuracy:
        return False
    mine = labeled[labeled["variant"] == "B"]
    kept = share_of_answers(units(mine), mine["label"] == mine["prediction"])
    return worse_share(kept, promise) < rule.promise_alpha


def _arm(rows: pd.DataFrame, labeled: pd.DataFrame, version: str) -> Arm:
    truth, answers = labeled["label"].tolist(), labeled["prediction"].tolist()
    correct = sum(t == p for t, p in zip(truth, answers, strict=True))
    return Arm(
        version=version,
        rows=len(rows),
        errors=int((rows["status"] != 200).sum()),
        users=int(units(rows).nunique()),
        labeled=len(labeled),
        correct=correct,
        accuracy_interval=accuracy_interval(correct, len(labeled)),
        scores=Scores.of(truth, answers),
    )


def _allocations(rows: pd.DataFrame) -> tuple[list[Allocation], int]:
    """Count distinct users per arm and split, and those that met both arms under one split.

    A user counts once, under the first split they met: their bucket stays, so what later splits make of them is no
    new evidence of how the split works.
    """
    seen = pd.DataFrame({"split": rows["ab_split_b"], "variant": rows["variant"], "unit": units(rows)})
    met = seen.drop_duplicates()
    both = int((met.groupby(["split", "unit"]).size() > 1).sum())
    first = met.drop_duplicates("unit")
    counts = first.groupby(["split", "variant"]).size().unstack(fill_value=0).reindex(columns=["A", "B"], fill_value=0)
    return [Allocation(float(str(split)), int(row["A"]), int(row["B"])) for split, row in counts.iterrows()], both
