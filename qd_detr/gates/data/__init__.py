"""The data side: annotations, feature files, batches. Only `batches` imports torch."""
