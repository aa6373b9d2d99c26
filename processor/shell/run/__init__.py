"""What folds logs into a report: the loop of a run, its batches, workers and snapshots."""
