"""The assembled product: configuration, HTTP service, recommendation, training and the demo."""
