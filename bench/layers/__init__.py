"""One layer alone, timed by pytest-benchmark: ``pytest bench/layers -k lstm``."""
