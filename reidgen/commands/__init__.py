"""The commands: each parses, calls one function and prints. Nothing else prints; torch is imported
where it is needed.
"""
