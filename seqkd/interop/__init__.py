"""Import, export and use of models of other toolkits."""
