"""What benchmarks/serving.py measures, and how."""
