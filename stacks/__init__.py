"""Stack files, the settings model that they are checked against, and what can be asked of them without an engine."""
