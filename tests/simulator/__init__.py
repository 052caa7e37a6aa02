"""The production agent, core and store code in virtual time, between models of EMR and Airflow that fail."""
