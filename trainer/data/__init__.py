"""The loader: worker processes without torch (`worker`, `ring`), batches with (`loader`, `batch`)."""
