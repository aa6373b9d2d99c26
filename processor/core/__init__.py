"""The core: takes values and returns values.

No module in here does I/O, reads a clock, or knows files or SQL. Import-linter checks it.
"""
