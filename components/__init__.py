"""Pulumi components. Each wires pure builders, which tests call without an engine, to resources; none knows a recipe's flags."""
