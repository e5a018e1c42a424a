"""The services of one machine: start, watch and stop them; talk to Airflow; send traffic; tell the demo's story."""
