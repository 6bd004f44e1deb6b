"""Stands in for Pulumi's Kubernetes provider on machines that can't download it.

Written to the observable behaviour of pulumi-kubernetes 4.34: the same names, annotations, replacements, await rules
and state, so that a stack can go from one to the other. What it deliberately leaves out (Helm, Kustomize, YAML v2
components, YAML rendering, client-side apply, List) is refused with a message that says so.
"""
