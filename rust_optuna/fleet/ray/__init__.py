"""Workers that Ray places on the nodes of a cluster."""
