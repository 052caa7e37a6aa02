"""The commands under ``airflow emr``."""
