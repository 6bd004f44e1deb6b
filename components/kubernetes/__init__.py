"""What every Kubernetes cluster has: the provider, the models' namespace, its credentials, the work volume, Jobs."""
