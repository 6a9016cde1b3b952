"""What is measured of flows; the same code for truth and sample."""
