"""Crossfade: A/B deployment of tabular classifiers. Start reading here, then follow the numbers.

::

    serving loop (online, src/app.py)                     learning loop (offline, src/pipeline.py, run by Airflow)

    request                                               check_drift ── drift? ──► retrain ──► register `staging`
      │ 1 split    serving/split.py                           ▲  4                     5              6 │
      │ 2 predict  serving/deployment.py                      │                                         ▼
      │ 3 log      requestlog.py                              │           ab_evaluate_and_promote: move `prod`
      ▼                                                       │              7 evaluate   8 promote     │
    answer ─────────► REQUEST LOG ────────────────────────────┘                                         │
      ▲                                                                                                 ▼
      └──── 9 hot swap  serving/reload.py ◄───────────── MODEL REGISTRY (registry.py, MLflow aliases) ◄─┘

The loops meet in two places only, the request log (with the rows that were ingested beside it, featurestore.py) and the
registry; `serving` and `loop` never import each other.

1. serving/split.py        which arm answers: user -> A or B, a pure, seeded hash
2. serving/deployment.py   who serves: an immutable picture of the aliases; serving/predictor.py uses it for one request
3. requestlog.py           one row per answer, written before the answer leaves; late labels are joined at reading
4. loop/drift.py           live traffic against what prod's version learnt, loop/quality.py its answers against their
                           labels; loop/policy.py decides what follows
5. loop/retrain.py         a challenger by AutoML (loop/automl.py), held against prod (loop/champion.py)
6. registry.py             versions, tags, aliases; moves only what is still where it was seen
7. loop/evaluate.py        which arm is better, and is the evidence good enough: loop/gates.py (three tests),
                           loop/pairing.py (both versions on the same rows), loop/guardrails.py; loop/ramp.py raises
                           B's share meanwhile
8. loop/promote.py         move the aliases; roll back. loop/watch.py looks at what was promoted, loop/audit.py keeps
                           every look and move (loop/moves.py), loop/recovery.py takes up what a killed run left
9. serving/reload.py       follow the aliases without interrupting a request

loop/steps.py runs 4 to 8 in the DAG's order on one installation (loop/installation.py); replay/ plays a table's history
through 1 to 9; planning/ says what an experiment needs, and simulates some through 7.

Around them: settings.py (every knob), errors.py, experiment.py (its name), schema.py (features and labels from
outside), signature.py (the schema in MLflow), model.py (what answers), version.py (a registered one), mlflowserver.py
(the registry as a router asks it), serving/catalog.py (what it may serve), data.py (tables), files.py (put in place
in one step), appendonly.py and csvslices.py (those under the log, written and read; appendfile.py and csvrows.py are
one file and its lines), logrotation.py, logpacking.py and logparts.py (its older rows), forgivinglog.py (answers that
may leave without it), logreader.py (the log joined with late labels), memorylog.py, unpack.py (features out of it),
ingested.py, featurestore.py and database.py (rows from elsewhere, in SQL), stats/ (pure statistics), engine/
(threads, Dask or Spark, where slices of the log are counted), page.py (pages for people), loop/reference.py (what
drift is measured against), loop/incumbent.py (what prod learnt), loop/live.py and loop/window.py (what the log says
now), loop/check.py (one look at both), loop/trend.py and loop/driftpage.py (its story), loop/holdout.py (which rows
learn and which judge), loop/tracking.py (MLflow runs), loop/plots.py, loop/reports.py (report files),
loop/evidence.py (what every step leaves in both), loop/router.py (the router, as the loop calls it),
serving/messages.py (bodies), serving/config.py (the split in force),
serving/context.py, failures.py and web.py (HTTP; serving/hotpath.py answers /predict in front of it),
serving/scoring.py (MLflow's protocol) and inference.py (the Open Inference Protocol) in front of the same predictor,
serving/metrics.py and tally.py (numbers over all workers), serving/monitor.py (the newest rows), serving/apidocs.py,
operations.py and answers.py (the API, described), serving/ingest.py, ingestor.py, intake.py and labeledrow.py
(labelled rows on their way in), compiled/ (models in the form that answers fastest), modelcache.py (copies of them,
for when MLflow is down), logformat.py (how log lines look), stack/ (start, stop and drive the services;
stack/servicelog.py keeps what they print), serving/gunicornworker.py, arrival.py and siblings.py (how gunicorn's
workers receive requests, and share connections out), dashboard/ (the page for people, with a map of its own), cli.py.

Importing a module does nothing: no folder made, no client, no thread.
"""

__version__ = "0.1.0"
