"""KServe: runtimes, InferenceServices, and the routes to them."""
