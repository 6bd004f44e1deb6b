"""The embedded default for the `local` stack: Kubernetes on one node, KServe, a gateway, S3, GCS and Hub endpoints."""
