"""Delays of all months: spark-submit jobs/merge_months.py MONTH_FOLDERS OUTPUT_FOLDER.

Adds up what ``delays_of_month.py`` wrote (MONTH_FOLDERS may hold a ``*``) and writes JSON lines, the route
with the largest mean delay first.
"""

from __future__ import annotations

import sys

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

SUMS = ("flights", "arrived", "delay_min", "wet_arrived", "wet_delay_min")


def merged(months: DataFrame) -> DataFrame:
    """One row for each carrier and route of the year, and its mean delay in minutes."""
    routes = months.groupBy("carrier", "origin", "dest").agg(*(f.sum(name).alias(name) for name in SUMS))
    arrived = f.nullif(f.col("arrived"), f.lit(0))
    return routes.withColumn("mean_min", f.round(f.col("delay_min") / arrived, 1))


def main(source: str, target: str) -> None:
    """Run the job."""
    with SparkSession.builder.appName("delays of all months").getOrCreate() as spark:
        spark.sparkContext.setLogLevel("WARN")
        routes = merged(spark.read.parquet(source)).orderBy(
            f.desc_nulls_last("mean_min"), "carrier", "origin", "dest"
        )
        routes.coalesce(1).write.mode("overwrite").json(target)
        print(f"delays by carrier and route are in {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
