"""CALLS AWS. The only folder that imports aiobotocore."""
