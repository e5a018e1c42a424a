"""The dashboard: one page that says who serves whom, whether the data drift, which arm is better, and what was decided.

Three layers, each knowing only the ones before it:

* the model, plain values that are tested without a browser. Rows: answers.py (a row in 30 bytes), logtail.py (the log,
  followed), traffic.py and accuracy.py (counted). Files: reportfiles.py, and of those drift.py, experiment.py and
  history.py. Neighbours: neighbours.py (the router, MLflow, Airflow, asked over HTTP), distribution.py (live rows on
  what prod learnt). lookout.py has each looked at by a thread of its own, watch.py holds them all;
* the view, panels/: what the model looks like, as components and figures;
* the server: app.py puts it together, callbacks.py answers the page with what board.py draws, door.py says who may
  look and who may act, controls.py acts.

It reads through the package's own readers only, imports nothing of `serving`, and talks to the router over HTTP like
everyone else.
"""
