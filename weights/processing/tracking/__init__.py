"""Processing around the networks of trackers: crops, anchors, targets, and the loops over frames."""
