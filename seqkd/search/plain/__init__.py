"""The search engine in plain torch: the step of each architecture that decodes left to right."""
