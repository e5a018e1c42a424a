"""7. Evaluation: which arm is better, and is the evidence good enough to move `prod`?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from crossfade.experiment import experiment_id
from crossfade.logreader import LogContents, units, where
from crossfade.loop.champion import Scores
from crossfade.loop.gates import Gate, GateName, ask_gates
from crossfade.loop.guardrails import Guardrail, look
from crossfade.loop.quality import share_of_answers
from crossfade.stats.arms import Stratum
from crossfade.stats.proportions import (
    Allocation,
    ChiSquare,
    SampleRatio,
    Share,
    accuracy_interval,
    sample_ratio,
    worse_share,
)

if TYPE_CHECKING:
    from crossfade.loop.pairing import Pairs
    from crossfade.settings import Settings

Verdict = Literal["promote", "keep", "reject", "invalid"]

_FEW_USERS = 50


@dataclass(frozen=True)
class EvaluationRule:
    """When B's lead counts."""

    test: GateName = "chi2"
    """The gate that decides."""
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
    one_per_user: bool = False
    """Only the first labelled row of each user counts."""
    max_recall_drop: float = 0.05
    """Recall that a class may lose, unless A had it by over-answering."""

    @classmethod
    def of(cls, settings: Settings) -> EvaluationRule:
        """Take the rule from the settings."""
        return cls(
            test=settings.ab_test,
            alpha=settings.ab_alpha,
            min_labeled=settings.ab_min_labeled,
            min_delta_accuracy=settings.ab_min_delta_acc,
            max_days=settings.ab_max_days,
            max_labeled=settings.ab_max_labeled,
            promise_alpha=settings.drift_alpha,
            one_per_user=settings.ab_one_per_user,
            max_recall_drop=settings.gate_max_recall_drop,
        )

    def spent(self, days: float, fewest: int) -> bool:
        """Tell whether an experiment without a verdict is given up, after so many days and labelled rows per arm."""
        return fewest >= self.max_labeled or (days >= self.max_days and fewest >= self.min_labeled)


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
    accuracy_variance: float | None
    """Clustered by user; None without labels."""
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
    """Over the strata; None when nothing can be told apart."""
    strata: tuple[Stratum, ...]
    """Labelled rows per split that was in force."""
    gates: dict[GateName, Gate]
    """What each gate says; empty without an experiment."""
    guardrails: tuple[Guardrail, ...]
    """What else was looked at; empty before both arms have rows."""
    sample_ratio: SampleRatio | None
    """None without users."""
    users_in_both: int
    """Users that both arms answered under one split: should be 0."""
    pairs: Pairs | None
    """How both versions answer the labelled rows; None where one cannot be loaded."""
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
            "p_value_anytime": self.gates["anytime"].p_value if self.gates else None,
            "p_value_paired": self.gates["paired"].p_value if self.gates else None,
            "delta_accuracy": self.delta_accuracy,
            "gates": {name: asdict(gate) for name, gate in self.gates.items()},
            "guardrails": [asdict(guardrail) for guardrail in self.guardrails],
            "strata": [asdict(stratum) for stratum in self.strata],
            "arms": {variant: asdict(arm) for variant, arm in self.arms.items()},
            "sample_ratio": self.sample_ratio and {**asdict(self.sample_ratio), "mismatch": self.sample_ratio.mismatch},
            "users_in_both": self.users_in_both,
            "pairs": self.pairs and asdict(self.pairs),
            "log_lines_set_aside": self.set_aside,
        }


