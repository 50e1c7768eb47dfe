"""Pictures of what a data set holds: frames, flow fields and statistics labels, put together by `vidprep.preview`."""
