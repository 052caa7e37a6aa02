"""RUNS USER CODE, in short-lived forked processes. The only folder that imports the Airflow Task SDK."""
