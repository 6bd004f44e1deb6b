"""The embedded default for the `local` stack: a single-node Kubernetes with KServe, a gateway, an S3 and a Hub endpoint, on this machine."""
