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

Around them::

    what everybody uses
        settings.py                                    every knob
        errors.py, files.py, experiment.py, version.py what can go wrong; files put in place in one step; names of an
                                                       experiment and of a registered version
        logformat.py, page.py, mlflowpages.py          log lines, pages for people, addresses of MLflow's pages
    rows and models
        data.py, schema.py, signature.py, unpack.py    tables; features and labels from outside; the schema in MLflow;
                                                       features out of the log
        featurestore.py, database.py, ingested.py      labelled rows from elsewhere, in SQL
        manyrows.py, model.py, modelcache.py           many rows at once; what answers; copies for when MLflow is down
        mlflowserver.py                                the registry as a router asks it
        compiled/                                      models in the form that answers fastest
    the log, behind requestlog.py
        openlog.py                                     the one that the settings name
        appendonly.py, appendfile.py, logbatch.py      files, written
        csvslices.py, csvrows.py, logparts.py          files, read
        csvline.py                                     a line of them
        logrotation.py, logpacking.py, logversion.py   a day's file becomes Parquet; which Crossfade wrote it
        forgivinglog.py, memorylog.py                  answers may leave without it; one for tests and replays
        logreader.py, logchoice.py, newestrows.py      read, late labels joined; which rows; its end, for a router
        postgres/                                      the log of several machines, with a map of its own
    serving/, beside 1, 2 and 9
        messages.py, labeledrow.py                     bodies
        predictor.py, requestids.py, hotpath.py        one request; its name; /predict, answered in front of Flask
        leader.py                                      one thread of a worker answers, the others stand by
        web.py, context.py, failures.py                HTTP
        scoring.py, inference.py                       MLflow's protocol, the Open Inference Protocol
        catalog.py, config.py, replicas.py             what may be served; the split in force, for one and several
        ingest.py, ingestor.py, intake.py              labelled rows on their way in
        metrics.py, tally.py, exposition.py            numbers over all workers, for Prometheus
        monitor.py, tracing.py                         the newest rows; spans for OpenTelemetry
        apidocs.py, operations.py, answers.py          the API, described
        gunicornworker.py, arrival.py, siblings.py     how gunicorn's workers receive requests and share connections out
    loop/, beside 4 to 8
        steps.py, installation.py                      4 to 8 in the DAG's order, on one installation
        reference.py, incumbent.py                     what drift is measured against, what prod learnt
        live.py, window.py, holdout.py                 what the log says now; which rows learn and which judge
        check.py, trend.py, driftpage.py               one look at drift, and its story
        tracking.py, inputs.py, notes.py, plots.py     MLflow runs, the rows they saw, what their pages tell people
        evidence.py, looks.py, reports.py              what every step leaves
        openaudit.py, auditdatabase.py                 the audit where the log is
        router.py                                      the router, as the loop calls it
    stats/                                             pure statistics
    engine/                                            threads, Dask or Spark, where slices of the log are counted
    replay/, planning/                                 a table's history through 1 to 9; what an experiment needs
    stack/                                             start, stop and drive the services, keep what they print
    dashboard/                                         the page for people, with a map of its own
    doctor/, backup/                                   what is wrong with an installation; save and restore one
    cli.py                                             the command line

Importing a module does nothing: no folder made, no client, no thread.
"""

__version__ = "0.1.0"