def evaluate(
    contents: LogContents,
    experiment: Experiment | None,
    rule: EvaluationRule,
    promise: Share | None = None,
    pairs: Pairs | None = None,
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
    pairs : Pairs or None
        How both versions answer the labelled rows; None when that is not known.
    """
    if experiment is None:
        reason = "no experiment is open: staging is unset, or the same version as prod"
        return Evaluation("keep", (reason,), None, rule, {}, None, (), {}, (), None, 0, None, contents.set_aside)
    contents = contents.of_experiment(experiment.id)
    rows = contents.rows[["variant", "ab_split_b", "status", "latency_ms", "label", "prediction"]].assign(
        unit=units(contents.rows),
        minute=contents.rows["ts_utc"].dt.floor("min"),
        correct=contents.rows["label"] == contents.rows["prediction"],
        known=contents.known(),
    )
    if rule.one_per_user:
        rows.loc[rows["known"], "known"] = ~rows.loc[rows["known"], "unit"].duplicated()
    labeled = where(rows, rows["known"])
    of_arm = {variant: rows[rows["variant"] == variant] for variant in "AB"}
    versions = {"A": experiment.version_a, "B": experiment.version_b}
    arms = {variant: _arm(of_arm[variant], version) for variant, version in versions.items()}
    allocations, both = _allocations(rows)
    found = Evaluation(
        "keep",
        (),
        experiment,
        rule,
        arms,
        *ask_gates(
            labeled["ab_split_b"].to_numpy(),
            (labeled["variant"] == "B").to_numpy(),
            labeled["correct"].to_numpy(),
            labeled["unit"].to_numpy(),
            pairs,
            rule.alpha,
        ),
        tuple(look(of_arm, {variant: arm.scores for variant, arm in arms.items()}, rule.max_recall_drop)),
        sample_ratio(allocations),
        both,
        pairs,
        contents.set_aside,
    )
    times = contents.rows["ts_utc"]
    days = (times.max() - times.min()) / pd.Timedelta(days=1) if len(rows) else 0.0
    verdict, reasons = judge(found)
    fewest = min(arm.labeled for arm in arms.values())
    if verdict == "keep" and fewest >= rule.min_labeled and promise and _broken(arms, promise, rule):
        verdict, reasons = "reject", (*reasons, f"B is not ahead, nor what its held-out {promise.value:.3f} promised")
    elif verdict == "keep" and (rule.spent(days, fewest) or (days >= rule.max_days and _is_out(rows))):
        spent = f"{days:.1f} days of traffic and {fewest} labelled rows per arm"
        verdict, reasons = "reject", (*reasons, f"inconclusive after {spent}")
    return replace(found, verdict=verdict, reasons=(*reasons, *_remarks(found)))


def judge(found: Evaluation) -> tuple[Verdict, tuple[str, ...]]:
    """Draw the verdict from what was found, with its reasons; time is not looked at."""
    rule, ratio = found.rule, found.sample_ratio
    if ratio is not None and ratio.mismatch:
        shares = f"B has {ratio.observed_b} users where {ratio.expected_b:.1f} were due (p = {ratio.p_value:.2g})"
        return "invalid", (f"the split is broken: {shares}; find out why before trusting any number here",)
    breached = [guardrail for guardrail in found.guardrails if guardrail.breached]
    if ending := [guardrail.reason for guardrail in breached if guardrail.ends]:
        return "reject", (f"B breaches a guardrail: {'; '.join(ending)}",)
    short = [
        f"{n} more labelled rows of {name}"
        for name, arm in found.arms.items()
        if (n := rule.min_labeled - arm.labeled) > 0
    ]
    if short:
        return "keep", (f"the test needs {' and '.join(short)}",)
    gate, a, b = found.gates[rule.test], found.arms["A"], found.arms["B"]
    seen = gate.reason
    if a.scores is not None and b.scores is not None:
        seen = (
            f"accuracy {a.scores.accuracy:.3f} (A, version {a.version}) against "
            f"{b.scores.accuracy:.3f} (B, version {b.version}), {gate.reason}"
        )
    if gate.says == "worse":
        return "reject", (seen,)
    if gate.says != "better" or gate.difference is None:
        return "keep", (seen,)
    if gate.difference < rule.min_delta_accuracy:
        return "keep", (seen, f"B leads by less than {rule.min_delta_accuracy}")
    if breached:
        return "keep", (seen, f"but not past a guardrail: {'; '.join(guardrail.reason for guardrail in breached)}")
    return "promote", (seen,)


def _remarks(found: Evaluation) -> list[str]:
    """Say what a reader of the numbers should know."""
    said = []
    if found.users_in_both:
        said.append(f"{found.users_in_both} users were answered by both arms under one split")
    few = [f"{arm.users} users in {name}" for name, arm in found.arms.items() if 0 < arm.users < _FEW_USERS]
    if few and any(arm.labeled >= _FEW_USERS for arm in found.arms.values()):
        said.append(f"only {' and '.join(few)}: variances clustered by fewer than {_FEW_USERS} users are rough")
    return said


def _is_out(rows: pd.DataFrame) -> bool:
    """Tell whether B has been taken out of traffic: no more of its labels will come."""
    return len(rows) > 0 and float(rows["ab_split_b"].iloc[-1]) == 0


def _broken(arms: dict[str, Arm], promise: Share, rule: EvaluationRule) -> bool:
    """Tell whether B is behind A, and significantly worse than promised: the world it learnt is gone.

    Such an experiment would end without a verdict, and keep the next challenger waiting until then.
    """
    a, b, variance = arms["A"].scores, arms["B"].scores, arms["B"].accuracy_variance
    if a is None or b is None or variance is None or b.accuracy > a.accuracy:
        return False
    return worse_share(Share(b.accuracy, variance), promise) < rule.promise_alpha


def _arm(rows: pd.DataFrame, version: str) -> Arm:
    labeled = where(rows, rows["known"])
    correct = int(labeled["correct"].sum())
    return Arm(
        version=version,
        rows=len(rows),
        errors=int((rows["status"] != 200).sum()),
        users=int(rows["unit"].nunique()),
        labeled=len(labeled),
        correct=correct,
        accuracy_interval=accuracy_interval(correct, len(labeled)),
        accuracy_variance=share_of_answers(labeled["unit"], labeled["correct"]).variance if len(labeled) else None,
        scores=Scores.of(labeled["label"], labeled["prediction"]),
    )


def _allocations(rows: pd.DataFrame) -> tuple[list[Allocation], int]:
    """Count distinct users per arm and split, and those that met both arms under one split.

    A user counts once, under the first split they met: their bucket stays, so what later splits make of them is no
    new evidence of how the split works.
    """
    seen = pd.DataFrame({"split": rows["ab_split_b"], "is_b": rows["variant"] == "B", "unit": rows["unit"]})
    met = seen.drop_duplicates()
    both = int(met.duplicated(["split", "unit"]).sum())
    first = met.drop_duplicates("unit")
    counts = first.groupby("split")["is_b"].agg(["size", "sum"])
    return [
        Allocation(float(str(split)), int(row["size"] - row["sum"]), int(row["sum"]))
        for split, row in counts.iterrows()
    ], both
