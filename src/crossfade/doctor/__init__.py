"""What is wrong with an installation, running or stopped: each check looks, and nothing is changed.

finding.py (what a check says), examine.py (all of them, each within its time), command.py (`crossfade doctor`); and the
checks: machine.py (libraries and packages), space.py (disks), services.py (who answers on which port), locks.py (held
by whom), schemas.py (written by which version), models.py (what the aliases stand on), router.py (does it serve that),
rows.py (the log's rows), clocks.py, access.py (who may come in), dag.py (Airflow).
"""
