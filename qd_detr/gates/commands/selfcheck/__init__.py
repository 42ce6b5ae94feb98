"""The toolkit checks itself, on a model and data that it makes for the purpose."""
