"""The embedded default for the `local` stack: Kubernetes on one node, KServe, a gateway, an S3 and a Hub endpoint."""
