"""Commands that read folders and texts: inspect, verify, translate, score."""
