"""The live view in OpenSearch: index template and dashboard, as files that its API imports."""
