"""Is a checkpoint usable, and is the model loaded from it unchanged? Every answer is computed here and now."""
