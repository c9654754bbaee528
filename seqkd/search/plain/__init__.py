"""The search engine in plain torch: one step of each architecture that decodes left to right."""
