"""How often each gate promotes a model that is no better, and how soon one that is: simulated, judged for real.

    .venv/bin/python benchmarks/decision.py [--experiments 5000] [--processes 2] [--json]

An experiment has 200 labelled rows per arm a day, accuracy .90, and is looked at daily by the production functions
(the gates, the judgement and the sample ratio), with the default settings but no limit of time or size:

- the same model twice, for 30 days: `anytime` and `paired` may promote in at most 5 % (upper 95 % bound); `chi2`, which
  is made for one look, is reported;
- the same with 20 requests per user, right or wrong with an intra-class correlation of .1: `anytime` likewise; so too
  where one model suits some users and the other the others, though both are right equally often (`paired` takes rows
  for independent, and is reported);
- B = .93 against .90, both right or both wrong on 95 % of the rows: median day of promotion at most 2 (`paired`) and 8
  (`anytime`);
- the same model twice while the split is raised (.05, .2, .5, five days each) and the accuracy of both falls from .90
  to .10: at most 5 % promoted by `anytime` and `paired` looked at daily, and by `chi2` looked at once, at the end.
  Thrown together without strata, the rows would show a difference that is not there;
- B = .93, on 45 % of the users where the log says 50 %: `invalid` from the first day with enough users for the test.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from crossfade.loop.evaluate import EvaluationRule
from crossfade.loop.gates import GateName
from crossfade.planning.simulate import GATES, Endings, Traffic, simulate

RULE = EvaluationRule(max_days=inf, max_labeled=10**9)
SAME = Traffic(rows_per_day=400, days=30, accuracy=0.9)
CLUSTERED = replace(SAME, rows_per_user=20, icc=0.1)
BETTER = replace(SAME, difference=0.03)
RAMPED = replace(SAME, days=15, ramp=(0.05,) * 5 + (0.2,) * 5 + (0.5,) * 5, last_accuracy=0.1)
BROKEN = replace(BETTER, rows_per_day=20_000, days=3, true_split=0.45)

MOST_PROMOTED, MEDIAN_DAYS = 0.05, {"paired": 2, "anytime": 8}


@dataclass(frozen=True)
class Case:
    """One line of the table, per gate."""

    name: str
    traffic: Traffic
    part: float
    """Of the experiments that were asked for."""
    promises: tuple[GateName, ...]
    """Gates that are held to the promise."""
    looks: tuple[int, ...] = ()
    median: bool = False
    """The promise is the median day, and not the share promoted."""

    def kept(self, gate: GateName, found: Endings) -> bool:
        """Tell whether the promise is kept."""
        if gate not in self.promises:
            return True
        if self.traffic.true_split is not None:
            return all(ending.verdict == "invalid" for ending in found.endings)
        if self.median:
            return found.until_promoted(0.5)[0] <= MEDIAN_DAYS[gate]
        return found.share()[2] <= MOST_PROMOTED


CASES = (
    Case("same model", SAME, 1, ("anytime", "paired")),
    Case("same model, 20 requests per user over a week", CLUSTERED, 0.3, ("anytime", "paired")),
    Case("same model, 20 requests per user on one day", replace(CLUSTERED, stay_days=1), 0.2, ("anytime", "paired")),
    Case("same accuracy, each user is suited by one model", replace(CLUSTERED, taste=0.9), 0.1, ("anytime", "paired")),
    Case("B three points better", BETTER, 0.2, ("anytime", "paired"), median=True),
    Case("same model, ramp while both decay", RAMPED, 0.3, ("anytime", "paired")),
    Case("same model, ramp while both decay, one look", RAMPED, 0.3, GATES, looks=(15,)),
    Case("split 50/50 logged, 45/55 real", BROKEN, 0.02, GATES),
)


def main() -> None:
    """Simulate every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=5_000, help="of the first case; the others get a part of it")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="close with one line of JSON")
    arguments = parser.parse_args()
    print("| case | gate | experiments | promoted (95 % interval) | median day (95 % interval) | invalid | promise |")
    print("|---|---|---|---|---|---|---|")
    ok, started = True, time.monotonic()
    figures: dict[str, dict[str, Any]] = {}
    for case in CASES:
        count = max(50, round(arguments.experiments * case.part))
        endings = simulate(case.traffic, RULE, count, processes=arguments.processes, looks=case.looks)
        for gate, found in endings.items():
            kept = case.kept(gate, found)
            ok &= kept
            figures[f"{case.name}/{gate}"] = _figures(found)
            promise = ("kept" if kept else "not shown") if gate in case.promises else ""
            print(f"| {case.name} | {gate} | {count:,} | {_told(found)} | {promise} |", flush=True)
    seconds = round(time.monotonic() - started)
    print(f"\n{seconds} s")
    if arguments.json:
        print(json.dumps({"ok": ok, "seconds": seconds, "figures": figures}))


def _told(found: Endings) -> str:
    share, low, high = found.share()
    days = [f"{day:.0f}" if day < inf else "never" for day in found.until_promoted(0.5)]
    return (
        f"{share:.2%} ({low:.2%} to {high:.2%}) | {days[0]} ({days[1]} to {days[2]}) | {found.share('invalid')[0]:.1%}"
    )


def _figures(found: Endings) -> dict[str, Any]:
    share, low, high = found.share()
    day = found.until_promoted(0.5)[0]
    return {
        "experiments": len(found.endings),
        "promoted": share,
        "promoted_interval": [low, high],
        "median_day": day if day < inf else None,
        "invalid": found.share("invalid")[0],
    }


if __name__ == "__main__":
    main()
