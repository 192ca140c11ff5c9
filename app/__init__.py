"""The web app: what the store knows, for people. It asks `pipeline.api` and shows the answer."""
