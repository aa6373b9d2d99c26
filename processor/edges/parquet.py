"""Writes rows as Parquet: DuckDB does, from a CSV file, in memory that does not grow with them."""

import importlib
from collections.abc import Mapping
from pathlib import Path

from processor.errors import ProcessorError, SettingsError


def must_be_installed() -> None:
    """See that Parquet can be written.

    Raises:
        SettingsError: DuckDB is not installed.

    """
    try:
        importlib.import_module("duckdb")
    except ImportError as error:
        raise SettingsError(
            "--format parquet: DuckDB is not installed: install duckdb, which is the extra `duckdb`"
        ) from error


def write_parquet(csv: Path, columns: Mapping[str, str], parquet: Path) -> None:
    """Write a CSV file with a header as Parquet; `columns` have the DuckDB type of each.

    Raises:
        SettingsError: DuckDB is not installed.
        ProcessorError: DuckDB cannot write it, for want of room most likely.

    """
    must_be_installed()
    duckdb = importlib.import_module("duckdb")
    settings = {"autoinstall_known_extensions": False, "threads": 1}
    try:
        with duckdb.connect(":memory:", config=settings) as database:
            read = database.read_csv(str(csv), header=True, columns=dict(columns))
            read.write_parquet(str(parquet), compression="zstd")
    except duckdb.Error as error:
        raise ProcessorError(
            f"{parquet}: DuckDB cannot write it: {type(error).__name__}. See that there is room"
        ) from error
