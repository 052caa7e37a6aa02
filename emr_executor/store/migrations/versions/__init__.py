"""The revisions. Each stands alone: none imports the schema, which goes on changing."""
