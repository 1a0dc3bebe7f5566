"""A published model as manifests: the YAML files of `templates/`, filled in for Kubernetes, KServe and Helm."""
