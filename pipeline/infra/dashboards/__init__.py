"""The index template and the dashboard of the live view, as files for the API of OpenSearch."""
