"""PRETENDS TO BE EMR, for development and tests: the emr-local endpoint."""
