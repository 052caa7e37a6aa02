"""DECIDES. Pure values and functions: no I/O, no clock, no randomness, no Airflow, no boto, no SQL."""
