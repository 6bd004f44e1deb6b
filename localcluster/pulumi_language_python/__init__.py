"""Stands in for Pulumi's own Python language host on machines without the official Pulumi bundle.

It deliberately runs programs and installs their dependencies, nothing more: no code generation, packing, linking,
plugins written in Python or debugger. Each of those answers with a message that says to install the official bundle.
"""
