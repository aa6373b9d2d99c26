"""The same table from Apache Spark, for logs that one machine cannot get through.

The contract, the rule of the watermark and the store are those of the rest of the package; what is
counted is said once more, as relational expressions that Spark plans (`definitions`). Nothing else
of the package knows this folder, but for the command line, which mounts `commands`.

Which code runs where: `lines` and `lateness` hold functions that run in the executors; all else
runs in the driver, which alone knows Postgres.
"""
